"""The commands as a user runs them, on tiny shapes."""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import interconv_kernels as ik
from benchmarks import baselines, compare, measure, run, scaling, set_ops
from benchmarks.__main__ import COMMANDS
from benchmarks.results import read_results

ROOT = Path(__file__).parents[2]
EAGER = [name for name in baselines.DEFAULT_IMPLEMENTATIONS if name != "compiled-concat"]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )


def test_help_lists_every_command():
    helped = command("--help")
    assert helped.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in helped.stdout
    assert command().returncode == 2


def test_an_unknown_command():
    unknown = command("rum")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("unknown command 'rum'")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("predict", "machine-code", "native-code")])
def test_every_command_has_help(name):
    helped = command(name, "--help")
    assert helped.returncode == 0, helped.stderr
    assert "usage: " in helped.stdout


def test_a_prediction_is_labelled():
    pytest.importorskip("triton", reason="triton has no wheel for this platform")
    predicted = command("predict", "--gpu", "h100")
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.startswith("PREDICTED, not measured: H100")
    for heading in ("computed GFLOP", "MB", "roofline", "bound"):
        assert f"| {heading} " in predicted.stdout


def test_run_measures_the_smoke_suite(tmp_path):
    options = [
        "--suite",
        "smoke",
        "--directions",
        "fwd",
        "bwd",
        "both",
        "--repeats",
        "1",
        "--implementations",
        *EAGER,
        "ours-split",
    ]
    assert run.main([*options, "--out", str(tmp_path)]) == 0
    results = read_results(tmp_path)
    rows = results.measurements
    assert len(compare.by_key(results)) == len(rows)
    assert len(rows) == (2 * 4 + 2 * 5) * 2 * 3  # equal and ragged sets; memory formats; directions
    assert all(0 < row.p20 <= row.p50 <= row.p80 for row in rows)
    assert all(row.peak_bytes > 0 for row in rows)
    assert len(list(csv.DictReader((tmp_path / "results.csv").open()))) == len(rows)
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_run_fails_if_an_implementation_is_wrong(tmp_path, monkeypatch, capsys):
    right = baselines.eager_split
    monkeypatch.setattr(baselines, "eager_split", lambda *args, **options: right(*args, **options) + 0.01)
    options = [
        "--suite",
        "smoke",
        "--cases",
        "K2",
        "--repeats",
        "1",
        "--memory-formats",
        "contiguous",
        "--implementations",
        "ours",
        "eager-split",
    ]
    assert run.main([*options, "--out", str(tmp_path)]) == 1
    assert {row.implementation for row in read_results(tmp_path).measurements} == {"ours"}
    assert "contiguous, eager-split: y has a relative error of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--dtype", "tf32"], "is a precision of GPUs"),
        (["--cases", "no such layer"], "no case of suite 'paper' is selected; its cases are\n  simpleunet-60K"),
        (["--implementations", "best"], "invalid choice: 'best'"),
        pytest.param(
            ["--device", "cuda"],
            "torch finds no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_options_that_do_not_fit(options, expected, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(options)
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.fixture
def torchs_switches():
    """Restores torch's switches."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    yield
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


@pytest.mark.usefixtures("torchs_switches")
@pytest.mark.parametrize(("dtype", "expected"), [("tf32", True), ("float32", False), ("bfloat16", False)])
def test_the_precision_of_float32_on_a_gpu(dtype, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not expected
    parser = argparse.ArgumentParser()
    measure.add_options(parser)
    settings = measure.make_settings(parser, parser.parse_args(["--device", "cuda", "--dtype", dtype]))
    assert (torch.backends.cudnn.conv.fp32_precision == "tf32") is expected
    assert (torch.backends.cuda.matmul.fp32_precision == "tf32") is expected
    assert torch.backends.cudnn.benchmark
    assert settings.cuda_graphs
    assert settings.repeats == 50


def test_cases_are_selected_by_name_and_set_size():
    cases = run.SUITES["paper"]
    assert {case.layer.network for case in run.select(cases, "^nnunet.* k3 s2", None)} == {"nnunet-20M"}
    assert {case.lengths[0] for case in run.select(cases, "", [2, 8])} == {2, 8}
    assert len(run.select(cases, "", None)) == len(cases)
    assert run.select(run.SUITES["ragged"], "", [1, 8]) == [
        case for case in run.SUITES["ragged"] if set(case.lengths) == {1, 8}
    ]


def test_scaling(tmp_path):
    options = [
        "--channels",
        "4",
        "--side",
        "8",
        "--repeats",
        "1",
        "--memory-formats",
        "contiguous",
        "--directions",
        "fwd",
    ]
    assert scaling.main([*options, "--out", str(tmp_path)]) == 0
    slopes = list(csv.DictReader((tmp_path / "slopes.csv").open()))
    assert {row["sweep"] for row in slopes} == {sweep.title for sweep in scaling.make_sweeps(3, 4, 8)}
    assert {row["implementation"] for row in slopes} == set(scaling.KINDS)
    for row in csv.DictReader((tmp_path / "mixed-sizes.csv").open()):
        assert float(row["ratio"]) == pytest.approx(float(row["mixed"]) / float(row["equal"]))
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_slope_is_the_power_of_growth():
    curve = scaling.Curve("sweep", "fwd", "ours", [1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    assert curve.slope == pytest.approx(2)


def test_mixed_and_equal_sets_have_as_many_samples_and_sets():
    assert sum(scaling.MIXED) == sum(scaling.EQUAL)
    assert len(scaling.MIXED) == len(scaling.EQUAL)


@pytest.mark.skipif(ik.backends()["cpp"]["cpu"] != "ready", reason="there is no C++ extension")
def test_set_ops(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(set_ops, "LENGTHS", {"ragged": [1, 3, 2]})
    monkeypatch.setattr(set_ops, "SIZES", ((4, 6, 5),))
    set_ops.main(["--repeats", "1", "--out", str(tmp_path)])
    rows = read_results(tmp_path).measurements
    assert {row.case for row in rows} == {
        f"{operation} {dtype} ragged 4x6x5" for operation in ("mean", "add") for dtype in ("float32", "bfloat16")
    }
    moved = {row.implementation: row.details["bytes"] for row in rows if row.case == "mean float32 ragged 4x6x5"}
    assert moved["copy"] == (6 + 6) * 4 * 6 * 5 * 4  # samples read and written
    assert moved["ours"] == (6 + 3) * 4 * 6 * 5 * 4  # samples read, means written
    assert "add bfloat16 ragged 4x6x5" in capsys.readouterr().out


@pytest.mark.skipif(ik.backends()["cpp"]["cpu"] != "ready", reason="there is no C++ extension")
def test_set_ops_fails_if_implementations_differ(monkeypatch):
    def differing(u, sets):
        return set_ops.mean_implementations(u, sets) | {"loop of means": lambda: 1.001 * u[: len(sets)]}

    monkeypatch.setitem(set_ops.OPERATIONS, "mean", differing)
    with pytest.raises(ValueError, match=r"mean on small sets: loop of means has a relative error of"):
        set_ops.measure("mean", torch.float32, "small", (2, 3, 3), repeats=1)

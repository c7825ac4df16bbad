"""`python -m benchmarks ...` as a user runs it, on tiny shapes."""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measure, peers, run, scaling
from benchmarks.__main__ import COMMANDS
from benchmarks.results import read_results

ROOT = Path(__file__).parents[2]
EAGER = [name for name in peers.DEFAULT_FORMS if name != "compiled-concat"]


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
    assert unknown.stderr.startswith("'rum' is no command of the benchmarks")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("predict", "machine-code")])
def test_every_command_has_help(name):
    helped = command(name, "--help")
    assert helped.returncode == 0, helped.stderr
    assert "usage: " in helped.stdout


def test_a_prediction_is_labelled():
    pytest.importorskip("triton", reason="triton has no wheel for this platform")
    predicted = command("predict", "--gpu", "h100")
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.startswith("PREDICTED, not measured: H100")
    for heading in ("GFLOP", "MB", "floor", "bound"):
        assert f"| {heading} " in predicted.stdout


def test_run_measures_the_smoke_suite(tmp_path):
    options = [
        "--suite",
        "smoke",
        "--direction",
        "fwd",
        "bwd",
        "both",
        "--repeats",
        "1",
        "--forms",
        *EAGER,
        "ours-split",
    ]
    assert run.main([*options, "--out", str(tmp_path)]) == 0
    results = read_results(tmp_path)
    measured = {(row.case, row.layout, row.direction, row.form) for row in results.rows}
    assert len(measured) == len(results.rows) == (2 * 4 + 2 * 5) * 2 * 3  # equal sets, ragged ones; layouts; directions
    assert all(0 < row.p20 <= row.p50 <= row.p80 for row in results.rows)
    assert all(row.peak_bytes > 0 for row in results.rows)
    assert len(list(csv.DictReader((tmp_path / "results.csv").open()))) == len(results.rows)
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_run_fails_where_a_form_is_wrong(tmp_path, monkeypatch, capsys):
    right = peers.eager_split
    monkeypatch.setattr(peers, "eager_split", lambda *args, **options: right(*args, **options) + 0.01)
    options = [
        "--suite",
        "smoke",
        "--cases",
        "K2",
        "--repeats",
        "1",
        "--layouts",
        "NCHW",
        "--forms",
        "ours",
        "eager-split",
    ]
    assert run.main([*options, "--out", str(tmp_path)]) == 1
    assert {row.form for row in read_results(tmp_path).rows} == {"ours"}
    assert "NCHW, eager-split: y is wrong by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--dtype", "tf32"], "a precision of GPUs"),
        (["--cases", "no such layer"], "no case of suite 'paper' is left; it has\n  simpleunet-60K"),
        (["--forms", "best"], "invalid choice: 'best'"),
        pytest.param(
            ["--device", "cuda"],
            "torch sees no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_options_that_make_no_sense(options, expected, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(options)
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.fixture
def torchs_switches():
    """Put back as they were."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    yield
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


@pytest.mark.usefixtures("torchs_switches")
@pytest.mark.parametrize(("dtype", "expected"), [("tf32", True), ("float32", False), ("bfloat16", False)])
def test_float32_is_multiplied_as_asked_for_on_a_gpu(dtype, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not expected
    parser = argparse.ArgumentParser()
    measure.add_options(parser)
    settings = measure.prepare(parser, parser.parse_args(["--device", "cuda", "--dtype", dtype]))
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
    options = ["--channels", "4", "--side", "8", "--repeats", "1", "--layouts", "NCHW", "--direction", "fwd"]
    assert scaling.main([*options, "--out", str(tmp_path)]) == 0
    slopes = list(csv.DictReader((tmp_path / "slopes.csv").open()))
    assert {row["sweep"] for row in slopes} == {sweep.title for sweep in scaling.sweeps(3, 4, 8)}
    assert {row["form"] for row in slopes} == set(scaling.KINDS)
    for row in csv.DictReader((tmp_path / "mixes.csv").open()):
        assert float(row["ratio"]) == pytest.approx(float(row["mixed"]) / float(row["equal"]))
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_slope_is_the_power_of_growth():
    line = scaling.Line("sweep", "fwd", "ours", [1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    assert line.slope == pytest.approx(2)


def test_mixes_have_as_many_samples_and_sets_as_what_they_are_held_to():
    assert sum(scaling.MIXED) == sum(scaling.EQUAL)
    assert len(scaling.MIXED) == len(scaling.EQUAL)

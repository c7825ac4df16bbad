"""`python -m interconv_kernels.selftest`: it runs, a wrong kernel makes it fail, and it plans every tile of a GPU."""

import json
import re
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from interconv_kernels import _checks, selftest
from interconv_kernels._backends.cpp import set_ops as cpp_ops
from interconv_kernels._backends.torch import set_ops as torch_ops
from interconv_kernels._progress import Progress

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(_checks, "CASES", _checks.CASES[2:3] + _checks.CASES[5:6])
    monkeypatch.setattr(_checks, "DTYPES", (torch.float64, torch.float32, torch.bfloat16))


def test_all_right(small, capsys, tmp_path):
    assert selftest.main(["--device", "cpu", "--json", str(tmp_path / "results.json")]) == 0
    printed, progress = capsys.readouterr()
    [count, last] = printed.splitlines()[-1].split(" checks in ")
    assert last.endswith(": all passed")
    assert f"] {count}/{count}, about 0 s left: " in progress.splitlines()[-1]
    assert "| torch | split |  | float32 | " in printed
    assert "| torch |  | uncenter | bfloat16 | " in printed
    reason = "algorithm 'fused' cannot run here: backend 'torch' has no fused layer"
    assert f"| torch | fused |  | float64 |  |  |  |  | not run: {reason} |" in printed
    assert "backend triton 3." in printed
    assert "WRONG" not in printed
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {10}  # a Markdown table

    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["checks"]) == int(count) == len(rows) - 2
    assert results["environment"][0].startswith("torch 2.")
    assert {row["verdict"] for row in results["checks"]} == {"passed", f"not run: {reason}"} | {
        row["verdict"] for row in results["checks"] if "backend 'cpp'" in row["verdict"]
    }


@pytest.mark.parametrize("fault", [1.001, float("nan")])
def test_a_wrong_result_is_seen(small, monkeypatch, capsys, fault):
    for ops in (torch_ops, cpp_ops):
        real = ops.set_reduce
        monkeypatch.setattr(ops, "set_reduce", lambda *a, real=real, **k: real(*a, **k) * fault)
    assert selftest.main(["--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("are wrong or failed")
    for name in ("| torch | split |", "| torch |  | set_reduce |"):
        rows = [line for line in lines if line.startswith(name)]
        assert rows[:2] == [line for line in rows[:2] if line.endswith("| WRONG |")]


def test_an_error_is_a_result_and_the_rest_goes_on(small, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid | x\nmore")

    monkeypatch.setattr(torch_ops, "center", fail)
    assert selftest.main(["--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    verdict = "FAILED: RuntimeError: Triton Error [CUDA]: device kernel image is invalid / x"
    assert f"| torch |  | center | float32 |  |  |  |  | {verdict} |" in lines
    assert f"| torch | centered |  | float32 |  |  |  |  | {verdict} |" in lines
    assert any(line.startswith("| torch |  | uncenter | float32 | ") and "passed" in line for line in lines)


OPERATIONS = ("set_add", "concat_set_mean", "concat_set_mean_backward", "center", "uncenter")


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_wrong_set_operation_is_seen(monkeypatch, name):
    def wrong(*arguments, **options):
        result = real(*arguments, **options)
        return (result[0], result[1] * 1.001) if name == "center" else result * 1.001

    real = getattr(torch_ops, name)
    monkeypatch.setattr(torch_ops, name, wrong)
    assert not _checks.set_check("torch", name, torch.float32).run(CPU).passed


def test_quick_checks_the_default_of_each_backend():
    checks = list(selftest.run(CPU, quick=True))
    assert [check.backend for check in checks] == ["cpp", "torch"]
    assert all(check.algorithm == "auto" and check.dtype == torch.float32 and check.passed for check in checks)
    assert all(0 < check.error < 1e-5 and not check.skipped for check in checks)


# --- what a GPU is given ----------------------------------------------------------------------------------------------

CAPABILITIES = [(8, 0), (8, 6), (9, 0), (10, 0), (12, 0)]
META = torch.device("meta")


@pytest.fixture
def gpu(monkeypatch):
    """Sets the compute capability of a GPU that is not present, to which meta tensors belong."""
    pytest.importorskip("triton", reason="triton has no wheel for this platform")
    from interconv_kernels._backends.triton import TritonBackend

    monkeypatch.setattr(TritonBackend, "can_run", lambda self, device: None)

    def pretend(capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return TritonBackend().tunable(META)

    return pretend


def forced(check):
    [(_, name)] = check.tile
    return name, check.dtype, check.precision


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_tile_and_dtype_is_planned(gpu, capability):
    from interconv_kernels._backends.triton.configs import TILES

    expected = set()
    for tile in TILES:
        if tile.kernel == "conv_tma" and capability < (9, 0):
            continue
        if tile.bits == 16:
            expected |= {(tile.name, dtype, "ieee") for dtype in (torch.bfloat16, torch.float16)}
        else:
            precisions = ("tf32",) if tile.kernel in ("conv_tma", "conv_rows") else ("tf32", "ieee")
            expected |= {(tile.name, torch.float32, precision) for precision in precisions}
    checks = _checks.tile_checks("triton", gpu(capability), META)
    assert set(map(forced, checks)) == expected
    planned = {planned.check.title for planned in _checks.plan("triton", META)}
    assert {check.planned().check.title for check in checks} <= planned


def test_gpus_that_cannot_use_the_tiles_are_given_none(gpu):
    assert _checks.tile_checks("triton", gpu((7, 5)), META) == []


@contextmanager
def recorded():
    from triton.runtime import JITFunction

    launches = []
    with mock.patch.object(JITFunction, "run", lambda self, *a, **k: launches.append((self.__name__, k))):
        yield launches


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_a_planned_tile_is_the_one_that_is_launched(gpu, capability):
    from interconv_kernels._backends.triton.configs import TILES

    tiles = {tile.name: tile for tile in TILES}
    for check in _checks.tile_checks("triton", gpu(capability), META):
        with recorded() as launches:
            check.launching(META)()
        [(_, name)] = check.tile
        tile = tiles[name]
        options = [k for kernel, k in launches if kernel == f"{tile.kernel}_kernel"]
        assert len(options) >= 2, name  # two halves of grad_W, or forward and grad_u
        for k in options:
            assert (k["BN"], k["BK"], k["num_warps"], k["num_stages"]) == (tile.bn, tile.bk, tile.warps, tile.stages)
            assert k.get("BM", tile.bm) == tile.bm
            assert k.get("PRECISION", check.precision) == check.precision


def test_kernels_are_compiled_ahead_and_not_run(gpu, tmp_path, monkeypatch, capsys):
    """With Triton's own compiler, for a GPU that is not present."""
    from triton.runtime import JITFunction, driver

    from benchmarks.gpu import offline

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    gpu((8, 0))
    check = _checks.LayerCheck("triton", "fused", torch.bfloat16, _checks.CASES[1:2])
    real = JITFunction.run
    driver.set_active(offline._Driver(offline.CHIPS["sm_80"]))
    try:
        selftest._compile([check.planned()], META, Progress(1))
    finally:
        driver._active = None
    printed = capsys.readouterr().err
    assert "\ncompiling triton fused bfloat16\n" in printed
    compiled = int(re.search(r"(\d+) kernels compiled in", printed)[1])
    assert compiled >= 4  # the layer, grad_u, grad_W, and sums over sets
    assert JITFunction.run is real
    assert 1 <= len(list(tmp_path.rglob("*.cubin"))) <= compiled  # fewer if this process has compiled some before

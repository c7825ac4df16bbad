"""The selftest of backend "triton" in Triton's interpreter, with few and small layers."""

import pytest
import torch

from interconv_kernels import _checks, _set_checks, selftest
from interconv_kernels._backends.triton import conv_launch, fused, row_launch, set_ops

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """One layer for all algorithms, and one for the tiles of each kernel."""
    monkeypatch.setattr(_checks, "LENGTHS", [2, 0, 1])
    monkeypatch.setattr(_checks, "DTYPES", (torch.float32, torch.bfloat16))
    monkeypatch.setattr(_set_checks, "SIZE", (2, 3))
    layers = [_checks.Case(8, 8, kernel, 1, 1, (4, 5), torch.channels_last) for kernel in (3, 1)]
    monkeypatch.setattr(_checks, "CASES", layers[:1])
    monkeypatch.setattr(_checks, "TILE_CASES", layers)


def test_all_right(small, capsys):
    launched = set()
    real = conv_launch.tile_options

    def options(tile, x):
        launched.add((tile.name, x.dtype))
        return real(tile, x)

    def convolve_rows(*arguments):
        launched.add((arguments[-1].name, arguments[0].dtype))
        row_launch.convolve_rows(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv_launch, "tile_options", options)
        patch.setattr(fused, "convolve_rows", convolve_rows)
        assert selftest.main(["--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "WRONG" not in printed
    tiles = [check for check in _checks.tile_checks("triton", fused, CPU) if check.tile]
    assert {check.tile[0][1].split("-")[0] for check in tiles} >= {"conv", "conv_rows", "wgrad", "pointwise"}
    for check in tiles:
        assert (check.case, check.dtype) in launched
        assert f"| triton | fused | {check.case} | {str(check.dtype).removeprefix('torch.')} | " in printed
    assert "| torch " not in printed


@pytest.mark.parametrize("part", ["conv", "wgrad"])
def test_a_wrong_tile_is_seen_and_no_other(small, monkeypatch, part):
    tiles = [check for check in _checks.tile_checks("triton", fused, CPU) if check.tile[0][0] == part]
    wrong, right = [check for check in tiles if check.dtype == torch.bfloat16 and "pointwise" not in check.case][:2]
    real = {name: getattr(fused, name) for name in ("convolve", "wgrad")}

    def convolve(*arguments):
        real["convolve"](*arguments)
        if arguments[-1] is not None and arguments[-1].name == wrong.case:
            arguments[3].mul_(1.1)  # y

    def wgrad(*arguments):
        result = real["wgrad"](*arguments)
        return result * 1.1 if arguments[-1] is not None and arguments[-1].name == wrong.case else result

    monkeypatch.setattr(fused, "convolve", convolve)
    monkeypatch.setattr(fused, "wgrad", wgrad)
    failed, passed = wrong.run(CPU), right.run(CPU)
    assert passed.passed
    off = [error > allowed for error, allowed in zip(failed.errors, failed.allowed, strict=True)]
    assert off == ([True, True, False, False] if part == "conv" else [False, False, True, False])


def test_sums_of_long_sets_are_checked(monkeypatch):
    """Those that two launches make, on GPUs."""
    launched = []
    real = set_ops._launch
    monkeypatch.setattr(set_ops, "_launch", lambda kernel, *a, **k: launched.append(kernel) or real(kernel, *a, **k))
    assert _checks.set_check("triton", "set_reduce", torch.float32).run(CPU).passed
    assert {kernel.fn.__name__ for kernel in launched} == {"full_piece_kernel", "set_reduce_kernel"}

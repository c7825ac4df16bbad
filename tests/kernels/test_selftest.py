"""`python -m interconv_kernels.selftest`: it runs, and a wrong kernel makes it fail."""

import pytest
import torch

from interconv_kernels import selftest
from interconv_kernels._backends.cpp import set_ops as cpp_ops
from interconv_kernels._backends.torch import set_ops as torch_ops


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(selftest, "CASES", selftest.CASES[2:3] + selftest.CASES[5:6])
    monkeypatch.setattr(selftest, "DTYPES", (torch.float64, torch.float32, torch.bfloat16))


def test_all_right(small, capsys):
    assert selftest.main(["--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("all passed\n")
    assert "torch    split     float32 " in printed
    assert (
        "torch    fused     float64   not run: algorithm 'fused' cannot run here: backend 'torch' has no fused layer"
        in printed
    )
    assert "triton   3." in printed
    assert "WRONG" not in printed


@pytest.mark.parametrize("fault", [1.001, float("nan")])
def test_a_wrong_result_is_seen(small, monkeypatch, capsys, fault):
    for ops in (torch_ops, cpp_ops):
        real = ops.set_reduce
        monkeypatch.setattr(ops, "set_reduce", lambda *a, real=real, **k: real(*a, **k) * fault)
    assert selftest.main(["--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("rows are wrong")
    split = [line for line in lines if line.startswith("torch    split")]
    assert split[:2] == [line for line in split[:2] if line.endswith("WRONG")]


def test_quick_checks_the_default_of_each_backend():
    checks = list(selftest.run(torch.device("cpu"), quick=True))
    assert [check.backend for check in checks] == ["cpp", "torch"]
    assert all(check.algorithm == "auto" and check.dtype == torch.float32 and check.passed for check in checks)
    assert all(0 < check.error < 1e-5 and not check.skipped for check in checks)

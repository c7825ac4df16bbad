"""Triton compiles its GPU driver on first use. Without a C compiler `can_run` says so, and no layer fails."""

import logging

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this platform")
from triton.runtime import driver

import interconv_kernels as ik
from interconv_kernels._backends import registry
from interconv_kernels._backends import triton as backend


@pytest.fixture
def first_use(gpus, monkeypatch):
    """As in a process that has not used Triton's driver: it is made when it is asked for."""
    monkeypatch.setattr(driver, "_active", None)
    monkeypatch.setattr(driver, "_default", None)
    monkeypatch.setattr(registry, "_logged", set())
    backend._driver_error.cache_clear()
    yield
    backend._driver_error.cache_clear()


@pytest.fixture
def no_compiler(first_use, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)


def layer(name):
    u = torch.randn(5, 4, 6, 5, device="cuda:0")
    weight = torch.randn(4, 8, 3, 3, device="cuda:0")
    return ik.interconv2d(u, weight, None, [2, 3], backend=name)


def test_with_a_compiler(first_use):
    assert registry.BACKENDS["triton"].can_run(torch.device("cuda:0")) is None
    assert type(driver.active).__name__ == "CudaDriver"


def test_without_a_compiler_the_reason_is_given(no_compiler):
    with pytest.raises(ValueError, match="cannot build its GPU driver: Failed to find C compiler"):
        layer("triton")
    assert "Failed to find C compiler" in ik.backends()["triton"]["cuda"]


def test_without_a_compiler_auto_takes_the_next_backend(no_compiler, caplog, gpus):
    with caplog.at_level(logging.INFO, "interconv_kernels"):
        for _ in range(3):
            assert layer("auto").shape == (5, 4, 6, 5)
    assert sum("Failed to find C compiler" in line for line in caplog.messages) == 1
    assert gpus.launches() == []


def test_the_driver_is_tried_once(no_compiler, monkeypatch):
    tries = []
    monkeypatch.setattr("triton.backends.nvidia.driver.CudaUtils.__init__", lambda self: tries.append(1) or 1 / 0)
    for _ in range(3):
        assert "division by zero" in registry.BACKENDS["triton"].can_run(torch.device("cuda:0"))
    assert len(tries) == 1

"""Backend "triton": set operations and the fused layer as Triton kernels, for NVIDIA (sm_75 and later) and AMD GPUs.

    set_kernels.py, conv_kernels.py, row_kernels.py   the kernels, and nothing else
    configs.py                                        the tiles they are launched with, each with its reason
    set_ops.py, conv_launch.py, row_launch.py         the arguments of their launches
    launch.py                                         a launch
    fused.py                                          the layer, forward and backward
    compile_ahead.py                                  the kernels of many calls, compiled in parallel

Triton is optional, and imported on first use. With TRITON_INTERPRET=1 set before that, the kernels run on CPU tensors
in Triton's interpreter: for tests, slowly.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from importlib import import_module, metadata
from importlib.util import find_spec

import torch

from .. import gpu
from ..contract import Backend, SetOps, TunableLayer

MIN_CAPABILITY = (7, 5)


class TritonBackend(Backend):
    """Runs on CUDA and ROCm GPUs."""

    name = "triton"

    def can_run(self, device: torch.device) -> str | None:
        if device.type == "cpu":
            if not interpreted():
                return "it runs on GPUs (on the CPU only in Triton's interpreter: TRITON_INTERPRET=1)"
            return _missing()
        if device.type != "cuda":
            return f"it runs on CUDA and ROCm GPUs, not on {device.type}"
        if (reason := _missing() or _driver_error()) is not None:
            return reason
        if torch.version.hip is None and (capability := gpu.capability(device)) < MIN_CAPABILITY:
            return f"the GPU has compute capability {capability}: expected at least {MIN_CAPABILITY}"
        return None

    def version(self) -> str:
        try:
            return metadata.version("triton")
        except metadata.PackageNotFoundError:
            return "not installed"

    @property
    def set_ops(self) -> SetOps:
        from . import set_ops

        return set_ops

    def fused(self, device: torch.device) -> TunableLayer:
        from . import fused

        return fused

    def tunable(self, device: torch.device) -> TunableLayer:
        return self.fused(device)

    def compile_ahead(self, calls: Iterable[Callable[[], object]]) -> int:
        from .compile_ahead import compile_ahead

        return compile_ahead(calls)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter (a switch of Triton's, which it reads when kernels are defined)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def _missing() -> str | None:
    """Why triton cannot be imported, or None."""
    if find_spec("triton") is None:
        return "triton is not installed (pip install triton; there is none for macOS)"
    try:
        import_module("triton")
    except Exception as error:  # its native library may fail in many ways: the reason is shown, whichever it is
        return f"triton {TritonBackend().version()} cannot be imported: {error}"
    return None


@functools.cache
def _driver_error() -> str | None:
    """Why Triton cannot use its GPU driver, or None.

    Triton compiles the driver with a C compiler when it is first used, unless a compiled one is in Triton's cache. That
    happens here, so that a layer does not fail later.
    """
    driver = import_module("triton.runtime.driver").driver
    try:
        _ = driver.active
    except Exception as error:  # no compiler, no Python headers, no libcuda, a cache that cannot be written, ...
        return f"triton {TritonBackend().version()} cannot build its GPU driver: {error}"
    return None

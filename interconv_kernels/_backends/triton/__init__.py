"""Backend "triton": the set operations and the fused layer as Triton kernels, for NVIDIA (sm_75 and later) and AMD
GPUs.

    set_kernels.py, conv_kernels.py   the kernels, and nothing else
    configs.py                        the tiles they are launched with, each with its reason
    set_ops.py, conv_ops.py           their launches
    fused.py                          the layer of conv_ops, forward and backward
    tuned.py                          what `ik.tune()` measured fastest on this GPU
    ops.py                            the backend: the functions above under one roof

Triton is optional, and imported on first use. With TRITON_INTERPRET=1 set before that the kernels run on CPU tensors,
in Triton's interpreter: for tests, slowly.
"""

from __future__ import annotations

import functools
import os
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType

import torch

LEAST_CAPABILITY = (7, 5)


def load() -> ModuleType:
    """The backend's module of operations."""
    return import_module(f"{__name__}.ops")


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter (triton's own switch, which it reads when kernels are defined)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def _missing() -> str | None:
    """Why triton is not at hand, or None."""
    if find_spec("triton") is None:
        return "triton is not installed (pip install triton; there is none for macOS)"
    try:
        import_module("triton")
    except Exception as error:  # its native library may fail in many ways: the reason is shown, whichever
        return f"triton {version()} cannot be imported: {error}"
    return None


def can_run(device: torch.device) -> str | None:
    if device.type == "cpu":
        if not interpreted():
            return "it runs on GPUs (on the CPU in Triton's interpreter alone: TRITON_INTERPRET=1)"
        return _missing()
    if device.type != "cuda":
        return f"it runs on CUDA and ROCm GPUs, not on {device.type}"
    if (reason := _missing()) is not None:
        return reason
    if torch.version.hip is None and (capability := torch.cuda.get_device_capability(device)) < LEAST_CAPABILITY:
        return f"the GPU has compute capability {capability}: expected at least {LEAST_CAPABILITY}"
    return None


def version() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "not installed"

"""Backend "cpp": C++ and CUDA kernels (csrc/) for the set operations, and fused layers for CPUs and NVIDIA GPUs.

The extension is optional: it is loaded on first use, and where it is missing or does not load, `can_run` gives the
original error.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch

from ..._version import __version__
from .. import gpu
from ..contract import Backend, FusedLayer, SetOps, TunableLayer
from . import halo, set_ops, volumes

_FOLDER = Path(__file__).parents[2]


class CppBackend(Backend):
    """Runs on the CPU and on NVIDIA GPUs, as far as the extension was built for them."""

    name = "cpp"

    def can_run(self, device: torch.device) -> str | None:
        if device.type not in ("cpu", "cuda"):
            return f"it runs on cpu and cuda, not on {device.type}"
        if (reason := load_error()) is not None or device.type == "cpu":
            return reason
        if torch.version.hip is not None:
            return "its GPU kernels are for NVIDIA, and this torch is built for ROCm"
        names = build_report()["architectures"]
        if not names:
            return f"the extension was built without CUDA: {build_report()['no_cuda']}"
        capability = gpu.capability(device)
        if not any(supports(name, capability) for name in names):
            return f"the extension was built for {', '.join(names)}, the GPU has compute capability {capability}"
        return None

    def version(self) -> str:
        """The package's version and what was built."""
        report = build_report()
        if "architectures" not in report:
            return f"{__version__}, not built"
        parts = f"CUDA {' '.join(report['architectures'])}" if report["architectures"] else "no CUDA"
        return f"{__version__}, CPU, {parts}"

    @property
    def set_ops(self) -> SetOps:
        return set_ops

    def fused(self, device: torch.device) -> FusedLayer:
        return halo if device.type == "cuda" else volumes

    def tunable(self, device: torch.device) -> TunableLayer | None:
        return halo if device.type == "cuda" else None


@functools.cache
def load_error() -> str | None:
    """Loads the extension; the reason why it cannot be loaded, or None."""
    libraries = sorted(_FOLDER.glob("_cpp.*"))
    if not libraries:
        return "the extension was not built: run `pip install .` in the source folder (there is none for Windows)"
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError as error:
        # torch wraps the original message of the loader.
        return f"the extension {libraries[0].name} does not load: {error.__cause__ or error}"
    return None


@functools.cache
def build_report() -> dict[str, Any]:
    """What setup.py wrote: {"architectures", "halo_architectures", "no_cuda"}; empty if it built nothing."""
    try:
        report: dict[str, Any] = json.loads((_FOLDER / "_cpp_build.json").read_text())
    except FileNotFoundError:
        return {}
    return report


def supports(name: str, capability: tuple[int, int]) -> bool:
    """Machine code runs on later minor versions of its major version, PTX ("9.0+PTX") on all later versions."""
    major, minor = map(int, name.removesuffix("+PTX").rstrip("af").split("."))
    return (major == capability[0] and minor <= capability[1]) or (
        name.endswith("+PTX") and (major, minor) <= capability
    )

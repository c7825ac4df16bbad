"""All backends, and the one place that chooses among them."""

from __future__ import annotations

import logging

import torch

from ..errors import unknown_name
from ..typing import BackendName
from .contract import Backend, TunableLayer
from .cpp import CppBackend
from .torch import TorchBackend
from .triton import TritonBackend

logger = logging.getLogger("interconv_kernels")

# In the order in which `auto` prefers them.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (TritonBackend(), CppBackend(), TorchBackend())}
_logged: set[tuple[str, str]] = set()


def get(name: str, device: torch.device) -> Backend:
    """Backend `name` for tensors on `device`; "auto" takes the first backend that can run there.

    Raises:
        ValueError: no backend has that name, or it cannot run on the device, with the reason. "auto" logs such a reason
            once.
    """
    if name != "auto":
        check_name(name)
        reason = BACKENDS[name].can_run(device)
        if reason is not None:
            raise ValueError(f"backend {name!r} cannot run on {device}: {reason}")
        return BACKENDS[name]
    for candidate, backend in BACKENDS.items():
        reason = backend.can_run(device)
        if reason is None:
            return backend
        if (candidate, device.type) not in _logged:
            _logged.add((candidate, device.type))
            logger.info("backend %r is not used on %s: %s", candidate, device, reason)
    raise ValueError(f"no backend can run on {device}")


def tunable(device: torch.device) -> dict[str, TunableLayer]:
    """{backend: its fused layer} of the backends that run on the device and have tiles to choose from there."""
    found = {name: backend.tunable(device) for name, backend in BACKENDS.items() if backend.can_run(device) is None}
    return {name: layer for name, layer in found.items() if layer is not None}


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest name, if no backend has that name."""
    if name != "auto" and name not in BACKENDS:
        raise unknown_name("backend", name, ["auto", *BACKENDS])


def backends() -> dict[BackendName, dict[str, str]]:
    """What can run here: for each backend its version and, for each kind of device, "ready" or the reason why not.

    >>> ik.backends()
    {'triton': {'version': '3.7.1', 'cpu': "it runs on GPUs (...)", 'cuda': 'torch sees no such device'},
     'cpp': {'version': '0.1.0, CPU, no CUDA', 'cpu': 'ready', 'cuda': 'torch sees no such device'},
     'torch': {'version': '2.13.0', 'cpu': 'ready', 'cuda': 'torch sees no such device'}}

    Returns:
        {backend: {"version": ..., "cpu": ..., "cuda": ...}}, in the order in which "auto" prefers them.
    """
    report: dict[BackendName, dict[str, str]] = {}
    for backend in BACKENDS.values():
        states = {"version": backend.version()}
        for kind, present in (("cpu", True), ("cuda", torch.cuda.is_available())):
            reason = backend.can_run(torch.device(kind)) if present else "torch sees no such device"
            states[kind] = reason or "ready"
        report[backend.name] = states
    return report

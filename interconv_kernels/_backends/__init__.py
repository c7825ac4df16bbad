"""The backends, and the one place that chooses among them. (`ik.backends` is the function below, so the folder has
another name.)

A backend is a module of set operations (see `ops.py` for their contracts) behind `can_run(device) -> reason or None`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch

from ..errors import unknown_name
from ..typing import BackendName
from . import cpp_ops, torch_ops, triton

logger = logging.getLogger("interconv_kernels")


class Backend(NamedTuple):
    load: Callable[[], ModuleType]  # its operations; triton takes a second to import, so only where it is used
    can_run: Callable[[torch.device], str | None]  # the reason why it cannot run on the device, or None
    version: Callable[[], str]


# In the order in which `auto` prefers them.
_BACKENDS: dict[BackendName, Backend] = {
    "triton": Backend(triton.load, triton.can_run, triton.version),
    "cpp": Backend(lambda: cpp_ops, cpp_ops.can_run, cpp_ops.version),
    "torch": Backend(lambda: torch_ops, torch_ops.can_run, lambda: torch.__version__),
}
_logged: set[tuple[str, str]] = set()


def get(name: str, device: torch.device) -> ModuleType:
    """The set operations of backend `name` for tensors on `device`; "auto" takes the first backend that can run there.

    Raises:
        ValueError: no backend has that name, or it cannot run on the device, with the reason. `auto` logs such a reason
            once.
    """
    if name != "auto":
        check_name(name)
        reason = _BACKENDS[name].can_run(device)
        if reason is not None:
            raise ValueError(f"backend {name!r} cannot run on {device}: {reason}")
        return _BACKENDS[name].load()
    for candidate, backend in _BACKENDS.items():
        reason = backend.can_run(device)
        if reason is None:
            return backend.load()
        if (candidate, device.type) not in _logged:
            _logged.add((candidate, device.type))
            logger.info("backend %r is passed over on %s: %s", candidate, device, reason)
    raise ValueError(f"no backend can run on {device}")


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest name, where no backend is called so."""
    if name != "auto" and name not in _BACKENDS:
        raise unknown_name("backend", name, ["auto", *_BACKENDS])


def backends() -> dict[BackendName, dict[str, str]]:
    """What can run here: for each backend its version and, for each kind of device, "ready" or the reason why not.

    >>> ik.backends()
    {'triton': {'version': '3.7.1', 'cpu': "it runs on GPUs (...)", 'cuda': 'torch sees no such device'},
     'cpp': {'version': '0.1.0, CPU, no CUDA', 'cpu': 'ready', 'cuda': 'torch sees no such device'},
     'torch': {'version': '2.13.0', 'cpu': 'ready', 'cuda': 'torch sees no such device'}}
    """
    report: dict[BackendName, dict[str, str]] = {}
    for name, backend in _BACKENDS.items():
        report[name] = {"version": backend.version()}
        for kind, present in (("cpu", True), ("cuda", torch.cuda.is_available())):
            reason = backend.can_run(torch.device(kind)) if present else "torch sees no such device"
            report[name][kind] = reason or "ready"
    return report

"""Backend "torch": the set operations in plain torch, on any device."""

from __future__ import annotations

import torch

from ..contract import Backend, SetOps
from . import set_ops


class TorchBackend(Backend):
    """Runs everywhere."""

    name = "torch"

    def can_run(self, device: torch.device) -> str | None:
        return None

    def version(self) -> str:
        return torch.__version__

    @property
    def set_ops(self) -> SetOps:
        return set_ops

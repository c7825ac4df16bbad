"""Activations that a layer can apply to its own result."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("none", "relu", "leaky_relu", "prelu", "gelu", "silu")


class Activation(NamedTuple):
    """One of NAMES, as in torch.nn.functional (gelu: the exact one). `slope` [1] or [Co]: of leaky_relu and prelu."""

    name: str = "none"
    slope: Tensor | None = None

    @property
    def slope_step(self) -> int:
        """How far a channel's slope is from the next one's: 0 where all share one."""
        return 0 if self.slope is None or self.slope.shape[0] == 1 else 1

    def __call__(self, y: Tensor) -> Tensor:
        """act(y), y [N,Co,...]; y itself for "none"."""
        if self.name == "none":
            return y
        if self.slope is not None:  # leaky_relu is prelu with a slope that nobody trains
            return torch.prelu(y, self.slope)
        functions: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
        return functions[self.name](y)


NONE = Activation()

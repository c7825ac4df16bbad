"""The activation that a layer can apply to its own result: a leaky ReLU, of which ReLU and PReLU are cases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def leaky_relu(y: Tensor, negative_slope: float | Tensor) -> Tensor:
    """y where y >= 0, else negative_slope * y, as a differentiable operation of torch.

    Args:
        y: [N,Co,...].
        negative_slope: a number (0: ReLU), or a tensor [1] or [Co] (PReLU).
    """
    if isinstance(negative_slope, Tensor):
        return torch.prelu(y, negative_slope)
    return F.relu(y) if negative_slope == 0 else F.leaky_relu(y, negative_slope)


def leaky_relu_(y: Tensor, slope: Tensor | None) -> Tensor:
    """The same in place, without gradients, for slope [Co]; y itself for None."""
    return y if slope is None else y.copy_(torch.prelu(y, slope))

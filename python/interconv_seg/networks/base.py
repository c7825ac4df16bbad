"""What the networks share: a body that maps images to logits, and the wrapper that gives it sets and images of any
size."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import interconv_kernels as ik
from interconv_kernels.sets import as_sets


class Body(nn.Module):
    """A network's layers: x [N, in_channels, H, W] -> logits [N, classes, H, W], or a list of logits (`NnUNet`).

    Attributes:
        in_channels, classes: as above.
        stride: H and W must be multiples of it. smallest: the least H and W.
    """

    in_channels: int
    classes: int
    stride: int
    smallest: int

    def init_weights(self) -> None:
        """Draw fresh weights as the network's authors do; torch's own are kept unless a body says otherwise."""

    def check_size(self, x: Tensor) -> None:
        """ValueError for sides that do not fit `stride`. (`SetNetwork` pads, so this is for those who use a body
        alone.)"""
        if x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(f"x has shape {tuple(x.shape)}: expected H and W to be multiples of {self.stride}")


class SetNetwork(nn.Module):
    """A network as training and inference call it: `network(x, sets)`, baseline or InterConv, images of any size.

    Args:
        body: the layers.

    Input x [N, in_channels, H, W], floating point, H and W at least 1; `sets` as in `ik.interconv2d`, made once here
    and handed to every InterConv2d inside. A baseline takes `sets` too, and does without; an InterConv network needs
    them.

    Returns logits [N, classes, H, W]. `NnUNet` returns a list of logits in training, the finest first, level i of
    ceil(H / 2^i) x ceil(W / 2^i) pixels (deep supervision; the losses of `interconv_seg` take such a list).

    The images are padded at the bottom and the right by repeating their last row and column, and the logits cropped.

    Raises:
        ValueError: x of another shape; sets that do not fit x or that are missing. TypeError: x of another dtype.
    """

    def __init__(self, body: Body):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, sets: ik.Sets | Any = None) -> Tensor | list[Tensor]:
        self._check(x)
        height, width = x.shape[2:]
        x = F.pad(x, (0, self._missing(width), 0, self._missing(height)), mode="replicate")
        if sets is None:
            logits = self.body(x)
        else:
            with ik.use_sets(as_sets(sets, x.shape[0], x.device)):
                logits = self.body(x)
        if isinstance(logits, list):
            return [y[:, :, : -(-height // 2**i), : -(-width // 2**i)] for i, y in enumerate(logits)]
        return logits[:, :, :height, :width]

    def _missing(self, size: int) -> int:
        fitting = -(-size // self.body.stride) * self.body.stride
        return max(fitting, self.body.smallest) - size

    def _check(self, x: Tensor) -> None:
        channels = self.body.in_channels
        if x.dim() != 4 or x.shape[1] != channels or min(x.shape[2:]) < 1:
            raise ValueError(f"x has shape {tuple(x.shape)}: expected [N, {channels}, H, W] with H and W at least 1")
        if not x.is_floating_point():
            raise TypeError(f"x has dtype {x.dtype}: expected floating point")


def check_count(name: str, value: Any) -> int:
    """`value`, an int of at least 1; else TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} = {value!r}: expected an int")
    if value < 1:
        raise ValueError(f"{name} = {value}: expected at least 1")
    return value

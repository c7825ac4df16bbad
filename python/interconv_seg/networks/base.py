"""What the networks share: a body that maps images to logits, and a wrapper that adds sets and images of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import interconv_kernels as ik
from interconv_kernels.as_sets import as_sets
from interconv_kernels.typing import SetsLike

# Makes a layer of a network, with the arguments of the class that it stands for: `nn.Conv2d`, `ik.InterConv2d`, ...
LayerFactory: TypeAlias = Callable[..., nn.Module]


class Body(nn.Module):
    """A network's layers: x [N,in_channels,H,W] -> logits [N,classes,H,W], or a list of logits (`NnUNet`).

    Attributes:
        in_channels: channels of the input.
        classes: channels of the output.
        stride: H and W must be multiples of it.
        min_size: the smallest H and W.
        cpu_format: the memory format in which it is faster on CPUs (measured, docs/performance).
    """

    in_channels: int
    classes: int
    stride: int
    min_size: int
    cpu_format: torch.memory_format = torch.channels_last

    def check_size(self, x: Tensor) -> None:
        """Checks the size of the images, which `SetNetwork` pads to fit.

        Raises:
            ValueError: H or W is not a multiple of `stride`.
        """
        if x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(f"x has shape {tuple(x.shape)}: expected H and W to be multiples of {self.stride}")


class SetNetwork(nn.Module):
    """A network as training and inference call it: `network(x, sets)`, baseline or InterConv, images of any size.

    The images are padded at the bottom and the right by repeating their last row and column; the logits are cropped.

    Args:
        body: the layers.
    """

    def __init__(self, body: Body):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, sets: SetsLike | None = None) -> Tensor | list[Tensor]:
        """Segments the images of a packed batch.

        Args:
            x: images [N,in_channels,H,W], floating point, H and W at least 1.
            sets: as in `ik.interconv2d`; converted once and used by every InterConv2d inside. A baseline ignores them.

        Returns:
            Logits [N,classes,H,W]. In training `NnUNet` returns a list of logits (deep supervision), the finest first,
            level i of ceil(H / 2^i) x ceil(W / 2^i) pixels. The losses of `interconv_seg` take such a list.

        Raises:
            ValueError: x has another shape; the sets do not fit x, or an InterConv network gets none.
            TypeError: x is not floating point.
        """
        self._check(x)
        height, width = x.shape[2:]
        x = F.pad(x, (0, self._padding(width), 0, self._padding(height)), mode="replicate")
        if sets is None:
            logits = self.body(x)
        else:
            with ik.use_sets(as_sets(sets, x.shape[0], x.device)):
                logits = self.body(x)
        if isinstance(logits, list):
            return [y[:, :, : -(-height // 2**i), : -(-width // 2**i)] for i, y in enumerate(logits)]
        return logits[:, :, :height, :width]

    def to_device(self, device: torch.device | str) -> SetNetwork:
        """Moves the network, in the memory format that is faster there; itself, as `nn.Module.to`.

        Args:
            device: where to. On GPUs the format is channels_last, that of cuDNN and of this library's kernels.
        """
        device = torch.device(device)
        memory_format = self.body.cpu_format if device.type == "cpu" else torch.channels_last
        return self.to(device, memory_format=memory_format)  # type: ignore[call-overload]

    def _padding(self, size: int) -> int:
        """How many rows or columns are missing to a size that the body takes."""
        return max(round_up(size, self.body.stride), self.body.min_size) - size

    def _check(self, x: Tensor) -> None:
        channels = self.body.in_channels
        if x.dim() != 4 or x.shape[1] != channels or min(x.shape[2:]) < 1:
            raise ValueError(f"x has shape {tuple(x.shape)}: expected [N, {channels}, H, W] with H and W at least 1")
        if not x.is_floating_point():
            raise TypeError(f"x has dtype {x.dtype}: expected floating point")


def followed(layer: nn.Module, appended: LayerFactory | None, features: int) -> nn.Module:
    """A layer, and another after it if there is a factory for it.

    Args:
        layer: returns `features` channels.
        appended: makes the other, from and to as many channels; or None.
        features: the number of channels.
    """
    return layer if appended is None else nn.Sequential(layer, appended(features))


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `size`.

    Args:
        size: at least 0. (In ONNX the quotient of a negative number is rounded towards zero.)
        multiple: at least 1.
    """
    return (size + multiple - 1) // multiple * multiple


def check_positive_int(name: str, value: Any) -> int:
    """Checks an argument.

    Args:
        name: of the argument, for the message.
        value: the argument.

    Returns:
        `value`.

    Raises:
        TypeError: `value` is not an int.
        ValueError: `value` is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} = {value!r}: expected an int")
    if value < 1:
        raise ValueError(f"{name} = {value}: expected at least 1")
    return value

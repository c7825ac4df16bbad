"""The layer as its authors publish it: mean, concatenation and convolution in plain torch, for a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..as_sets import as_sets
from ..layout import memory_format
from ..set_context import current_sets
from .naive import Pair, same_padding

if TYPE_CHECKING:
    from ..modules import InterConv2d
    from ..typing import Padding, SetsLike


def concat_interconv2d(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lengths: Sequence[int],
    stride: int | Pair = 1,
    padding: Padding = "same",
    dilation: int | Pair = 1,
) -> Tensor:
    """y_i = conv(concat(u_i, s); weight) + bias with torch's mean, cat and conv2d (paper, Eq. 1-3).

    On channels_last input, mean and concatenation run on the [N,H,W,C] view. torch's own are slow on the [N,C,H,W] view
    of such memory, and their result is contiguous, so that the convolution would reorder it again.

    Args:
        u: [N,C,H,W], any floating point dtype.
        weight: [Co,2C,kh,kw], the half for u_i first.
        bias: [Co] or None.
        lengths: the set sizes, with sum N.
        stride: an int or (height, width).
        padding: "same" (dilation * (k - 1) / 2 on each side, for odd k), or an int or (height, width).
        dilation: an int or (height, width).

    Returns:
        y [N,Co,H',W'].
    """
    if isinstance(padding, str):
        padding = same_padding(weight, dilation)
    channels_last = memory_format(u) == torch.channels_last
    x, channels = (u.permute(0, 2, 3, 1), -1) if channels_last else (u, -3)
    sizes = [size for size in lengths if size]
    if len(set(sizes)) == 1:
        samples = x.unflatten(0, (-1, sizes[0]))  # only the concatenation writes each mean once per sample
        c = torch.cat([samples, samples.mean(1, keepdim=True).expand_as(samples)], dim=channels).flatten(0, 1)
    else:
        means = torch.cat([samples.mean(0, keepdim=True).expand_as(samples) for samples in x.split(sizes)] or [x])
        c = torch.cat([x, means], dim=channels)
    return F.conv2d(c.permute(0, 3, 1, 2) if channels_last else c, weight, bias, stride, padding, dilation)


class ConcatInterConv2d(nn.Module):
    """The authors' layer, for ragged sets: the mean of a set, a concatenation and an `nn.Conv2d(2C, Co)` named `conv`.

    It computes what `InterConv2d` computes, at the cost of plain torch. Its state dict (`conv.weight`, `conv.bias`)
    loads into an `InterConv2d` as it is.

    Args:
        in_channels: C, channels of a sample.
        out_channels: Co, by default C.
        kernel_size: an int or (height, width).
        stride: an int or (height, width).
        padding: as in `concat_interconv2d`.
        dilation: an int or (height, width).
        bias: whether to learn a bias.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | Pair = 3,
        stride: int | Pair = 1,
        padding: Padding = "same",
        dilation: int | Pair = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        out_channels = in_channels if out_channels is None else out_channels
        self.conv = nn.Conv2d(2 * in_channels, out_channels, kernel_size, stride, 0, dilation, bias=bias, **options)
        self.padding = padding
        self.activation: nn.Module | None = None

    @classmethod
    def from_layer(cls, layer: InterConv2d) -> ConcatInterConv2d:
        """The same layer in plain torch, with the same parameters and activation (shared, not copied).

        Args:
            layer: an `InterConv2d`.
        """
        options: dict[str, Any] = {"device": "meta", "dtype": layer.weight.dtype, "bias": layer.bias is not None}
        shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        made = cls(*shape, **options)
        made.conv.weight, made.conv.bias = layer.weight, layer.bias
        made.activation = layer.activation
        return made

    def forward(self, u: Tensor, sets: SetsLike | None = None) -> Tensor:
        """u [N,C,H,W] -> y [N,Co,H',W'].

        Args:
            u: packed samples.
            sets: as in `InterConv2d`; None takes those of the enclosing `use_sets` block.

        Raises:
            ValueError: no sets, or sets that do not fit u.
        """
        sets = current_sets() if sets is None else sets
        if sets is None:
            raise ValueError(f"u has shape {tuple(u.shape)} and sets is None: expected sets, or a `use_sets` block")
        lengths = as_sets(sets, u.shape[0], u.device).lengths
        conv = self.conv
        y = concat_interconv2d(u, conv.weight, conv.bias, lengths, conv.stride, self.padding, conv.dilation)  # type: ignore[arg-type]
        return y if self.activation is None else self.activation(y)

"""The layer as its authors publish it: mean, concatenation and convolution in plain torch, for a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..as_sets import as_sets
from ..set_context import current_sets
from .naive import CONVOLUTIONS, Ints, same_padding

if TYPE_CHECKING:
    from ..modules import InterConv2d
    from ..typing import Padding, SetsLike


def concat_interconv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lengths: Sequence[int],
    stride: int | Ints = 1,
    padding: Padding = "same",
    dilation: int | Ints = 1,
) -> Tensor:
    """y_i = conv(concat(u_i, s); weight) + bias with torch's mean, cat and convolution (paper, Eq. 1-3).

    On channels_last input, mean and concatenation run on the [N,H,W,C] view. torch's own are slow on the [N,C,H,W] view
    of such memory, and their result is contiguous, so that the convolution would reorder it again.

    Args:
        u: [N,C,H,W], any floating point dtype. Or signals [N,C,L], or volumes [N,C,D,H,W].
        weight: [Co,2C,kh,kw], the half for u_i first; [Co,2C,k] or [Co,2C,kd,kh,kw].
        bias: [Co] or None.
        lengths: the set sizes, with sum N.
        stride: an int, or one for each axis.
        padding: "same" (dilation * (k - 1) / 2 on each side, for odd k), or as `stride`.
        dilation: as `stride`.

    Returns:
        y [N,Co,H',W'], [N,Co,L'] or [N,Co,D',H',W'].
    """
    if isinstance(padding, str):
        padding = same_padding(weight, dilation)
    channels_last = u.stride(1) == 1 and not u.is_contiguous()
    x, channels = (u.movedim(1, -1), -1) if channels_last else (u, 1 - u.dim())
    sizes = [size for size in lengths if size]
    if len(set(sizes)) == 1:
        samples = x.unflatten(0, (-1, sizes[0]))  # only the concatenation writes each mean once per sample
        c = torch.cat([samples, samples.mean(1, keepdim=True).expand_as(samples)], dim=channels).flatten(0, 1)
    else:
        means = torch.cat([samples.mean(0, keepdim=True).expand_as(samples) for samples in x.split(sizes)] or [x])
        c = torch.cat([x, means], dim=channels)
    convolve = CONVOLUTIONS[u.dim()]
    return convolve(c.movedim(-1, 1) if channels_last else c, weight, bias, stride, padding, dilation)


class ConcatInterConv2d(nn.Module):
    """The authors' layer, for ragged sets: the mean of a set, a concatenation and an `nn.Conv2d(2C, Co)` named `conv`.

    It computes what `InterConv2d` computes, at the cost of plain torch. Its state dict (`conv.weight`, `conv.bias`)
    loads into an `InterConv2d` as it is.

    Args:
        in_channels: C, channels of a sample.
        out_channels: Co, by default C.
        kernel_size: an int or (height, width).
        stride: an int or (height, width).
        padding: as in `concat_interconv`.
        dilation: an int or (height, width).
        bias: whether to learn a bias.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | Ints = 3,
        stride: int | Ints = 1,
        padding: Padding = "same",
        dilation: int | Ints = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        out_channels = in_channels if out_channels is None else out_channels
        sizes: Any = (kernel_size, stride, 0, dilation)
        options["bias"] = bias
        self.conv = nn.Conv2d(2 * in_channels, out_channels, *sizes, **options)
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
        y = concat_interconv(u, conv.weight, conv.bias, lengths, conv.stride, self.padding, conv.dilation)
        return y if self.activation is None else self.activation(y)

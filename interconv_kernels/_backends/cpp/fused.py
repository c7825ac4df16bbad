"""The fused layer of backend "cpp": float32 on the CPU, stride 1. Contract: `FusedLayer` in ../contract.py.

1x1 kernels are csrc/pointwise*.cpp, 3x3 kernels csrc/winograd*.cpp. For GPUs see halo.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...convolution import Conv
from ...layout import flat
from ...sets import SetIndex
from ..contract import Gradients, Needs

_ops: Any = torch.ops.interconv_cpp


def can_fuse(conv: Conv, u: Tensor, weight: Tensor) -> str | None:
    """The reason why these kernels cannot compute this layer, or None."""
    if u.device.type != "cpu" or u.dtype != torch.float32:
        return f"the fused layer of backend 'cpp' is for float32 on the CPU, not {u.dtype} on {u.device.type}"
    if not (conv.is_pointwise(weight) or _is_winograd(conv, weight)):
        settings = f"kernel {tuple(weight.shape[2:])}, stride {conv.stride}, padding {conv.padding}"
        return (
            "the fused layer of backend 'cpp' is for 1x1 kernels with padding 0 and 3x3 kernels with padding 0 to 2,"
            f" with stride and dilation 1, not for {settings}, dilation {conv.dilation}"
        )
    return None


def _is_winograd(conv: Conv, weight: Tensor) -> bool:
    return weight.shape[2:] == (3, 3) and conv.stride == conv.dilation == (1, 1) and max(conv.padding) <= 2


def forward(
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    max_centered: int,
    slope: Tensor | None,
    tiles: Mapping[str, str],
) -> Tensor:
    shape = (u.shape[0], weight.shape[0], *conv.output_size(u.shape[2:], weight.shape[2:]))
    out = torch.empty(shape, dtype=u.dtype, device=u.device, memory_format=conv.fmt)
    bias_row, slope_row = (None if x is None else x.unsqueeze(0) for x in (bias, slope))
    inputs = (flat(u, conv.fmt), flat(weight, conv.fmt), bias_row, slope_row, sets.offsets, sets.set_ids)
    op = _ops.pointwise_forward if conv.is_pointwise(weight) else _ops.winograd_forward
    op(*inputs, *_geometry(conv, u, weight), max_centered, flat(out, conv.fmt))
    return out


def backward(
    conv: Conv,
    g: Tensor,
    u: Tensor,
    weight: Tensor,
    sets: SetIndex,
    need: Needs,
    max_centered: int,
    tiles: Mapping[str, str],
) -> Gradients:
    grad_u = torch.empty_like(u, memory_format=conv.fmt) if need[0] else None
    grad_weight = torch.empty_like(weight, memory_format=conv.fmt) if need[1] else None
    grad_bias = weight.new_empty(1, weight.shape[0]) if need[2] else None
    inputs = (flat(g, conv.fmt), flat(u, conv.fmt), flat(weight, conv.fmt), sets.offsets, sets.set_ids)
    op = _ops.pointwise_backward if conv.is_pointwise(weight) else _ops.winograd_backward
    op(
        *inputs,
        *_geometry(conv, u, weight),
        max_centered,
        None if grad_u is None else flat(grad_u, conv.fmt),
        None if grad_weight is None else flat(grad_weight, conv.fmt),
        grad_bias,
    )
    return grad_u, grad_weight, None if grad_bias is None else grad_bias[0]


def _geometry(conv: Conv, u: Tensor, weight: Tensor) -> tuple[bool | int, ...]:
    """What the raw operators need to know: the memory format; for 3x3 kernels image size and padding as well."""
    channels_last = conv.fmt == torch.channels_last
    return (channels_last,) if conv.is_pointwise(weight) else (channels_last, *u.shape[2:], *conv.padding)

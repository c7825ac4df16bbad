"""`split` as a graph of torch operations, which torch.compile can fuse with the operations around the layer.

    s = set mean of u               an operator of this library
    t = conv(s; Ws) + b             torch's convolution, once per set
    y = conv(u; Wu) + t[set_ids]    torch's convolution, and an addition that Inductor fuses

The layer is otherwise one operator, which nothing can be fused into. The gradients have the same form: with G the sum
of g over each set, grad_u_i = dgrad(g_i; Wu) + (dgrad(G; Ws) / K)[set_ids]. When this graph is used: `choice.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .convolution import Conv

Gradient = tuple[Tensor, None, None, None, None]


def interconv2d(
    u: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor, set_ids: Tensor, conv: Conv, backend: str
) -> Tensor:
    """y [N,Co,H',W'] of u [N,C,H,W] and weight [Co,2C,k,k], in the memory format that torch's convolution chooses.

    Args:
        u: packed samples.
        weight: [Wu | Ws].
        bias: [Co] or None.
        offsets: int32 [B+1], of sets that are not empty.
        set_ids: int32 [N].
        conv: stride, padding and dilation.
        backend: of the set operations.
    """
    w_own, w_set = weight.split(u.shape[1], dim=1)
    sets = (offsets, set_ids)
    s = _SetReduce.apply(u, *sets, True, backend)
    t = F.conv2d(s, w_set, bias, conv.stride, conv.padding, conv.dilation)
    own = F.conv2d(u, w_own, None, conv.stride, conv.padding, conv.dilation)
    return own + _Expand.apply(t, *sets, False, backend)


class _SetReduce(torch.autograd.Function):
    """x [N,...] -> [B,...], the sum over each set, or its mean; the adjoint of `_Expand`."""

    @staticmethod
    def forward(x: Tensor, offsets: Tensor, set_ids: Tensor, mean: bool, backend: str) -> Tensor:
        return torch.ops.interconv.set_reduce(x, offsets, set_ids, mean, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, offsets, set_ids, *ctx.settings = inputs
        ctx.save_for_backward(offsets, set_ids)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradient:
        return _Expand.apply(g, *ctx.saved_tensors, *ctx.settings), None, None, None, None


class _Expand(torch.autograd.Function):
    """t [B,...] -> t[set_ids] [N,...], of t / K if `mean`; the adjoint of `_SetReduce`.

    The gradient of torch's own indexing would add with atomics, in an order that changes from run to run.
    """

    @staticmethod
    def forward(t: Tensor, offsets: Tensor, set_ids: Tensor, mean: bool, backend: str) -> Tensor:
        if mean:
            sizes = (offsets[1:] - offsets[:-1]).to(t.dtype)
            t = t / sizes.view(-1, *[1] * (t.dim() - 1))
        return t[set_ids]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, offsets, set_ids, *ctx.settings = inputs
        ctx.save_for_backward(offsets, set_ids)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradient:
        return _SetReduce.apply(g, *ctx.saved_tensors, *ctx.settings), None, None, None, None

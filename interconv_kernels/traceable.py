"""`split` as a graph of torch operations, which torch.compile can fuse with the operations around the layer.

    s = set mean of u               an operator of this library, or a matrix product (algorithm "decomposed")
    t = conv(s; Ws) + b             torch's convolution, once per set
    y = conv(u; Wu) + t[set_ids]    torch's convolution, and an addition that Inductor fuses

The layer is otherwise one operator, which nothing can be fused into. The gradients have the same form: with G the sum
of g over each set, grad_u_i = dgrad(g_i; Wu) + (dgrad(G; Ws) / K)[set_ids]. When this graph is used: `choice.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .convolution import CONVOLUTIONS, Conv
from .layout import sum_dtype


def interconv(
    u: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor, set_ids: Tensor, conv: Conv, backend: str | None
) -> Tensor:
    """y [N,Co,H',W'] of u [N,C,H,W] and weight [Co,2C,k,k], in the memory format that torch's convolution chooses.

    Args:
        u: packed samples.
        weight: [Wu | Ws].
        bias: [Co] or None.
        offsets: int32 [B+1].
        set_ids: int32 [N].
        conv: stride, padding and dilation.
        backend: of the set means. None: they are aten operations too.
    """
    w_own, w_set = weight[:, : u.shape[1]], weight[:, u.shape[1] :]  # (`split` is no constant to ONNX's optimizer)
    sets = (offsets, set_ids)
    s = _SetMap.apply(u, *sets, False, True, backend)
    convolve = CONVOLUTIONS[u.dim()]
    t = convolve(s, w_set, bias, conv.stride, conv.padding, conv.dilation)
    own = convolve(u, w_own, None, conv.stride, conv.padding, conv.dilation)
    return own + _SetMap.apply(t, *sets, True, False, backend)


class _SetMap(torch.autograd.Function):
    """Between samples and sets: x [N,...] -> [B,...], the sum over each set; or its adjoint, x [B,...] -> x[set_ids].

    Both are divided by the set size if `mean`. Each is the gradient of the other. The gradient of torch's own indexing
    would add with atomics, in an order that changes from run to run.
    """

    @staticmethod
    def forward(x: Tensor, offsets: Tensor, set_ids: Tensor, expand: bool, mean: bool, backend: str | None) -> Tensor:
        if not expand:
            if backend is None:
                return set_reduce(x, offsets, set_ids, mean)
            return torch.ops.interconv.set_reduce(x, offsets, set_ids, mean, backend)
        return (_divided_by_size(x, offsets) if mean else x).index_select(0, set_ids)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, offsets, set_ids, ctx.expand, *ctx.settings = inputs
        ctx.save_for_backward(offsets, set_ids)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return _SetMap.apply(g, *ctx.saved_tensors, not ctx.expand, *ctx.settings), *(None,) * 5


def set_reduce(x: Tensor, offsets: Tensor, set_ids: Tensor, mean: bool) -> Tensor:
    """`set_reduce` as a product with the matrix [B,N] that is 1 where sample i belongs to set b.

    Every runtime has a fast matrix product; ONNX Runtime takes 16 times as long to add by index. A value that is not
    finite reaches the other sets too (0 * inf).
    """
    sets = torch.arange(offsets.shape[0] - 1, dtype=set_ids.dtype, device=set_ids.device)
    member = (sets[:, None] == set_ids).to(sum_dtype(x))
    total = (member @ x.to(member.dtype).flatten(1)).unflatten(1, x.shape[1:])
    return (_divided_by_size(total, offsets) if mean else total).to(x.dtype)


def _divided_by_size(x: Tensor, offsets: Tensor) -> Tensor:
    """x_b / K_b; x_b for an empty set."""
    sizes = (offsets[1:] - offsets[:-1]).clamp(min=1).to(x.dtype)
    return x / sizes.view(-1, *[1] * (x.dim() - 1))

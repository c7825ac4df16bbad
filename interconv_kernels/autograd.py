"""Autograd of the layer: one `torch.autograd.Function` over the ops interconv2d and interconv2d_backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class InterConvFunction(torch.autograd.Function):
    """y = conv(concat(u_i, s)), saving u and weight alone.

    The backward is an op with a derivative of its own, so that it can be differentiated again, any number of times.
    """

    @staticmethod
    def forward(u, weight, bias, offsets, set_ids, stride, padding, dilation, algorithm, backend):  # type: ignore[no-untyped-def]
        return torch.ops.interconv.interconv2d(
            u, weight, bias, offsets, set_ids, stride, padding, dilation, algorithm, backend
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        u, weight, _, offsets, set_ids, *ctx.settings = inputs
        ctx.save_for_backward(u, weight, offsets, set_ids)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        need = list(ctx.needs_input_grad[:3])
        grads = torch.ops.interconv.interconv2d_backward(g, *ctx.saved_tensors, *ctx.settings, need)
        return *(grad if needed else None for grad, needed in zip(grads, need, strict=True)), *(None,) * 7


def _setup_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    g, u, weight, offsets, set_ids, *ctx.settings, ctx.need = inputs
    ctx.save_for_backward(g, u, weight, offsets, set_ids)


def _double_backward(ctx: Any, gg_u: Tensor, gg_weight: Tensor, gg_bias: Tensor) -> tuple[Tensor | None, ...]:
    """The layer is linear in (u, bias) and in (weight, bias), so its derivatives are layers again.

    <gg_u, grad_u> = <g, layer(gg_u; weight)> and <gg_weight, grad_weight> + <gg_bias, grad_bias> = <g, layer(u; gg_weight, gg_bias)>.
    """
    g, u, weight, *sets = ctx.saved_tensors
    by_u, by_weight, by_bias = ctx.need
    grad_g = grad_u = grad_weight = None
    if by_u:
        grad_g = InterConvFunction.apply(gg_u, weight, None, *sets, *ctx.settings)
        grad_weight = _adjoint(g, gg_u, weight, sets, ctx.settings, 1)
    if by_weight:
        term = InterConvFunction.apply(u, gg_weight, gg_bias if by_bias else None, *sets, *ctx.settings)
        grad_g = term if grad_g is None else grad_g + term
        grad_u = _adjoint(g, u, gg_weight, sets, ctx.settings, 0)
    elif by_bias:
        term = gg_bias.view(1, -1, 1, 1).expand_as(g)
        grad_g = term if grad_g is None else grad_g + term
    return grad_g, grad_u, grad_weight, *(None,) * 8


def _adjoint(g: Tensor, u: Tensor, weight: Tensor, sets: list[Tensor], settings: list[Any], which: int) -> Tensor:
    """One of the layer's gradients: of u (0) or of weight (1)."""
    need = [which == 0, which == 1, False]
    return torch.ops.interconv.interconv2d_backward(g, u, weight, *sets, *settings, need)[which]


torch.library.register_autograd(
    "interconv::interconv2d_backward", _double_backward, setup_context=_setup_double_backward
)

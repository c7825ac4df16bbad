"""Autograd of the layer: a `torch.autograd.Function` over the operator interconv2d, and one over its backward."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

OptionalTensors = tuple[Tensor | None, ...]


class InterConvFunction(torch.autograd.Function):
    """y = conv(concat(u_i, s); weight) + bias. Saves u and weight alone."""

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
    def backward(ctx: Any, g: Tensor) -> OptionalTensors:
        need = list(ctx.needs_input_grad[:3])
        grads = InterConvBackwardFunction.apply(g, *ctx.saved_tensors, *ctx.settings, need)
        return *(grad if needed else None for grad, needed in zip(grads, need, strict=True)), *(None,) * 7


class InterConvBackwardFunction(torch.autograd.Function):
    """(g, u, weight) -> the gradients of the layer. Its derivative consists of layers again, so all orders exist.

    The layer is linear in (u, bias) and in (weight, bias): <gg_u, grad_u> = <g, layer(gg_u; weight)> and
    <gg_weight, grad_weight> + <gg_bias, grad_bias> = <g, layer(u; gg_weight, gg_bias)>.
    """

    @staticmethod
    def forward(g, u, weight, offsets, set_ids, stride, padding, dilation, algorithm, backend, need):  # type: ignore[no-untyped-def]
        return torch.ops.interconv.interconv2d_backward(
            g, u, weight, offsets, set_ids, stride, padding, dilation, algorithm, backend, need
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        g, u, weight, offsets, set_ids, *ctx.settings, ctx.need = inputs
        ctx.save_for_backward(g, u, weight, offsets, set_ids)

    @staticmethod
    def backward(ctx: Any, gg_u: Tensor, gg_weight: Tensor, gg_bias: Tensor) -> OptionalTensors:
        g, u, weight, *sets = ctx.saved_tensors
        by_u, by_weight, by_bias = ctx.need
        rest = (*sets, *ctx.settings)
        grad_g = grad_u = grad_weight = None
        if by_u:
            grad_g = InterConvFunction.apply(gg_u, weight, None, *rest)
            grad_weight = InterConvBackwardFunction.apply(g, gg_u, weight, *rest, [False, True, False])[1]
        if by_weight:
            term = InterConvFunction.apply(u, gg_weight, gg_bias if by_bias else None, *rest)
            grad_g = term if grad_g is None else grad_g + term
            grad_u = InterConvBackwardFunction.apply(g, u, gg_weight, *rest, [True, False, False])[0]
        elif by_bias:
            term = gg_bias.view(1, -1, 1, 1).expand_as(g)
            grad_g = term if grad_g is None else grad_g + term
        return grad_g, grad_u, grad_weight, *(None,) * 8


# torch reads the signature of `forward` on every call, which takes longer to find than to look up.
for _function in (InterConvFunction, InterConvBackwardFunction):
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore[union-attr]

# The same formulas for code that calls the operators directly, such as an exported program.
for _name, _function in (("interconv2d", InterConvFunction), ("interconv2d_backward", InterConvBackwardFunction)):
    torch.library.register_autograd(f"interconv::{_name}", _function.backward, setup_context=_function.setup_context)

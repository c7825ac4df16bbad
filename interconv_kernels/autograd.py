"""Derivatives: an autograd Function over the operator interconv, and one over its backward, of any order.

Forward mode (jvp) and torch.func have Functions of their own, which torch.compile cannot trace. The operators have
reverse mode, too, for programs that call them directly, such as an exported one; torch offers them no forward mode, and
drops its tangents.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

OptionalTensors = tuple[Tensor | None, ...]


def needs_derivatives(*inputs: Any) -> bool:
    """Whether autograd, forward mode or a transform of torch.func may want derivatives with respect to the inputs."""
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        return True
    return is_transformed()


def is_transformed() -> bool:
    """Whether forward mode or a transform of torch.func is active; not asked of code that is compiled."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def interconv(*args: Any) -> Tensor:
    """The layer with derivatives, with the arguments of the operator."""
    return (InterConvTransformed if is_transformed() else InterConvFunction).apply(*args)


def interconv_backward(*args: Any) -> tuple[Tensor, ...]:
    """Its backward pass with derivatives, with the arguments of the operator."""
    return (InterConvBackwardTransformed if is_transformed() else InterConvBackwardFunction).apply(*args)


class InterConvFunction(torch.autograd.Function):
    """y = conv(concat(u_i, s); weight) + bias. Saves u and weight alone."""

    @staticmethod
    def forward(u, weight, bias, offsets, set_ids, stride, padding, dilation, algorithm, backend):  # type: ignore[no-untyped-def]
        return torch.ops.interconv.interconv(
            u, weight, bias, offsets, set_ids, stride, padding, dilation, algorithm, backend
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        u, weight, _, offsets, set_ids, *ctx.settings = inputs
        ctx.save_for_backward(u, weight, offsets, set_ids)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> OptionalTensors:
        need = list(ctx.needs_input_grad[:3])
        grads = interconv_backward(g, *ctx.saved_tensors, *ctx.settings, need)
        return *(grad if needed else None for grad, needed in zip(grads, need, strict=True)), *(None,) * 7


class InterConvBackwardFunction(torch.autograd.Function):
    """(g, u, weight) -> the gradients of the layer. Its derivative consists of layers again, so all orders exist.

    The layer is linear in (u, bias) and in (weight, bias): <gg_u, grad_u> = <g, layer(gg_u; weight)> and
    <gg_weight, grad_weight> + <gg_bias, grad_bias> = <g, layer(u; gg_weight, gg_bias)>.
    """

    @staticmethod
    def forward(g, u, weight, offsets, set_ids, stride, padding, dilation, algorithm, backend, need):  # type: ignore[no-untyped-def]
        return torch.ops.interconv.interconv_backward(
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
            grad_g = interconv(gg_u, weight, None, *rest)
            grad_weight = interconv_backward(g, gg_u, weight, *rest, [False, True, False])[1]
        if by_weight:
            term = interconv(u, gg_weight, gg_bias if by_bias else None, *rest)
            grad_g = term if grad_g is None else grad_g + term
            grad_u = interconv_backward(g, u, gg_weight, *rest, [True, False, False])[0]
        elif by_bias:
            term = gg_bias.view(-1, *[1] * (g.dim() - 2)).expand_as(g)
            grad_g = term if grad_g is None else grad_g + term
        return grad_g, grad_u, grad_weight, *(None,) * 8


class _Transformed(torch.autograd.Function):
    """With a vmap that calls it for each element of the batch. torch.compile cannot trace those with a jvp."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        results = [
            cls.apply(*(x.select(dim, i) if isinstance(dim, int) else x for x, dim in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


class InterConvTransformed(_Transformed, InterConvFunction):
    """The same in forward mode and under transforms of torch.func."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        InterConvFunction.setup_context(ctx, inputs, output)
        u, weight, _, offsets, set_ids, *_ = inputs
        ctx.save_for_forward(u, weight, offsets, set_ids)

    @staticmethod
    def jvp(ctx: Any, du: Tensor, dweight: Tensor, dbias: Tensor | None, *_: None) -> Tensor:
        u, weight, *sets = ctx.saved_tensors
        by_u = interconv(du, weight, dbias, *sets, *ctx.settings)
        return by_u + interconv(u, dweight, None, *sets, *ctx.settings)


class InterConvBackwardTransformed(_Transformed, InterConvBackwardFunction):
    """The same in forward mode and under transforms of torch.func."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        InterConvBackwardFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:5])

    @staticmethod
    def jvp(ctx: Any, dg: Tensor, du: Tensor, dweight: Tensor, *_: None) -> OptionalTensors:
        g, u, weight, *sets = ctx.saved_tensors
        rest, (by_u, by_weight, _) = (*sets, *ctx.settings), ctx.need
        grad_u, grad_weight, grad_bias = interconv_backward(dg, u, weight, *rest, ctx.need)
        if by_u:
            grad_u = grad_u + interconv_backward(g, u, dweight, *rest, [True, False, False])[0]
        if by_weight:
            grad_weight = grad_weight + interconv_backward(g, du, weight, *rest, [False, True, False])[1]
        return grad_u, grad_weight, grad_bias


ADJOINTS = {"set_reduce": "set_add", "concat_set_mean": "concat_set_mean_backward"}
ADJOINTS |= {adjoint: name for name, adjoint in ADJOINTS.items()}


class SetTransformed(_Transformed):
    """A set operation of one tensor, by name. All are linear: their derivatives are themselves and their adjoints."""

    @staticmethod
    def forward(name: str, x: Tensor, offsets: Tensor, set_ids: Tensor, settings: tuple[Any, ...]) -> Tensor:
        tensors = (None, x) if name == "set_add" else (x,)
        return getattr(torch.ops.interconv, name)(*tensors, offsets, set_ids, *settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, _, offsets, set_ids, ctx.settings = inputs
        ctx.save_for_backward(offsets, set_ids)
        ctx.save_for_forward(offsets, set_ids)

    @staticmethod
    def jvp(ctx: Any, _: None, dx: Tensor, *__: None) -> Tensor:
        return SetTransformed.apply(ctx.name, dx, *ctx.saved_tensors, ctx.settings)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> OptionalTensors:
        return None, SetTransformed.apply(ADJOINTS[ctx.name], g, *ctx.saved_tensors, ctx.settings), None, None, None


# torch reads the signature of `forward` on every call, which takes longer to find than to look up.
for _function in (InterConvFunction, InterConvBackwardFunction):
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore[union-attr]

# The same formulas for code that calls the operators directly, such as an exported program.
for _name, _function in (("interconv", InterConvFunction), ("interconv_backward", InterConvBackwardFunction)):
    torch.library.register_autograd(f"interconv::{_name}", _function.backward, setup_context=_function.setup_context)

"""The library's operators, `torch.ops.interconv.*`: one schema and one fake each, whatever the backend.

The set operations `set_reduce`, `set_add`, `concat_set_mean`, `concat_set_mean_backward`, `center` and `uncenter` are
those of `SetOps` (`_backends/contract.py`), on tensors of any layout. The layer is `interconv` and
`interconv_backward`; `interconv_leaky_relu` applies a leaky ReLU with slopes [Co] to its result, for inference.
These three, `center` and `uncenter` need sets that are not empty. `center`, `uncenter` and `interconv_leaky_relu`
have no derivatives; the others have derivatives of any order. For C++ programs without Python, csrc/operators.cpp
registers the operators of inference with the same schemas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import algorithms
from ._backends.registry import get as get_backend
from ._sliding_windows import check_not_windows
from .choice import choose
from .convolution import Conv
from .layout import common_format, dense, empty_rows, memory_format
from .sets import SetIndex

_library = torch.library.Library("interconv", "DEF")

_SETS = "Tensor offsets, Tensor set_ids"
_CONV = "int[] stride, int[] padding, int[] dilation, str algorithm, str backend"


def _op(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Defines interconv::<schema>, implemented on every device by the decorated function, which picks the backend."""
    name = schema.split("(")[0]

    def define(impl: Callable[..., Any]) -> Callable[..., Any]:
        _library.define(schema, tags=(torch.Tag.needs_exact_strides,))
        _library.impl(name, impl, "CompositeExplicitAutograd")
        return impl

    return define


def _fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return torch.library.register_fake(f"interconv::{name}", lib=_library)


# --- set operations ---------------------------------------------------------------------------------------------------


@_op(f"set_reduce(Tensor x, {_SETS}, bool mean, str backend) -> Tensor")
def set_reduce(x: Tensor, offsets: Tensor, set_ids: Tensor, mean: bool, backend: str) -> Tensor:
    sets = SetIndex(offsets, set_ids)
    check_not_windows(x, sets)
    return get_backend(backend, x.device).set_ops.set_reduce(dense(x), sets, mean)


@_fake("set_reduce")
def _(x: Tensor, offsets: Tensor, set_ids: Tensor, mean: bool, backend: str) -> Tensor:
    return empty_rows(x, offsets.shape[0] - 1)


@_op(f"set_add(Tensor? y, Tensor t, {_SETS}, bool mean, str backend) -> Tensor")
def set_add(y: Tensor | None, t: Tensor, offsets: Tensor, set_ids: Tensor, mean: bool, backend: str) -> Tensor:
    fmt = memory_format(t if y is None else y)
    y = None if y is None else dense(y, fmt)
    out = empty_rows(t if y is None else y, set_ids.shape[0])
    return get_backend(backend, t.device).set_ops.set_add(y, dense(t, fmt), SetIndex(offsets, set_ids), mean, out)


@_fake("set_add")
def _(y: Tensor | None, t: Tensor, offsets: Tensor, set_ids: Tensor, mean: bool, backend: str) -> Tensor:
    return empty_rows(t if y is None else y, set_ids.shape[0])


@_op(f"concat_set_mean(Tensor u, {_SETS}, str backend) -> Tensor")
def concat_set_mean(u: Tensor, offsets: Tensor, set_ids: Tensor, backend: str) -> Tensor:
    sets = SetIndex(offsets, set_ids)
    check_not_windows(u, sets)
    return get_backend(backend, u.device).set_ops.concat_set_mean(dense(u), sets)


@_fake("concat_set_mean")
def _(u: Tensor, offsets: Tensor, set_ids: Tensor, backend: str) -> Tensor:
    return empty_rows(u, u.shape[0], 2 * u.shape[1])


@_op(f"concat_set_mean_backward(Tensor g, {_SETS}, str backend) -> Tensor")
def concat_set_mean_backward(g: Tensor, offsets: Tensor, set_ids: Tensor, backend: str) -> Tensor:
    return get_backend(backend, g.device).set_ops.concat_set_mean_backward(dense(g), SetIndex(offsets, set_ids))


@_fake("concat_set_mean_backward")
def _(g: Tensor, offsets: Tensor, set_ids: Tensor, backend: str) -> Tensor:
    return empty_rows(g, g.shape[0], g.shape[1] // 2)


@_op(f"center(Tensor x, {_SETS}, bool from_mean, str backend) -> (Tensor, Tensor)")
def center(x: Tensor, offsets: Tensor, set_ids: Tensor, from_mean: bool, backend: str) -> tuple[Tensor, Tensor]:
    return get_backend(backend, x.device).set_ops.center(dense(x), SetIndex(offsets, set_ids), from_mean)


@_fake("center")
def _(x: Tensor, offsets: Tensor, set_ids: Tensor, from_mean: bool, backend: str) -> tuple[Tensor, Tensor]:
    num_sets = offsets.shape[0] - 1
    return empty_rows(x, num_sets), empty_rows(x, x.shape[0] - num_sets)


@_op(f"uncenter(Tensor mean, Tensor dev, {_SETS}, str backend) -> Tensor")
def uncenter(mean: Tensor, dev: Tensor, offsets: Tensor, set_ids: Tensor, backend: str) -> Tensor:
    fmt = memory_format(mean)
    return get_backend(backend, mean.device).set_ops.uncenter(
        dense(mean, fmt), dense(dev, fmt), SetIndex(offsets, set_ids)
    )


@_fake("uncenter")
def _(mean: Tensor, dev: Tensor, offsets: Tensor, set_ids: Tensor, backend: str) -> Tensor:
    return empty_rows(mean, set_ids.shape[0])


# --- their derivatives: each adjoint is one of the ops again ----------------------------------------------------------


def _keep_sets(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """For set_reduce and set_add: (first tensor(s), offsets, set_ids, mean, backend)."""
    *_, offsets, set_ids, ctx.mean, ctx.backend = inputs
    ctx.save_for_backward(offsets, set_ids)


def _set_reduce_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return torch.ops.interconv.set_add(None, g, *ctx.saved_tensors, ctx.mean, ctx.backend), None, None, None, None


def _set_add_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    grad_y = g if ctx.needs_input_grad[0] else None
    return grad_y, torch.ops.interconv.set_reduce(g, *ctx.saved_tensors, ctx.mean, ctx.backend), None, None, None, None


def _keep_concat_sets(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, offsets, set_ids, ctx.backend = inputs
    ctx.save_for_backward(offsets, set_ids)


def _concat_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return torch.ops.interconv.concat_set_mean_backward(g, *ctx.saved_tensors, ctx.backend), None, None, None


def _concat_double_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return torch.ops.interconv.concat_set_mean(g, *ctx.saved_tensors, ctx.backend), None, None, None


for _name, _formula, _setup in (
    ("set_reduce", _set_reduce_backward, _keep_sets),
    ("set_add", _set_add_backward, _keep_sets),
    ("concat_set_mean", _concat_backward, _keep_concat_sets),
    ("concat_set_mean_backward", _concat_double_backward, _keep_concat_sets),
):
    torch.library.register_autograd(f"interconv::{_name}", _formula, setup_context=_setup, lib=_library)


# --- the layer --------------------------------------------------------------------------------------------------------


@_op(f"interconv(Tensor u, Tensor weight, Tensor? bias, {_SETS}, {_CONV}) -> Tensor")
def interconv(u, weight, bias, offsets, set_ids, *settings):  # type: ignore[no-untyped-def]
    return _forward(u, weight, bias, None, SetIndex(offsets, set_ids), *settings)


@_fake("interconv")
def _(u, weight, bias, offsets, set_ids, stride, padding, dilation, algorithm, backend):  # type: ignore[no-untyped-def]
    return _new_output(u, weight, _conv(u, weight, stride, padding, dilation))


@_op(f"interconv_leaky_relu(Tensor u, Tensor weight, Tensor? bias, Tensor slope, {_SETS}, {_CONV}) -> Tensor")
def interconv_leaky_relu(u, weight, bias, slope, offsets, set_ids, *settings):  # type: ignore[no-untyped-def]
    return _forward(u, weight, bias, slope.contiguous(), SetIndex(offsets, set_ids), *settings)


@_fake("interconv_leaky_relu")
def _(u, weight, bias, slope, offsets, set_ids, stride, padding, dilation, algorithm, backend):  # type: ignore[no-untyped-def]
    return _new_output(u, weight, _conv(u, weight, stride, padding, dilation))


def _forward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    sets: SetIndex,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    algorithm: str,
    backend: str,
) -> Tensor:
    conv = _conv(u, weight, stride, padding, dilation)
    if u.shape[0] == 0:
        return _new_output(u, weight, conv)
    check_not_windows(u, sets)
    u, weight = dense(u, conv.fmt), dense(weight, conv.fmt)
    if u.dim() == 5 and conv.is_pointwise(weight):
        y = _forward(_image(u), _image(weight), bias, slope, sets, (1, 1), (0, 0), (1, 1), algorithm, backend)
        return y.unflatten(2, u.shape[2:4])
    bias = None if bias is None else bias.contiguous()  # that of a gradient may be expanded
    choice = choose(backend, algorithm, "forward", conv, u, weight, sets)
    return algorithms.forward(choice, conv, u, weight, bias, sets, slope)


def _image(volume: Tensor) -> Tensor:
    """[N,C,D,H,W] as [N,C,D*H,W], in the same memory: kernels of size 1 see pixels alone."""
    return volume.flatten(2, 3)


def _conv(u: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Conv:
    return Conv(tuple(stride), tuple(padding), tuple(dilation), common_format(u, weight))


def _new_output(u: Tensor, weight: Tensor, conv: Conv) -> Tensor:
    shape = (u.shape[0], weight.shape[0], *conv.output_size(u.shape[2:], weight.shape[2:]))
    return torch.empty(shape, dtype=u.dtype, device=u.device, memory_format=conv.fmt)


@_op(
    f"interconv_backward(Tensor g, Tensor u, Tensor weight, {_SETS}, {_CONV}, bool[3] need)"
    " -> (Tensor grad_u, Tensor grad_weight, Tensor grad_bias)"
)
def interconv_backward(
    g: Tensor,
    u: Tensor,
    weight: Tensor,
    offsets: Tensor,
    set_ids: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    algorithm: str,
    backend: str,
    need: Sequence[bool],
) -> tuple[Tensor, ...]:
    conv = _conv(u, weight, stride, padding, dilation)
    if u.shape[0] == 0:
        return tuple(grad.zero_() for grad in _new_gradients(u, weight, need))
    g, u, dense_weight = dense(g, conv.fmt), dense(u, conv.fmt), dense(weight, conv.fmt)
    if u.dim() == 5 and conv.is_pointwise(weight):
        images = (_image(x) for x in (g, u, dense_weight))
        grads = interconv_backward(*images, offsets, set_ids, (1, 1), (0, 0), (1, 1), algorithm, backend, need)
        shapes = (u.shape, weight.shape, weight.shape[:1])
        return tuple(x.view(shape) if needed else x for x, shape, needed in zip(grads, shapes, need, strict=True))
    sets = SetIndex(offsets, set_ids)
    choice = choose(backend, algorithm, "backward", conv, u, dense_weight, sets)
    grads = algorithms.backward(choice, conv, g, u, dense_weight, sets, need)
    formats = (conv.fmt, memory_format(weight), torch.contiguous_format)
    return tuple(
        u.new_empty((0,)) if x is None else dense(x.to(u.dtype), f) for x, f in zip(grads, formats, strict=True)
    )


@_fake("interconv_backward")
def _(g, u, weight, offsets, set_ids, stride, padding, dilation, algorithm, backend, need):  # type: ignore[no-untyped-def]
    return _new_gradients(u, weight, need)


def _new_gradients(u: Tensor, weight: Tensor, need: Sequence[bool]) -> tuple[Tensor, ...]:
    """Uninitialised gradients of u, weight and bias; of size 0 where not needed (an op returns tensors only)."""
    grad_u = torch.empty_like(u, memory_format=common_format(u, weight))
    grad_weight = torch.empty_like(weight, memory_format=memory_format(weight))
    grads = (grad_u, grad_weight, weight.new_empty(weight.shape[0]))
    return tuple(x if needed else u.new_empty((0,)) for x, needed in zip(grads, need, strict=True))

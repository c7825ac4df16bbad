"""The functional interface: checks, autocast, and the three shapes that a batch of sets can have."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import algorithms, flops, ops, traceable  # noqa: F401  (ops defines the operators, flops their formulas)
from ._backends.registry import check_name
from ._sliding_windows import check_not_windows
from .activation import leaky_relu
from .arguments import (
    FLOATS,
    PACKED,
    cast_for_autocast,
    check_slope,
    check_tensors,
    conv_of,
    from_dense,
    from_jagged,
    names_of,
)
from .as_sets import as_sets
from .autograd import SetTransformed, is_transformed, needs_derivatives
from .autograd import interconv as differentiable
from .choice import is_decomposed, is_traced
from .convolution import Conv
from .errors import unknown_name
from .sets import SetIndex, Sets
from .typing import Algorithm, BackendName, Padding, SetsLike


def interconv2d(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sets: SetsLike | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: Padding = "same",
    dilation: int | tuple[int, int] = 1,
    negative_slope: float | Tensor | None = None,
    algorithm: Algorithm = "auto",
    backend: BackendName = "auto",
) -> Tensor:
    """InterConv: y_i = act(conv(concat(u_i, s); weight) + bias), s the mean of the sample's set (paper, Eq. 1-3).

    Args:
        u: [N,C,H,W], packed samples with `sets`; or dense [B,K,C,H,W], sets of equal size; or a jagged nested tensor
            [B,j,C,H,W]. float64, float32, bfloat16 or float16, NCHW or channels_last.
        weight: [Co,2C,kh,kw], the half for u_i first, then the half for s, with the dtype and device of u.
        bias: [Co] or None.
        sets: for packed u: `Sets`, a list of set sizes, a tensor of offsets, or one int (equal sets). Else None.
        stride: an int or (height, width), >= 1.
        padding: "same" (dilation * (k - 1) / 2 on each side, for odd k; with stride 1 the size is kept), or zeros on
            each side as an int or (height, width).
        dilation: an int or (height, width), >= 1.
        negative_slope: act(x) is x where x >= 0, else negative_slope * x: 0 is ReLU, another number leaky ReLU, a
            tensor [1] or [Co] PReLU. None: no activation. Without gradients the kernels apply it as they write y; with
            gradients it is an operation of its own.
        algorithm: "concat", "split", "centered", "fused", "decomposed" (`split` in aten operations, for exporters) or
            "auto": the same result up to rounding.
        backend: "triton", "cpp", "torch" or "auto"; see `backends()`.

    Returns:
        y [N,Co,H',W'] packed, dense [B,K,Co,H',W'] or jagged, as u was; channels_last if u or weight is.

    Raises:
        ValueError: shapes, sizes, devices or names that do not fit.
        TypeError: dtypes or types that do not fit.
    """
    return _interconv(2, u, weight, bias, sets, stride, padding, dilation, negative_slope, algorithm, backend)


def interconv1d(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sets: SetsLike | None = None,
    *,
    stride: int | tuple[int] = 1,
    padding: Padding = "same",
    dilation: int | tuple[int] = 1,
    negative_slope: float | Tensor | None = None,
    algorithm: Algorithm = "auto",
    backend: BackendName = "auto",
) -> Tensor:
    """`interconv2d` for signals: the same equation with a convolution along one axis.

    It is computed as images of height 1, in the same memory.

    Args:
        u: [N,C,L], packed samples with `sets`; or dense [B,K,C,L]; or a jagged nested tensor [B,j,C,L].
        weight: [Co,2C,k].
        bias: [Co] or None.
        sets: as in `interconv2d`.
        stride: an int or (length,), >= 1.
        padding: "same", or zeros on each side, as in `interconv2d`.
        dilation: an int or (length,), >= 1.
        negative_slope: as in `interconv2d`.
        algorithm: as in `interconv2d`.
        backend: as in `interconv2d`.

    Returns:
        y [N,Co,L'] packed, dense [B,K,Co,L'] or jagged, as u was.

    Raises:
        ValueError: as in `interconv2d`.
        TypeError: as in `interconv2d`.
    """
    return _interconv(1, u, weight, bias, sets, stride, padding, dilation, negative_slope, algorithm, backend)


def interconv3d(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sets: SetsLike | None = None,
    *,
    stride: int | tuple[int, int, int] = 1,
    padding: Padding = "same",
    dilation: int | tuple[int, int, int] = 1,
    negative_slope: float | Tensor | None = None,
    algorithm: Algorithm = "auto",
    backend: BackendName = "auto",
) -> Tensor:
    """`interconv2d` for volumes: the same equation with a convolution along three axes.

    Args:
        u: [N,C,D,H,W], packed samples with `sets`; or dense [B,K,C,D,H,W]; or a jagged nested tensor [B,j,C,D,H,W].
            Contiguous or channels_last_3d.
        weight: [Co,2C,kd,kh,kw].
        bias: [Co] or None.
        sets: as in `interconv2d`.
        stride: an int or (depth, height, width), >= 1.
        padding: "same", or zeros on each side, as in `interconv2d`.
        dilation: an int or (depth, height, width), >= 1.
        negative_slope: as in `interconv2d`.
        algorithm: as in `interconv2d`.
        backend: as in `interconv2d`.

    Returns:
        y [N,Co,D',H',W'] packed, dense [B,K,Co,D',H',W'] or jagged, as u was; channels_last_3d if u or weight is.

    Raises:
        ValueError: as in `interconv2d`.
        TypeError: as in `interconv2d`.
    """
    return _interconv(3, u, weight, bias, sets, stride, padding, dilation, negative_slope, algorithm, backend)


def interlinear(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sets: SetsLike | None = None,
    *,
    negative_slope: float | Tensor | None = None,
    algorithm: Algorithm = "auto",
    backend: BackendName = "auto",
) -> Tensor:
    """`interconv2d` for tokens: y_i = act(linear(concat(u_i, s); weight) + bias), s the mean of the set's tokens.

    It is computed as a 1x1 kernel over images in channels_last, which have the same memory.

    Args:
        u: packed samples [N,...,C], whose tokens, along any axes between, correspond to each other.
        weight: [Co,2C], the half for u_i first, then the half for s, with the dtype and device of u.
        bias: [Co] or None.
        sets: as in `interconv2d`, for the first axis of u; needed.
        negative_slope: as in `interconv2d`.
        algorithm: as in `interconv2d`.
        backend: as in `interconv2d`.

    Returns:
        y [N,...,Co].

    Raises:
        ValueError: as in `interconv2d`.
        TypeError: as in `interconv2d`.
    """
    if u.is_nested or u.dim() < 2 or weight.dim() != 2 or weight.shape[1] != 2 * u.shape[-1]:
        raise ValueError(
            f"u has shape {tuple(u.shape)}, weight {tuple(weight.shape)}: expected packed [N,...,C] and [Co, 2C]"
        )
    rows = u.reshape(u.shape[0], math.prod(u.shape[1:-1]), 1, u.shape[-1])
    kernel = weight[:, :, None, None]
    y = _interconv(2, rows.movedim(-1, 1), kernel, bias, sets, 1, 0, 1, negative_slope, algorithm, backend)
    return y.movedim(1, -1).reshape(*u.shape[:-1], weight.shape[0])


def _interconv(
    axes: int,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetsLike | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    negative_slope: float | Tensor | None,
    algorithm: Algorithm,
    backend: BackendName,
) -> Tensor:
    """The layer over 1, 2 or 3 axes."""
    jagged_offsets = dense_shape = None
    if u.is_nested:
        u, jagged_offsets, sets = from_jagged(axes, u, sets)
    elif u.dim() == axes + 3:
        dense_shape = (u.shape[0], u.shape[1])
        u, sets = from_dense(axes, u, sets)
    u, weight, bias = cast_for_autocast(u, weight, bias)
    check_tensors(axes, u, weight, bias)
    conv = conv_of(axes, u, weight, stride, padding, dilation)
    if algorithm not in algorithms.NAMES:
        raise unknown_name("algorithm", algorithm, algorithms.NAMES)
    check_name(backend)
    if sets is None:
        raise ValueError(
            f"u has shape {tuple(u.shape)} (packed {PACKED[axes]}) and sets is None:"
            " expected ik.Sets or a list of set lengths"
        )
    sets = as_sets(sets, u.shape[0], u.device)
    negative_slope = check_slope(negative_slope, u, weight)
    if axes == 1:  # an image of height 1
        u, weight = u.unsqueeze(2), weight.unsqueeze(2)
        conv = Conv((1, *conv.stride), (0, *conv.padding), (1, *conv.dilation))
    y = _layer(u, weight, bias, sets, conv, negative_slope, algorithm, backend)
    y = y.squeeze(2) if axes == 1 else y
    if jagged_offsets is not None:
        return torch.nested.nested_tensor_from_jagged(y, offsets=jagged_offsets)
    return y if dense_shape is None else y.unflatten(0, dense_shape)


def _layer(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: Sets,
    conv: Conv,
    negative_slope: float | Tensor | None,
    algorithm: Algorithm,
    backend: BackendName,
) -> Tensor:
    """The layer on packed images or volumes, by the operator or the graph that the call needs."""
    index = (sets.live_offsets, sets.live_ids)
    settings = ([*conv.stride], [*conv.padding], [*conv.dilation], algorithm, backend)
    traced = is_traced(u, algorithm)
    differentiated = needs_derivatives(u, weight, bias, negative_slope)
    # A graph of torch.jit.trace holds operators alone, and those with derivatives, whether or not it needs them now.
    if negative_slope is not None and not traced and not differentiated and not torch.jit.is_tracing():
        slope = _slopes(negative_slope, u, weight.shape[0])
        return torch.ops.interconv.interconv_leaky_relu(u, weight, bias, slope, *index, *settings)
    if traced:
        if not torch.compiler.is_compiling():
            check_not_windows(u, SetIndex(*index))
        y = traceable.interconv(u, weight, bias, *index, conv, None if is_decomposed(algorithm) else backend)
    elif differentiated and not torch.jit.is_tracing():  # a file can hold operators, but no autograd.Function
        y = differentiable(u, weight, bias, *index, *settings)
    else:
        y = torch.ops.interconv.interconv(u, weight, bias, *index, *settings)
    return y if negative_slope is None else leaky_relu(y, negative_slope)


def _slopes(slope: float | Tensor, u: Tensor, out_channels: int) -> Tensor:
    """A slope for each output channel; a number is filled in on the device, since a copy to it would wait for it."""
    return slope.expand(out_channels) if isinstance(slope, Tensor) else u.new_full((out_channels,), slope)


def set_mean(u: Tensor, sets: SetsLike, *, backend: BackendName = "auto") -> Tensor:
    """s_b = (1/K_b) sum_{i in b} u_i, pixel by pixel and feature by feature (paper, Eq. 1); zero for an empty set.

    Args:
        u: [N, ...], floating point, rank >= 2.
        sets: as in `interconv2d`.
        backend: as in `interconv2d`.

    Returns:
        s [B, ...] in the dtype of u (bfloat16 and float16 are summed in float32).

    Raises:
        ValueError: sets that do not fit u, or an unknown name.
        TypeError: a rank below 2, or a dtype that is not floating point.
    """
    sets = _check_set_op(u, sets, backend)
    if is_decomposed("auto"):
        return traceable.set_reduce(u, sets.offsets, sets.set_ids, mean=True)
    return _set_op("set_reduce", u, sets, True, backend)


def concat_set_mean(u: Tensor, sets: SetsLike, *, backend: BackendName = "auto") -> Tensor:
    """c_i = concat(u_i, s), the input of the convolution (paper, Eq. 1-2).

    Args:
        u: [N,C,...], floating point, rank >= 2.
        sets: as in `interconv2d`.
        backend: as in `interconv2d`.

    Returns:
        c [N,2C,...], the channels of u first.

    Raises:
        ValueError: sets that do not fit u, or an unknown name.
        TypeError: a rank below 2, or a dtype that is not floating point.
    """
    sets = _check_set_op(u, sets, backend)
    if is_decomposed("auto"):
        s = traceable.set_reduce(u, sets.offsets, sets.set_ids, mean=True)
        return torch.cat([u, s.index_select(0, sets.set_ids)], dim=1)
    return _set_op("concat_set_mean", u, sets, backend)


def _check_set_op(u: Tensor, sets: Any, backend: BackendName) -> Sets:
    if u.dim() < 2 or u.dtype not in FLOATS:
        raise TypeError(f"u has shape {tuple(u.shape)} and dtype {u.dtype}: expected [N,C,...] in {names_of(FLOATS)}")
    check_name(backend)
    return as_sets(sets, u.shape[0], u.device)


def _set_op(name: str, u: Tensor, sets: Sets, *settings: Any) -> Tensor:
    if is_transformed():
        return SetTransformed.apply(name, u, sets.offsets, sets.set_ids, settings)
    return getattr(torch.ops.interconv, name)(u, sets.offsets, sets.set_ids, *settings)

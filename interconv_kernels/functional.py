"""The functional interface: checks, autocast, and the three shapes that a batch of sets can have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import algorithms, flops, ops, traceable  # noqa: F401  (ops defines the operators, flops their formulas)
from ._backends.registry import check_name
from ._sliding_windows import check_not_windows
from .activation import leaky_relu
from .as_sets import as_sets, sets_of_jagged
from .autograd import SetTransformed, is_transformed, needs_derivatives
from .autograd import interconv2d as differentiable
from .choice import is_decomposed, is_traced
from .convolution import Conv
from .errors import unknown_name
from .sets import SetIndex, Sets
from .typing import Algorithm, BackendName, Padding, SetsLike

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


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
    jagged_offsets = dense_shape = None
    if u.is_nested:
        u, jagged_offsets, sets = _from_jagged(u, sets)
    elif u.dim() == 5:
        dense_shape = (u.shape[0], u.shape[1])
        u, sets = _from_dense(u, sets)
    u, weight, bias = cast_for_autocast(u, weight, bias)
    _check_tensors(u, weight, bias)
    conv = _conv(u, weight, stride, padding, dilation)
    if algorithm not in algorithms.NAMES:
        raise unknown_name("algorithm", algorithm, algorithms.NAMES)
    check_name(backend)
    if sets is None:
        raise ValueError(
            f"u has shape {tuple(u.shape)} (packed [N,C,H,W]) and sets is None:"
            " expected ik.Sets or a list of set lengths"
        )
    sets = as_sets(sets, u.shape[0], u.device)
    negative_slope = _check_slope(negative_slope, u, weight)
    index = (sets.live_offsets, sets.live_ids)
    settings = ([*conv.stride], [*conv.padding], [*conv.dilation], algorithm, backend)
    traced = is_traced(u, algorithm)
    differentiated = needs_derivatives(u, weight, bias, negative_slope)
    # A graph of torch.jit.trace holds operators alone, and those with derivatives, whether or not it needs them now.
    if negative_slope is not None and not traced and not differentiated and not torch.jit.is_tracing():
        slope = _slopes(negative_slope, u, weight.shape[0])
        y = torch.ops.interconv.interconv2d_leaky_relu(u, weight, bias, slope, *index, *settings)
    else:
        if traced:
            if not torch.compiler.is_compiling():
                check_not_windows(u, SetIndex(*index))
            y = traceable.interconv2d(u, weight, bias, *index, conv, None if is_decomposed(algorithm) else backend)
        elif differentiated and not torch.jit.is_tracing():  # a file can hold operators, but no autograd.Function
            y = differentiable(u, weight, bias, *index, *settings)
        else:
            y = torch.ops.interconv.interconv2d(u, weight, bias, *index, *settings)
        y = y if negative_slope is None else leaky_relu(y, negative_slope)
    if jagged_offsets is not None:
        return torch.nested.nested_tensor_from_jagged(y, offsets=jagged_offsets)
    return y if dense_shape is None else y.unflatten(0, dense_shape)


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
        raise TypeError(f"u has shape {tuple(u.shape)} and dtype {u.dtype}: expected [N,C,...] in {_names(FLOATS)}")
    check_name(backend)
    return as_sets(sets, u.shape[0], u.device)


def _set_op(name: str, u: Tensor, sets: Sets, *settings: Any) -> Tensor:
    if is_transformed():
        return SetTransformed.apply(name, u, sets.offsets, sets.set_ids, settings)
    return getattr(torch.ops.interconv, name)(u, sets.offsets, sets.set_ids, *settings)


def _from_dense(u: Tensor, sets: Any) -> tuple[Tensor, Sets]:
    """The packed samples and the sets of dense [B,K,C,H,W]."""
    if sets is not None:
        raise ValueError(
            f"u has shape {tuple(u.shape)} (dense [B,K,C,H,W], whose sets are its rows)"
            " and sets were given too: expected one"
        )
    return u.flatten(0, 1), Sets.equal(u.shape[0], u.shape[1], u.device)


def _from_jagged(u: Any, sets: Any) -> tuple[Tensor, Tensor, Sets]:
    """The packed samples, offsets and sets of a jagged nested tensor."""
    if u.layout != torch.jagged or u.dim() != 5:
        raise ValueError(f"nested u has layout {u.layout} and {u.dim()} dimensions: expected torch.jagged, [B,j,C,H,W]")
    if sets is not None:
        raise ValueError("u is a nested tensor, which knows its sets, and sets were given too: expected one")
    if u.lengths() is not None:
        raise ValueError(
            "nested u has holes (lengths beside offsets): expected one without, as nested_tensor_from_jagged makes"
        )
    offsets = u.offsets()
    return u.values(), offsets, sets_of_jagged(offsets, u.values().shape[0], u.device)


def cast_for_autocast(u: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The layer runs in autocast's low precision, as nn.Conv2d does (float64 excepted)."""
    kind = u.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return u, weight, bias
    low = torch.get_autocast_dtype(kind)

    def cast(x: Tensor) -> Tensor:
        return x.to(low) if x.is_floating_point() and x.dtype != torch.float64 else x

    return cast(u), cast(weight), None if bias is None else cast(bias)


def _check_tensors(u: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if u.dim() != 4:
        raise ValueError(
            f"u has shape {tuple(u.shape)}: expected packed [N,C,H,W], dense [B,K,C,H,W] or a jagged nested tensor"
        )
    if u.dtype not in FLOATS:
        raise TypeError(f"u has dtype {u.dtype}: expected one of {_names(FLOATS)}")
    if weight.dim() != 4 or weight.shape[1] != 2 * u.shape[1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}: expected [Co, 2C, kh, kw] ="
            f" [Co, {2 * u.shape[1]}, kh, kw] for u {tuple(u.shape)}"
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}: expected [{weight.shape[0]}] for weight {tuple(weight.shape)}"
        )
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and x.dtype != u.dtype:
            raise TypeError(f"{name} has dtype {x.dtype}, u has {u.dtype}: expected one dtype")
        if x is not None and x.device != u.device:
            raise ValueError(f"{name} is on {x.device}, u is on {u.device}: expected one device")


def _check_slope(slope: float | Tensor | None, u: Tensor, weight: Tensor) -> float | Tensor | None:
    if not isinstance(slope, Tensor):
        if isinstance(slope, bool) or not isinstance(slope, (int, float, type(None))):
            raise TypeError(f"negative_slope = {slope!r}: expected a number, a tensor or None")
        return slope
    if slope.shape not in ((1,), (weight.shape[0],)):
        raise ValueError(f"negative_slope has shape {tuple(slope.shape)}: expected [1] or [Co] = [{weight.shape[0]}]")
    if slope.device != u.device:
        raise ValueError(f"negative_slope is on {slope.device}, u is on {u.device}: expected one device")
    return slope.to(u.dtype)


def _slopes(slope: float | Tensor, u: Tensor, out_channels: int) -> Tensor:
    """A slope for each output channel; a number is filled in on the device, since a copy to it would wait for it."""
    return slope.expand(out_channels) if isinstance(slope, Tensor) else u.new_full((out_channels,), slope)


def _conv(u: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Conv:
    kernel = (weight.shape[2], weight.shape[3])
    strides, dilations = int_pair("stride", stride, minimum=1), int_pair("dilation", dilation, minimum=1)
    conv = Conv(strides, resolve_padding(padding, kernel, dilations), dilations)
    size = conv.output_size(u.shape[2:], kernel)
    if min(size) < 1:
        raise ValueError(
            f"u has H x W = {u.shape[2]} x {u.shape[3]}: too small for kernel {kernel} with {conv} (result {size})"
        )
    return conv


def resolve_padding(padding: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Zeros on each side along (height, width); "same" is dilation * (k - 1) / 2, for odd kernels."""
    if isinstance(padding, str):
        if padding != "same":
            raise unknown_name("padding", padding, ["same"])
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f'padding "same" with kernel {kernel}: expected odd sizes, or the padding as numbers')
        return dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)
    return int_pair("padding", padding, minimum=0)


def int_pair(name: str, value: Any, minimum: int) -> tuple[int, int]:
    """An int or a pair of ints as (height, width)."""
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or any(isinstance(x, bool) or not isinstance(x, int) for x in pair):
        raise TypeError(f"{name} = {value!r}: expected an int or a pair (height, width) of ints")
    if min(pair) < minimum:
        raise ValueError(f"{name} = {value!r}: expected at least {minimum}")
    return pair[0], pair[1]


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(d).removeprefix("torch.") for d in dtypes)

"""The arguments of the layer: the forms that a batch comes in, autocast, checks with their errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .as_sets import sets_of_jagged
from .convolution import Conv
from .errors import unknown_name
from .sets import Sets

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
PACKED = {1: "[N,C,L]", 2: "[N,C,H,W]", 3: "[N,C,D,H,W]"}
KERNEL = {1: "k", 2: "kh, kw", 3: "kd, kh, kw"}


def from_dense(axes: int, u: Tensor, sets: Any) -> tuple[Tensor, Sets]:
    """The packed samples and the sets of dense [B,K,C,H,W]."""
    if sets is not None:
        raise ValueError(
            f"u has shape {tuple(u.shape)} (dense {_batch(axes, 'K')}, whose sets are its rows)"
            " and sets were given too: expected one"
        )
    return u.flatten(0, 1), Sets.equal(u.shape[0], u.shape[1], u.device)


def from_jagged(axes: int, u: Any, sets: Any) -> tuple[Tensor, Tensor, Sets]:
    """The packed samples, offsets and sets of a jagged nested tensor."""
    if u.layout != torch.jagged or u.dim() != axes + 3:
        raise ValueError(
            f"nested u has layout {u.layout} and {u.dim()} dimensions: expected torch.jagged, {_batch(axes, 'j')}"
        )
    if sets is not None:
        raise ValueError("u is a nested tensor, which knows its sets, and sets were given too: expected one")
    if u.lengths() is not None:
        raise ValueError(
            "nested u has holes (lengths beside offsets): expected one without, as nested_tensor_from_jagged makes"
        )
    offsets = u.offsets()
    return u.values(), offsets, sets_of_jagged(offsets, u.values().shape[0], u.device)


def _batch(axes: int, size: str) -> str:
    """The shape of a dense or jagged batch, with the name of its set size."""
    return PACKED[axes].replace("N", f"B,{size}")


def cast_for_autocast(u: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The layer runs in autocast's low precision, as nn.Conv2d does (float64 excepted)."""
    kind = u.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return u, weight, bias
    low = torch.get_autocast_dtype(kind)

    def cast(x: Tensor) -> Tensor:
        return x.to(low) if x.is_floating_point() and x.dtype != torch.float64 else x

    return cast(u), cast(weight), None if bias is None else cast(bias)


def check_tensors(axes: int, u: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Shapes, dtypes and devices of packed u and the parameters."""
    if u.dim() != axes + 2:
        raise ValueError(
            f"u has shape {tuple(u.shape)}: expected packed {PACKED[axes]}, dense {_batch(axes, 'K')}"
            " or a jagged nested tensor"
        )
    if u.dtype not in FLOATS:
        raise TypeError(f"u has dtype {u.dtype}: expected one of {names_of(FLOATS)}")
    if weight.dim() != axes + 2 or weight.shape[1] != 2 * u.shape[1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}: expected [Co, 2C, {KERNEL[axes]}] ="
            f" [Co, {2 * u.shape[1]}, {KERNEL[axes]}] for u {tuple(u.shape)}"
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


def check_slope(slope: float | Tensor | None, u: Tensor, weight: Tensor) -> float | Tensor | None:
    """`negative_slope`, with the dtype of u if it is a tensor."""
    if not isinstance(slope, Tensor):
        if isinstance(slope, bool) or not isinstance(slope, (int, float, type(None))):
            raise TypeError(f"negative_slope = {slope!r}: expected a number, a tensor or None")
        return slope
    if slope.shape not in ((1,), (weight.shape[0],)):
        raise ValueError(f"negative_slope has shape {tuple(slope.shape)}: expected [1] or [Co] = [{weight.shape[0]}]")
    if slope.device != u.device:
        raise ValueError(f"negative_slope is on {slope.device}, u is on {u.device}: expected one device")
    return slope.to(u.dtype)


def conv_of(axes: int, u: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Conv:
    """The convolution; checks that its result has at least one pixel."""
    kernel = tuple(weight.shape[2:])
    strides = ints("stride", stride, axes, minimum=1)
    dilations = ints("dilation", dilation, axes, minimum=1)
    conv = Conv(strides, resolve_padding(padding, kernel, dilations), dilations)
    size = conv.output_size(u.shape[2:], kernel)
    if min(size) < 1:
        raise ValueError(
            f"u has {' x '.join(map(str, u.shape[2:]))} pixels: too small for kernel {kernel} with {conv}"
            f" (result {size})"
        )
    return conv


def resolve_padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Zeros on each side along each axis; "same" is dilation * (k - 1) / 2, for odd kernels."""
    if isinstance(padding, str):
        if padding != "same":
            raise unknown_name("padding", padding, ["same"])
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(f'padding "same" with kernel {kernel}: expected odd sizes, or the padding as numbers')
        return tuple(d * (k // 2) for k, d in zip(kernel, dilation, strict=True))
    return ints("padding", padding, len(kernel), minimum=0)


def ints(name: str, value: Any, axes: int, minimum: int) -> tuple[int, ...]:
    """An int, or one for each axis, as a tuple."""
    found = (value,) * axes if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(found) != axes or any(isinstance(x, bool) or not isinstance(x, int) for x in found):
        raise TypeError(f"{name} = {value!r}: expected an int or ({', '.join(AXES[axes])}) as ints")
    if min(found) < minimum:
        raise ValueError(f"{name} = {value!r}: expected at least {minimum}")
    return found


def names_of(dtypes: tuple[torch.dtype, ...]) -> str:
    """For messages."""
    return ", ".join(str(d).removeprefix("torch.") for d in dtypes)

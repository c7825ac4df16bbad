"""The fused layer: y = act(conv(u; Wu) + t), with t = conv(s; Ws) + b computed once per set, in float32.

grad_u is the layer itself on g with transposed weights: the sum over a set of dgrad(.; Ws) / K is dgrad of the *mean*
of g. The kernels are channels_last; NCHW input is converted, and the result converted back. Contract: `TunableLayer` in
../contract.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from ...convolution import Conv
from ...layout import sum_pixels
from ...sets import SetIndex
from ..contract import Direction, Gradients, Record
from . import tuned
from .configs import POINTWISE_SET_BYTES, Tile, candidates_for, pick
from .conv_launch import Geometry, convolve, has_tma, pointwise, wgrad
from .row_launch import convolve_rows, fits_rows
from .set_ops import set_reduce
from .tuned import layer_key, measured, override, save

__all__ = ["backward", "can_fuse", "candidates", "forward", "layer_key", "measured", "override", "save"]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def can_fuse(conv: Conv, u: Tensor, weight: Tensor) -> str | None:
    """The reason why these kernels cannot compute this layer, or None."""
    if u.dtype not in DTYPES:
        return f"it computes in float32, bfloat16 and float16, not in {u.dtype}"
    return None


def forward(
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    max_centered: int,
    slope: Tensor | None = None,
) -> Tensor:
    size = conv.output_size(u.shape[2:], weight.shape[2:])
    geometry = Geometry(size, conv.stride, (-conv.padding[0], -conv.padding[1]), conv.dilation, (1, 1), (0, 0))
    own, from_set = ([(geometry, w.permute(2, 3, 1, 0))] for w in weight.split(u.shape[1], dim=1))
    tile = tuned.tile("conv", "forward", conv, u, weight)
    return _layer(u, own, from_set, bias, sets, slope, size, tile).contiguous(memory_format=conv.fmt)


def backward(
    conv: Conv, g: Tensor, u: Tensor, weight: Tensor, sets: SetIndex, need: Sequence[bool], max_centered: int
) -> Gradients:
    g, u = (x.contiguous(memory_format=torch.channels_last) for x in (g, u))
    w_own, w_set = weight.split(u.shape[1], dim=1)
    grad_u = grad_weight = grad_bias = None
    if need[0]:
        own, from_set = (list(_transposed(conv, u.shape[2:], w)) for w in (w_own, w_set))
        tile = tuned.tile("conv", "backward", conv, u, weight)
        grad_u = _layer(g, own, from_set, None, sets, None, u.shape[2:], tile)
    if need[1] or need[2]:
        g_sum = set_reduce(g, sets, mean=False)
        grad_bias = sum_pixels(g_sum) if need[2] else None
    if need[1]:
        tile = tuned.tile("wgrad", "backward", conv, u, weight)
        halves = [wgrad(conv, g, u, w_own, tile)]
        s = u if sets.all_single else set_reduce(u, sets, mean=True)
        halves.append(halves[0] if sets.all_single else wgrad(conv, g_sum, s, w_set, tile))
        grad_weight = torch.cat(halves, dim=1)
    return grad_u, grad_weight, grad_bias


def candidates(
    direction: Direction, conv: Conv, u: Tensor, weight: Tensor, fastest: Callable[[], Record]
) -> Iterator[tuple[str, Record]]:
    """What `ik.tune` times for a layer, each with its name.

    First the vendor's convolution, then the fused kernels by their tiles; backward first those of grad_u, then, with
    the fastest of them, those of grad_W.
    """
    yield "vendor", {"algorithm": "vendor", "tiles": {}}
    out_channels, channels = weight.shape[0], u.shape[1]
    rows_in, rows_out = (channels, out_channels) if direction == "forward" else (out_channels, channels)
    kernels = ["conv"]
    if conv.stride == (1, 1):
        kernels += ["conv_tma"] * has_tma(u)
    if fits_rows(conv, u, weight):
        kernels.append("conv_rows")
    if conv.is_pointwise(weight):
        kernels.append("pointwise")
    for kernel in kernels:
        for tile in candidates_for(kernel, u.dtype, rows_in, rows_out):
            yield tile.name, {"algorithm": "fused", "tiles": {"conv": tile.name}}
    if direction == "backward" and fastest()["algorithm"] == "fused":
        best = fastest()["tiles"]
        for tile in candidates_for("wgrad", u.dtype, channels, out_channels):
            yield f"{best['conv']} {tile.name}", {"algorithm": "fused", "tiles": {**best, "wgrad": tile.name}}


Launches = list[tuple[Geometry, Tensor]]  # the weight is [taps_h, taps_w, channels in, channels out]


def _transposed(conv: Conv, size: Sequence[int], weight: Tensor) -> Iterator[tuple[Geometry, Tensor]]:
    """dgrad as convolutions of g with stride 1: one for each phase of grad_u's pixels, with the taps that reach it.

    Along an axis of stride s, pixel s h + a is reached through tap r where s divides a + p - d r, from g's pixel
    h + (a + p - d r) / s.
    """
    axes = []
    for axis in (0, 1):
        s, p, d = conv.stride[axis], conv.padding[axis], conv.dilation[axis]
        phases = []
        for a in range(min(s, size[axis])):
            common, k = math.gcd(s, d), weight.shape[2 + axis]
            first = next((r for r in range(k) if (a + p - d * r) % s == 0), k)
            # From one such tap to the next: s / common taps, d / common of g's pixels. Slices, as a list of taps would
            # be copied to the device, and waited for.
            phases.append(
                (a, slice(first, None, s // common), -(-(size[axis] - a) // s), (a + p - d * first) // s, -d // common)
            )
        axes.append(phases)
    for (a_h, taps_h, n_h, base_h, step_h), (a_w, taps_w, n_w, base_w, step_w) in product(*axes):
        geometry = Geometry((n_h, n_w), (1, 1), (base_h, base_w), (step_h, step_w), conv.stride, (a_h, a_w))
        yield geometry, weight[:, :, taps_h][:, :, :, taps_w].permute(2, 3, 0, 1)


def _layer(
    x: Tensor,
    own: Launches,
    from_set: Launches,
    bias: Tensor | None,
    sets: SetIndex,
    slope: Tensor | None,
    size: Sequence[int],
    tile: Tile | None,
) -> Tensor:
    """The layer on x [N,*,*,*] by the launches of its own half and those of its set's."""
    x = x.contiguous(memory_format=torch.channels_last)
    out_channels = own[0][1].shape[3]

    def new(rows: int, dtype: torch.dtype) -> Tensor:
        shape = (rows, out_channels, *size)
        return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)

    run = convolve_rows if tile is not None and tile.kernel == "conv_rows" else convolve
    y = new(x.shape[0], x.dtype)
    if sets.all_single:  # s = u
        for (geometry, w_own), (_, w_set) in zip(own, from_set, strict=True):
            run(x, geometry, w_own + w_set, y, None, None, bias, slope, tile)
        return y
    if _is_pointwise(own) and (tile is None or tile.kernel == "pointwise"):
        whole = tile or pick("pointwise", x.dtype, x.shape[1], out_channels)
        set_bytes = x.shape[0] / sets.num_sets * whole.bm * x.shape[1] * x.element_size()
        if tile is not None or set_bytes <= POINTWISE_SET_BYTES:
            pointwise(x, own[0][1], from_set[0][1], bias, sets, slope, y, whole)
            return y
    t = new(sets.num_sets, torch.float32)
    s = set_reduce(x, sets, mean=True)
    for geometry, weight in from_set:
        run(s, geometry, weight, t, None, None, bias, None, tile)
    for geometry, weight in own:
        run(x, geometry, weight, y, t, sets.set_ids, None, slope, tile)
    return y


def _is_pointwise(launches: Launches) -> bool:
    geometry, weight = launches[0]
    return weight.shape[:2] == (1, 1) and geometry.in_step == geometry.out_step == (1, 1) and geometry.base == (0, 0)

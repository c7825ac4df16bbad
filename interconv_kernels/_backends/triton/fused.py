"""The fused layer: y = act(conv(u; Wu) + t), with t = conv(s; Ws) + b computed once per set, in float32.

grad_u is the layer itself on g with transposed weights: the sum over a set of dgrad(.; Ws) / K is dgrad of the *mean*
of g. The kernels are channels_last; NCHW input is converted, and the result converted back. Contract: `TunableLayer` in
../contract.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from ...convolution import Conv
from ...layout import sum_pixels
from ...sets import SetIndex
from .. import gpu
from ..contract import Direction, Gradients
from . import interpreted
from .configs import POINTWISE_SET_BYTES, Tile, candidates_for, pick, tile_named
from .conv_launch import Epilogue, Geometry, Pair, convolve, has_tma, pointwise, wgrad
from .row_launch import convolve_rows, fits_rows
from .set_ops import set_reduce

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIN_CAPABILITY = (8, 0)
AMD_ARCHITECTURES = ("gfx90a", "gfx942", "gfx950")  # docs/internals/gpu-tables.md shows their machine code


def can_fuse(conv: Conv, u: Tensor, weight: Tensor) -> str | None:
    """The reason why these kernels cannot compute this layer, or None."""
    if u.dim() != 4:
        return "the fused layer of backend 'triton' is for images [N,C,H,W]; of volumes, for kernels of size 1"
    if u.dtype not in DTYPES:
        return f"it computes in float32, bfloat16 and float16, not in {u.dtype}"
    return None if interpreted() else _unsuitable_gpu(u.device)


def _unsuitable_gpu(device: torch.device) -> str | None:
    """Why the tiles are not for this GPU, or None. The set operations are for more GPUs than the tiles."""
    if torch.version.hip is not None:
        architecture = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        if architecture not in AMD_ARCHITECTURES:
            return f"its tiles are for {', '.join(AMD_ARCHITECTURES)}, not for {architecture}"
        return None
    capability = gpu.capability(device)
    if capability < MIN_CAPABILITY:
        return (
            f"the GPU has compute capability {capability}: expected at least {MIN_CAPABILITY}, since the tiles need its"
            " tensor cores and registers"
        )
    return None


def forward(
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    max_centered: int,
    slope: Tensor | None,
    tiles: Mapping[str, str],
) -> Tensor:
    size = conv.output_size(u.shape[2:], weight.shape[2:])
    geometry = Geometry(size, conv.stride, (-conv.padding[0], -conv.padding[1]), conv.dilation, (1, 1), (0, 0))
    own, from_set = _halves(weight).permute(1, 3, 4, 2, 0).contiguous().unbind()
    tile = tile_named(tiles.get("conv"))
    launches = [(geometry, own, from_set)]
    return _layer(u, launches, bias, sets, slope, size, tile).contiguous(memory_format=conv.fmt)


def backward(
    conv: Conv,
    g: Tensor,
    u: Tensor,
    weight: Tensor,
    sets: SetIndex,
    need: Sequence[bool],
    max_centered: int,
    tiles: Mapping[str, str],
) -> Gradients:
    g, u = (x.contiguous(memory_format=torch.channels_last) for x in (g, u))
    grad_u = grad_weight = grad_bias = None
    if need[0]:
        halves = _halves(weight).permute(1, 3, 4, 0, 2).contiguous()
        launches = []
        for geometry, taps_h, taps_w in _transposed(conv, (u.shape[2], u.shape[3]), (weight.shape[2], weight.shape[3])):
            own, from_set = halves[:, taps_h, taps_w].unbind()
            launches.append((geometry, own, from_set))
        tile = tile_named(tiles.get("conv"))
        grad_u = _layer(g, launches, None, sets, None, u.shape[2:], tile)
    if need[1] or need[2]:
        g_sum = set_reduce(g, sets, mean=False)
        grad_bias = sum_pixels(g_sum) if need[2] else None
    if need[1]:
        tile = tile_named(tiles.get("wgrad"))
        grad_weight = torch.empty_like(weight)
        own, from_set = grad_weight.split(u.shape[1], dim=1)
        own.copy_(wgrad(conv, g, u, own, tile))
        if sets.all_single:
            from_set.copy_(own)
        else:
            from_set.copy_(wgrad(conv, g_sum, set_reduce(u, sets, mean=True), from_set, tile))
    return grad_u, grad_weight, grad_bias


def _halves(weight: Tensor) -> Tensor:
    """[Wu | Ws] [Co,2C,kh,kw] as a view [Co,2,C,kh,kw], so that both are brought into the kernels' order at once.

    They are not kept for the next call: an update through `.data`, or by a CUDA graph, does not change a tensor's
    version, so a kept copy could silently be out of date.
    """
    return weight.unflatten(1, (2, weight.shape[1] // 2))


def candidates(direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> dict[str, list[str]]:
    """The tiles to choose from: those of the layer (backward: of grad_u) and, backward, those of grad_W."""
    out_channels, channels = weight.shape[0], u.shape[1]
    rows_in, rows_out = (channels, out_channels) if direction == "forward" else (out_channels, channels)
    kernels = ["conv"]
    if conv.stride == (1, 1):
        kernels += ["conv_tma"] * has_tma(u)
    if fits_rows(conv, u, weight):
        kernels.append("conv_rows")
    if conv.is_pointwise(weight):
        kernels.append("pointwise")
    found = {"conv": [tile.name for kernel in kernels for tile in candidates_for(kernel, u.dtype, rows_in, rows_out)]}
    if direction == "backward":
        found["wgrad"] = [tile.name for tile in candidates_for("wgrad", u.dtype, channels, out_channels)]
    return found


# Pixels, and the own and the set half of the weight, each [taps_h, taps_w, channels in, channels out].
Launches = list[tuple[Geometry, Tensor, Tensor]]


@functools.lru_cache(maxsize=256)
def _transposed(conv: Conv, size: Pair, kernel: Pair) -> list[tuple[Geometry, slice, slice]]:
    """dgrad as convolutions of g with stride 1: one for each phase of grad_u's pixels, with the taps that reach it.

    Along an axis of stride s, pixel s h + a is reached through tap r where s divides a + p - d r, from pixel
    h + (a + p - d r) / s of g. The taps are given as slices of (height, width).
    """
    axes = []
    for s, p, d, k, n in zip(conv.stride, conv.padding, conv.dilation, kernel, size, strict=True):
        phases = []
        for a in range(min(s, n)):
            common = math.gcd(s, d)
            first = next((r for r in range(k) if (a + p - d * r) % s == 0), k)
            # From one such tap to the next: s / common taps, d / common pixels of g. A slice is a view; a list of taps
            # would be copied to the device.
            taps = slice(first, None, s // common)
            phases.append((a, taps, -(-(n - a) // s), (a + p - d * first) // s, -d // common))
        axes.append(phases)
    return [
        (Geometry((n_h, n_w), (1, 1), (base_h, base_w), (step_h, step_w), conv.stride, (a_h, a_w)), taps_h, taps_w)
        for (a_h, taps_h, n_h, base_h, step_h), (a_w, taps_w, n_w, base_w, step_w) in product(*axes)
    ]


def _layer(
    x: Tensor,
    launches: Launches,
    bias: Tensor | None,
    sets: SetIndex,
    slope: Tensor | None,
    size: Sequence[int],
    tile: Tile | None,
) -> Tensor:
    """The layer on x [N,*,*,*]: the launches for the set means, then those for the samples."""
    x = x.contiguous(memory_format=torch.channels_last)
    first_geometry, w_own, w_set = launches[0]
    out_channels = w_own.shape[3]

    def new(rows: int, dtype: torch.dtype) -> Tensor:
        shape = (rows, out_channels, *size)
        return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)

    run = convolve_rows if tile is not None and tile.kernel == "conv_rows" else convolve
    y = new(x.shape[0], x.dtype)
    if sets.all_single:  # s = u
        for geometry, own, from_set in launches:
            run(x, geometry, own + from_set, y, Epilogue(bias=bias, slope=slope), tile)
        return y
    if _is_pointwise(first_geometry, w_own) and (tile is None or tile.kernel == "pointwise"):
        whole = tile or pick("pointwise", x.dtype, x.shape[1], out_channels)
        set_bytes = x.shape[0] / sets.num_sets * whole.bm * x.shape[1] * x.element_size()
        if tile is not None or set_bytes <= POINTWISE_SET_BYTES:
            pointwise(x, w_own, w_set, bias, sets, slope, y, whole)
            return y
    t = new(sets.num_sets, torch.float32)
    s = set_reduce(x, sets, mean=True)
    for geometry, _, from_set in launches:
        run(s, geometry, from_set, t, Epilogue(bias=bias), tile)
    for geometry, own, _ in launches:
        run(x, geometry, own, y, Epilogue(t, sets.set_ids, slope=slope), tile)
    return y


def _is_pointwise(geometry: Geometry, weight: Tensor) -> bool:
    return weight.shape[:2] == (1, 1) and geometry.in_step == geometry.out_step == (1, 1) and geometry.base == (0, 0)

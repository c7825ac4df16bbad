"""The fused layer: launches of conv_kernels.py. y = act(conv(u; Wu) + t); t = conv(s; Ws) + b once a set, in float32.

grad_u is the layer itself on g with transposed weights: sum over the set of dgrad(.; Ws) / K = dgrad of the mean of g.
The kernels are channels_last; input in NCHW is turned, and the result turned back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ...activation import NONE, Activation
from ...convolution import Conv
from ...layout import sum_pixels
from ...sets import SetIndex
from . import conv_kernels, interpreted, tuned
from .configs import POINTWISE_SET_BYTES, TMA_TILE, WGRAD_PROGRAMS, Tile, pick, suiting
from .set_ops import set_reduce

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Pair = tuple[int, int]


def can_fuse(conv: Conv, u: Tensor, weight: Tensor) -> str | None:
    """The reason why the fused kernels cannot serve this layer, or None."""
    if u.dtype not in DTYPES:
        return f"it computes in float32, bfloat16 and float16, not in {u.dtype}"
    return None


def fused_forward(
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    activation: Activation = NONE,
) -> Tensor:
    """The layer, for dense u [N,C,H,W] and weight [Co,2C,kh,kw]."""
    size = conv.output_size(u.shape[2:], weight.shape[2:])
    walk = Walk(size, conv.stride, (-conv.padding[0], -conv.padding[1]), conv.dilation, (1, 1), (0, 0))
    w_own, w_set = weight.split(u.shape[1], dim=1)
    own, from_set = ([(walk, w.permute(2, 3, 1, 0))] for w in (w_own, w_set))
    tile = tuned.tile("conv", "forward", conv, u, weight)
    return _layer(u, own, from_set, bias, sets, activation, size, tile).contiguous(memory_format=conv.fmt)


def fused_backward(
    conv: Conv, g: Tensor, u: Tensor, weight: Tensor, sets: SetIndex, need: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of u, weight and bias for dense g [N,Co,H',W'], each only where `need` says so."""
    g, u = (x.contiguous(memory_format=torch.channels_last) for x in (g, u))
    w_own, w_set = weight.split(u.shape[1], dim=1)
    grad_u = grad_weight = grad_bias = None
    if need[0]:
        own, from_set = (list(_transposed(conv, u.shape[2:], w)) for w in (w_own, w_set))
        tile = tuned.tile("conv", "backward", conv, u, weight)
        grad_u = _layer(g, own, from_set, None, sets, NONE, u.shape[2:], tile)
    g_sum = set_reduce(g, sets, mean=False)
    if need[1]:
        tile = tuned.tile("wgrad", "backward", conv, u, weight)
        halves = [_wgrad(conv, g, u, w_own, tile)]
        alone = sets.num_sets == sets.num_rows
        halves.append(halves[0] if alone else _wgrad(conv, g_sum, set_reduce(u, sets, mean=True), w_set, tile))
        grad_weight = torch.cat(halves, dim=1)
    if need[2]:
        grad_bias = sum_pixels(g_sum)
    return grad_u, grad_weight, grad_bias


def candidates(
    direction: str, conv: Conv, u: Tensor, weight: Tensor, fastest: Callable[[], tuned.Record]
) -> Iterator[tuple[str, tuned.Record]]:
    """What `ik.tune` measures for a layer, each with its name: the vendor's convolution, then the fused kernels by
    their tiles; backward first those of grad_u, then, with the fastest of them, those of grad_W."""
    yield "vendor", {"algorithm": "vendor", "tiles": {}}
    out_channels, channels = weight.shape[0], u.shape[1]
    rows_in, rows_out = (channels, out_channels) if direction == "forward" else (out_channels, channels)
    kernels = ["conv"]
    if conv.stride == (1, 1):
        kernels += ["conv_tma"] * has_tma(u)
        kernels += ["pointwise"] * (weight.shape[2:] == (1, 1) and conv.padding == (0, 0))
    for kernel in kernels:
        for tile in suiting(kernel, u.dtype, rows_in, rows_out):
            if tile.kernel != "conv_tma" or (tile.vectors and channels * u.element_size() % 16 == 0):
                yield tile.name, {"algorithm": "fused", "tiles": {"conv": tile.name}}
    if direction == "backward" and fastest()["algorithm"] == "fused":
        best = fastest()["tiles"]
        for tile in suiting("wgrad", u.dtype, channels, out_channels):
            yield f"{best['conv']} {tile.name}", {"algorithm": "fused", "tiles": {**best, "wgrad": tile.name}}


class Walk(NamedTuple):
    """Which pixels a launch of conv_kernel makes, and where their taps lie; pairs (height, width).

    Output pixel (h out_step + phase) for h < grid reads, for tap r, input pixel (h in_step + base + r tap_step).
    """

    grid: Pair
    in_step: Pair
    base: Pair
    tap_step: Pair
    out_step: Pair
    phase: Pair


Launches = list[tuple[Walk, Tensor]]  # each walk with its weight [taps_h, taps_w, channels in, channels out]


def _transposed(conv: Conv, size: Sequence[int], weight: Tensor) -> Iterator[tuple[Walk, Tensor]]:
    """dgrad as convolutions of g with stride 1: one for each phase of grad_u's pixels, with the taps that reach it.

    Along an axis of stride s, pixel s h + a is reached through tap r where s divides a + p - d r, from g's pixel
    h + (a + p - d r) / s.
    """
    axes = []
    for axis in (0, 1):
        s, p, d = conv.stride[axis], conv.padding[axis], conv.dilation[axis]
        phases = []
        for a in range(min(s, size[axis])):
            taps = [r for r in range(weight.shape[2 + axis]) if (a + p - d * r) % s == 0]
            base = (a + p - d * taps[0]) // s if taps else 0
            step = -(d // math.gcd(s, d))  # from one such tap to the next, of g's pixels
            phases.append((a, taps, -(-(size[axis] - a) // s), base, step))
        axes.append(phases)
    for (a_h, taps_h, n_h, base_h, step_h), (a_w, taps_w, n_w, base_w, step_w) in product(*axes):
        walk = Walk((n_h, n_w), (1, 1), (base_h, base_w), (step_h, step_w), conv.stride, (a_h, a_w))
        yield walk, weight[:, :, taps_h][:, :, :, taps_w].permute(2, 3, 0, 1)


def _layer(
    x: Tensor,
    own: Launches,
    from_set: Launches,
    bias: Tensor | None,
    sets: SetIndex,
    activation: Activation,
    size: Sequence[int],
    tile: Tile | None,
) -> Tensor:
    """The layer on x [N,*,*,*] by the launches of its own half and those of its set's."""
    x = x.contiguous(memory_format=torch.channels_last)
    out_channels = own[0][1].shape[3]

    def new(rows: int, dtype: torch.dtype) -> Tensor:
        shape = (rows, out_channels, *size)
        return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)

    y = new(x.shape[0], x.dtype)
    if sets.num_sets == sets.num_rows:  # every K = 1: s = u
        for (walk, w_own), (_, w_set) in zip(own, from_set, strict=True):
            _convolve(x, walk, w_own + w_set, y, None, None, bias, activation, tile)
        return y
    if _is_pointwise(own) and (tile is None or tile.kernel == "pointwise"):
        pointwise = tile or pick("pointwise", x.dtype, x.shape[1], out_channels)
        set_bytes = x.shape[0] / sets.num_sets * pointwise.bm * x.shape[1] * x.element_size()
        if tile is not None or set_bytes <= POINTWISE_SET_BYTES:
            _pointwise(x, own[0][1], from_set[0][1], bias, sets, activation, y, pointwise)
            return y
    t = new(sets.num_sets, torch.float32)
    s = set_reduce(x, sets, mean=True)
    for walk, weight in from_set:
        _convolve(s, walk, weight, t, None, None, bias, NONE, tile)
    for walk, weight in own:
        _convolve(x, walk, weight, y, t, sets.set_ids, None, activation, tile)
    return y


def _is_pointwise(launches: Launches) -> bool:
    walk, weight = launches[0]
    return weight.shape[:2] == (1, 1) and walk.in_step == walk.out_step == (1, 1) and walk.base == (0, 0)


def _convolve(
    x: Tensor,
    walk: Walk,
    weight: Tensor,
    y: Tensor,
    t: Tensor | None,
    set_ids: Tensor | None,
    bias: Tensor | None,
    activation: Activation,
    tile: Tile | None,
) -> None:
    """y = act(conv(x; weight) + t of its set + bias), on the pixels of one walk; x, t and y channels_last."""
    (taps_h, taps_w, channels, out_channels), (height, width) = weight.shape, x.shape[2:]
    weight = weight.contiguous().to(x.dtype)
    if tile is None or tile.kernel == "pointwise" or (tile.kernel == "conv_tma" and not fits_tma(x, walk, y)):
        kernel = "conv_tma" if has_tma(x) and fits_tma(x, walk, y) else "conv"
        tile = pick(kernel, x.dtype, channels, out_channels)
    constants = {
        "C": channels,
        "CO": out_channels,
        "TAPS_H": taps_h,
        "TAPS_W": taps_w,
        "DH": walk.tap_step[0],
        "DW": walk.tap_step[1],
        "HAS_SET": t is not None,
        "HAS_BIAS": bias is not None,
        "ACTIVATION": activation.name,
        "PRECISION": precision(x),
        "BN": tile.bn,
        "BK": tile.bk,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,
    }
    column_tiles = -(-out_channels // tile.bn)
    epilogue = (t, set_ids, bias, activation.slope)
    with torch.cuda.device_of(x):
        if tile.kernel == "conv_tma":
            bh, bw = TMA_TILE
            tiles = x.shape[0] * -(-walk.grid[0] // bh) * -(-walk.grid[1] // bw)
            conv_kernels.conv_tma_kernel[(tiles * column_tiles,)](
                _tiles(x, (x.shape[0], height, width, channels), [1, bh, bw, tile.bk]),
                _tiles(weight, (taps_h * taps_w, channels, out_channels), [1, tile.bk, tile.bn]),
                *epilogue,
                _tiles(y, (y.shape[0], *y.shape[2:], out_channels), [1, bh, bw, tile.bn]),
                *walk.grid,
                *walk.base,
                activation.slope_step,
                **constants,
                BH=bh,
                BW=bw,
            )
            return
        rows = x.shape[0] * walk.grid[0] * walk.grid[1]
        conv_kernels.conv_kernel[(-(-rows // tile.bm) * column_tiles,)](
            x,
            weight,
            *epilogue,
            y,
            x.shape[0],
            height,
            width,
            *walk.grid,
            *y.shape[2:],
            *walk.base,
            *walk.phase,
            activation.slope_step,
            **constants,
            SH=walk.in_step[0],
            SW=walk.in_step[1],
            STEP_H=walk.out_step[0],
            STEP_W=walk.out_step[1],
            BM=tile.bm,
        )


def _tiles(x: Tensor, shape: tuple[int, ...], block: list[int]) -> TensorDescriptor:
    """The descriptor of dense memory of that shape. (A size of 1 may hide its stride from torch, not from the GPU.)"""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return TensorDescriptor(x, list(shape), strides, block)


def has_tma(x: Tensor) -> bool:
    """Whether bulk copies of tensor tiles are to be used: NVIDIA sm_90 and later, and not for float32 without TF32,
    whose products are the bound."""
    if interpreted() or torch.version.hip is not None or torch.cuda.get_device_capability(x.device) < (9, 0):
        return False
    return x.dtype != torch.float32 or precision(x) == "tf32"


def fits_tma(x: Tensor, walk: Walk, y: Tensor) -> bool:
    """Whether tensor descriptors can describe it: stride 1, every output pixel, rows of a multiple of 16 bytes."""
    filled = all(count * x.element_size() % 16 == 0 for count in (x.shape[1], y.shape[1]))
    return walk.in_step == walk.out_step == (1, 1) and filled


def _pointwise(
    x: Tensor,
    w_own: Tensor,
    w_set: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    activation: Activation,
    y: Tensor,
    tile: Tile,
) -> None:
    channels, out_channels = w_own.shape[2:]
    area = x.shape[2] * x.shape[3]
    grid = (sets.num_sets * -(-area // tile.bm) * -(-out_channels // tile.bn),)
    with torch.cuda.device_of(x):
        conv_kernels.pointwise_kernel[grid](
            x,
            w_own.contiguous(),
            w_set.contiguous(),
            sets.offsets,
            bias,
            activation.slope,
            y,
            area,
            activation.slope_step,
            C=channels,
            CO=out_channels,
            HAS_BIAS=bias is not None,
            ACTIVATION=activation.name,
            PRECISION=precision(x),
            BM=tile.bm,
            BN=tile.bn,
            BK=tile.bk,
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=True,
        )


def _wgrad(conv: Conv, g: Tensor, u: Tensor, weight: Tensor, tile: Tile | None) -> Tensor:
    """[Co,C,kh,kw] float32: sum over samples and pixels of u (shifted by the tap) times g; u and g channels_last."""
    out_channels, channels, taps_h, taps_w = weight.shape
    tile = tile or pick("wgrad", u.dtype, channels, out_channels)
    depth, pixels = taps_h * taps_w * channels, g.shape[0] * g.shape[2] * g.shape[3]
    tiles = -(-depth // tile.bm) * -(-out_channels // tile.bn)
    parts = max(1, min(WGRAD_PROGRAMS // tiles, pixels // (4 * tile.bk)), pixels >> 29)
    chunk = -(-pixels // (parts * tile.bk)) * tile.bk
    sums = torch.empty(parts, depth, out_channels, dtype=torch.float32, device=u.device)
    with torch.cuda.device_of(u):
        conv_kernels.wgrad_kernel[(parts * tiles,)](
            u,
            g,
            sums,
            u.shape[0],
            *u.shape[2:],
            *g.shape[2:],
            -conv.padding[0],
            -conv.padding[1],
            chunk,
            C=channels,
            CO=out_channels,
            TAPS_H=taps_h,
            TAPS_W=taps_w,
            SH=conv.stride[0],
            SW=conv.stride[1],
            DH=conv.dilation[0],
            DW=conv.dilation[1],
            PRECISION=precision(u),
            BM=tile.bm,
            BN=tile.bn,
            BK=tile.bk,
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=True,
        )
    return sums.sum(0).view(taps_h, taps_w, channels, out_channels).permute(3, 2, 0, 1)


def precision(x: Tensor) -> str:
    """How float32 is multiplied: as torch's own switch for convolutions says."""
    switch: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if x.dtype == torch.float32 and switch == "tf32" else "ieee"

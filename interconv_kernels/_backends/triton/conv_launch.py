"""The launches of conv_kernels.py, on channels_last tensors: a convolution with its epilogue, wgrad, the 1x1 layer."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ...convolution import Conv, precision
from ...sets import SetIndex
from .. import gpu
from . import conv_kernels, interpreted
from .configs import TMA_TILE, WGRAD_PROGRAMS, Tile, pick
from .launch import launch

Pair = tuple[int, ...]  # (height, width)


class Geometry(NamedTuple):
    """Which output pixels a launch of conv_kernel computes, and from which input pixels.

    Output pixel (h out_step + phase) for h < grid reads, for tap r, input pixel (h in_step + base + r tap_step).
    """

    grid: Pair
    in_step: Pair
    base: Pair
    tap_step: Pair
    out_step: Pair
    phase: Pair


class Epilogue(NamedTuple):
    """What follows a convolution in its kernel: act(. + t of the sample's set + bias), each optional.

    Attributes:
        t: [B,Co,H',W'] float32, channels_last.
        set_ids: [N], if t is given.
        bias: [Co].
        slope: [Co], of the leaky ReLU.
    """

    t: Tensor | None = None
    set_ids: Tensor | None = None
    bias: Tensor | None = None
    slope: Tensor | None = None

    @property
    def flags(self) -> dict[str, bool]:
        """The constants that tell a kernel which of them it is given."""
        return {
            "HAS_SET": self.t is not None,
            "HAS_BIAS": self.bias is not None,
            "HAS_SLOPE": self.slope is not None,
        }


def convolve(x: Tensor, geometry: Geometry, weight: Tensor, y: Tensor, epilogue: Epilogue, tile: Tile | None) -> None:
    """y = epilogue(conv(x; weight)) on the pixels of one geometry; x and y channels_last."""
    (taps_h, taps_w, channels, out_channels), (height, width) = weight.shape, x.shape[2:]
    weight = weight.contiguous().to(x.dtype)
    if tile is None or tile.kernel == "pointwise" or (tile.kernel == "conv_tma" and not fits_tma(x, geometry, y)):
        kernel = "conv_tma" if has_tma(x) and fits_tma(x, geometry, y) else "conv"
        tile = pick(kernel, x.dtype, channels, out_channels)
    constants = {
        "C": channels,
        "CO": out_channels,
        "TAPS_H": taps_h,
        "TAPS_W": taps_w,
        "DH": geometry.tap_step[0],
        "DW": geometry.tap_step[1],
        **epilogue.flags,
        **tile_options(tile, x),
    }
    column_tiles = -(-out_channels // tile.bn)
    if tile.kernel == "conv_tma":
        bh, bw = TMA_TILE
        tiles = x.shape[0] * -(-geometry.grid[0] // bh) * -(-geometry.grid[1] // bw)
        pointers = (
            _tiles(x, (x.shape[0], height, width, channels), (1, bh, bw, tile.bk)),
            _tiles(weight, (taps_h * taps_w, channels, out_channels), (1, tile.bk, tile.bn)),
            *epilogue,
            _tiles(y, (y.shape[0], *y.shape[2:], out_channels), (1, bh, bw, tile.bn)),
        )
        constants |= {"BH": bh, "BW": bw}
        launch(
            conv_kernels.conv_tma_kernel, tiles * column_tiles, x, pointers, (*geometry.grid, *geometry.base), constants
        )
        return
    rows = x.shape[0] * geometry.grid[0] * geometry.grid[1]
    sizes = (x.shape[0], height, width, *geometry.grid, *y.shape[2:], *geometry.base, *geometry.phase)
    constants |= {
        "SH": geometry.in_step[0],
        "SW": geometry.in_step[1],
        "STEP_H": geometry.out_step[0],
        "STEP_W": geometry.out_step[1],
        "BM": tile.bm,
    }
    programs = -(-rows // tile.bm) * column_tiles
    launch(conv_kernels.conv_kernel, programs, x, (x, weight, *epilogue, y), sizes, constants)


def pointwise(
    x: Tensor,
    w_own: Tensor,
    w_set: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    slope: Tensor | None,
    y: Tensor,
    tile: Tile,
) -> None:
    """y = act(x @ w_own + (set means of x) @ w_set + bias), weights [1,1,C,Co]; x and y channels_last."""
    channels, out_channels = w_own.shape[2:]
    area = x.shape[2] * x.shape[3]
    programs = sets.num_sets * -(-area // tile.bm) * -(-out_channels // tile.bn)
    pointers = (x, w_own.contiguous(), w_set.contiguous(), sets.offsets, bias, slope, y)
    constants = {
        "VECTOR": 16 if area % 16 == 0 else 1,
        "C": channels,
        "CO": out_channels,
        "HAS_BIAS": bias is not None,
        "HAS_SLOPE": slope is not None,
        "BM": tile.bm,
        **tile_options(tile, x),
    }
    launch(conv_kernels.pointwise_kernel, programs, x, pointers, (area,), constants)


def wgrad(conv: Conv, g: Tensor, u: Tensor, weight: Tensor, tile: Tile | None) -> Tensor:
    """[Co,C,kh,kw] float32: sum over samples and pixels of u (shifted by the tap) times g; u and g channels_last."""
    out_channels, channels, taps_h, taps_w = weight.shape
    tile = tile or pick("wgrad", u.dtype, channels, out_channels)
    depth, pixels = taps_h * taps_w * channels, g.shape[0] * g.shape[2] * g.shape[3]
    tiles = -(-depth // tile.bm) * -(-out_channels // tile.bn)
    parts = max(1, min(WGRAD_PROGRAMS // tiles, pixels // (4 * tile.bk)), pixels >> 29)
    chunk = -(-pixels // (parts * tile.bk)) * tile.bk
    sums = torch.empty(parts, depth, out_channels, dtype=torch.float32, device=u.device)
    sizes = (u.shape[0], *u.shape[2:], *g.shape[2:], -conv.padding[0], -conv.padding[1], chunk)
    constants = {
        "C": channels,
        "CO": out_channels,
        "TAPS_H": taps_h,
        "TAPS_W": taps_w,
        "SH": conv.stride[0],
        "SW": conv.stride[1],
        "DH": conv.dilation[0],
        "DW": conv.dilation[1],
        "BM": tile.bm,
        **tile_options(tile, u),
    }
    launch(conv_kernels.wgrad_kernel, parts * tiles, u, (u, g, sums), sizes, constants)
    total = sums[0] if parts == 1 else sums.sum(0)
    return total.view(taps_h, taps_w, channels, out_channels).permute(3, 2, 0, 1)


def tile_options(tile: Tile, x: Tensor) -> dict[str, Any]:
    """The constants of the tile that every kernel takes (BM aside, which conv_tma does not have), and options."""
    return {
        "PRECISION": precision(x),
        "BN": tile.bn,
        "BK": tile.bk,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,
    }


class _Tiles(TensorDescriptor):  # type: ignore[misc]  # triton is not typed
    """A descriptor of dense memory at a multiple of 16 bytes, which `fits_tma` checked: Triton's checks are slow."""

    def __post_init__(self) -> None:
        pass


def _tiles(x: Tensor, shape: tuple[int, ...], block: tuple[int, ...]) -> TensorDescriptor:
    """x as dense memory of that shape, in tiles of `block`."""
    return _Tiles(x, shape, _dense_strides(shape), block)


@functools.lru_cache(maxsize=512)
def _dense_strides(shape: tuple[int, ...]) -> list[int]:
    """All strides, which torch may not tell for a size of 1."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def has_tma(x: Tensor) -> bool:
    """Whether to use bulk copies of tensor tiles.

    That is on NVIDIA sm_90 and later, and not for float32 without TF32, where arithmetic is the limit.
    """
    if interpreted() or torch.version.hip is not None or gpu.capability(x.device) < (9, 0):
        return False
    return x.dtype != torch.float32 or precision(x) == "tf32"


def fits_tma(x: Tensor, geometry: Geometry, y: Tensor) -> bool:
    """Whether tensor descriptors can describe it: stride 1, all pixels, rows and address in multiples of 16 bytes."""
    filled = all(count * x.element_size() % 16 == 0 for count in (x.shape[1], y.shape[1]))
    return geometry.in_step == geometry.out_step == (1, 1) and filled and x.data_ptr() % 16 == 0

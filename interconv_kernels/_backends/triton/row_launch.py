"""The launch of row_kernels.py, on channels_last tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...convolution import Conv, precision
from . import row_kernels
from .configs import MIN_ROWS, ROW_PROGRAMS, Tile
from .conv_launch import Epilogue, Geometry, tile_options
from .launch import launch


def fits_rows(conv: Conv, u: Tensor, weight: Tensor) -> bool:
    """Whether the layer is a 3x3 convolution of stride 1 without dilation, on tensor cores (float32 in TF32)."""
    if u.dtype == torch.float32 and precision(u) != "tf32":
        return False
    return weight.shape[2:] == (3, 3) and conv.stride == conv.dilation == (1, 1)


def convolve_rows(
    x: Tensor, geometry: Geometry, weight: Tensor, y: Tensor, epilogue: Epilogue, tile: Tile | None
) -> None:
    """As `convolve` in conv_launch.py, for weights [3,3,C,Co] with C <= tile.bk and taps one pixel apart."""
    channels, out_channels = weight.shape[2:]
    assert weight.shape[:2] == (3, 3)
    assert tile is not None
    assert channels <= tile.bk
    base_h, base_w = geometry.base
    if geometry.tap_step == (-1, -1):  # grad_u: tap r reads h + base - r, so the flipped weight reads from base - 2 on
        weight, base_h, base_w = weight.flip(0, 1), base_h - 2, base_w - 2
    column_tiles = -(-out_channels // tile.bn)
    weight = F.pad(weight.to(x.dtype), (0, column_tiles * tile.bn - out_channels, 0, tile.bk - channels)).contiguous()
    (num_samples, _, height, width), (out_h, out_w) = x.shape, geometry.grid
    strips = -(-num_samples * out_w // tile.bm) * column_tiles
    blocks = max(1, min(-(-ROW_PROGRAMS // strips), out_h // MIN_ROWS))
    rows = -(-out_h // blocks)
    constants = {
        "C": channels,
        "CO": out_channels,
        **epilogue.flags,
        "BM": tile.bm,
        **tile_options(tile, x),
    }
    pointers = (x, weight, *epilogue, y)
    sizes = (num_samples, height, width, out_h, out_w, base_h, base_w, rows)
    launch(row_kernels.conv_rows_kernel, strips * -(-out_h // rows), x, pointers, sizes, constants)

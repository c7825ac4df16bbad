"""The tiles that kernels are launched with: a table, and a choice from it by shapes alone.

`ik.tune()` measures which of the rows that fit is fastest on a GPU. The reasons given here are counts (work, registers,
shared memory), not timings.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

# Set kernels: a thread loads 16 bytes at once, 128 threads a program (AMD's warps have 64, NVIDIA's 32). More bytes a
# thread would leave small images with too few programs to fill a GPU.
SET_BLOCK_BYTES = 2048
SET_THREADS = 128

# grad_W: partial sums are made by about this many programs (two waves of a large GPU), a constant so that the same
# input gives the same bits on every GPU.
WGRAD_PROGRAMS = 256

# The pointwise kernel reads a set's tile twice, the second time from the cache: this much of it for each program.
POINTWISE_SET_BYTES = 192 * 1024


# conv_rows: images are cut into blocks of rows until there are about this many programs (two waves of a large GPU). A
# block reads two rows more than it computes and loads all weights, so it has at least MIN_ROWS.
ROW_PROGRAMS = 1024
MIN_ROWS = 16


class Tile(NamedTuple):
    """A kernel's tile: BM rows (pixels; for wgrad taps times channels), BN output channels, BK of the depth."""

    kernel: str  # conv, conv_tma, conv_rows, wgrad, pointwise
    bits: int  # 16 for bfloat16 and float16, 32 for float32
    vectors: bool  # wants C and Co that fill 16-byte vectors (multiples of 8, or of 4 in float32)
    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    reason: str

    @property
    def name(self) -> str:
        return f"{self.kernel}-{self.bits}-{self.bm}x{self.bn}x{self.bk}{'' if self.vectors else '-odd'}"


# Widest first. Without 16-byte vectors a load is a value and a pointer each: only small tiles then stay in registers.
TILES = (
    Tile("conv_tma", 16, True, 128, 128, 64, 8, 3, "many channels; 8x16 pixels, 64 channels deep: 128 bytes a row"),
    Tile("conv_tma", 16, True, 128, 64, 64, 4, 3, "64 channels, or few pixels"),
    Tile("conv_tma", 16, True, 128, 32, 64, 4, 3, "few channels, or such that wider tiles pad by a third (96)"),
    Tile(
        "conv",
        16,
        True,
        128,
        128,
        32,
        8,
        3,
        "many channels: most arithmetic for each byte; a BK of 64 takes all registers",
    ),
    Tile("conv", 16, True, 128, 64, 64, 8, 3, "64 channels; half the index arithmetic and registers of BK = 32"),
    Tile("conv", 16, True, 128, 32, 32, 4, 3, "few channels, or such that wider tiles pad by a third (96)"),
    Tile("conv", 16, False, 64, 64, 32, 8, 3, "odd channels (137): half the registers of four warps"),
    Tile("conv", 16, False, 64, 32, 32, 8, 3, "odd channels, few (23) or such that 64 pads by a third"),
    # BK holds all channels. The nine weights stay in registers or shared memory, so there are no wide tiles.
    Tile("conv_rows", 16, True, 64, 32, 64, 4, 2, "33 to 64 channels: 64 columns would take over 100 KB"),
    Tile("conv_rows", 16, True, 64, 32, 32, 4, 2, "17 to 32 channels"),
    Tile("conv_rows", 16, True, 64, 16, 16, 4, 2, "up to 16 channels"),
    Tile("conv_rows", 16, False, 64, 16, 32, 8, 2, "odd channels, up to 32; 32 columns spill"),
    Tile("wgrad", 16, True, 128, 128, 32, 8, 3, "many channels"),
    Tile("wgrad", 16, True, 64, 64, 64, 8, 3, "64 channels: the result is small and the depth is long"),
    Tile("wgrad", 16, True, 64, 32, 32, 4, 3, "few channels"),
    Tile("wgrad", 16, False, 64, 64, 32, 8, 3, "odd channels"),
    Tile("wgrad", 16, False, 64, 32, 32, 8, 3, "odd channels, few"),
    Tile("pointwise", 16, True, 64, 128, 32, 8, 2, "many channels: u is read once for each BN of them"),
    Tile("pointwise", 16, True, 64, 64, 64, 8, 2, "64 channels, in one step of the loop"),
    Tile("pointwise", 16, True, 64, 32, 32, 4, 2, "few channels"),
    Tile("pointwise", 16, False, 64, 64, 32, 8, 2, "odd channels"),
    Tile("pointwise", 16, False, 64, 32, 32, 8, 2, "odd channels, few"),
    # float32: four bytes a value, so half the depth; eight warps keep odd channels in registers too
    Tile("conv_tma", 32, True, 128, 64, 32, 4, 3, "64 channels and more, in TF32"),
    Tile("conv_tma", 32, True, 128, 32, 32, 4, 3, "few channels, in TF32"),
    Tile("conv_rows", 32, True, 64, 32, 32, 4, 2, "17 to 32 channels, in TF32"),
    Tile("conv_rows", 32, True, 64, 16, 16, 4, 2, "up to 16 channels, in TF32"),
    Tile("conv", 32, False, 64, 64, 32, 8, 2, "64 channels and more; a third stage spills"),
    Tile("conv", 32, False, 64, 32, 16, 8, 3, "few channels; half the registers of BK = 32"),
    Tile("wgrad", 32, False, 64, 64, 32, 8, 3, "64 channels and more"),
    Tile("wgrad", 32, False, 64, 32, 32, 8, 2, "few channels; a third stage spills"),
    Tile("pointwise", 32, False, 64, 32, 16, 8, 2, "any channels; 64 columns, or a BK of 32, spill at odd counts"),
)

TMA_TILE = (8, 16)  # pixels (height, width) of a conv_tma tile: BM of them


def tile_named(name: str | None) -> Tile | None:
    """The tile of that name; None if there is none."""
    return next((tile for tile in TILES if tile.name == name), None)


def candidates_for(kernel: str, dtype: torch.dtype, channels: int, out_channels: int) -> list[Tile]:
    """The rows that fit a kernel, a dtype and channel counts, widest first.

    The rows for odd channel counts are returned only if no other fits. For conv_rows there may be none, and only those
    of the smallest depth that holds all channels are returned.
    """
    bits = 8 * dtype.itemsize
    rows = [tile for tile in TILES if tile.kernel == kernel and tile.bits == bits]
    filled = all(count * bits % 128 == 0 for count in (channels, out_channels))
    tiles = [tile for tile in rows if tile.vectors and filled] or [tile for tile in rows if not tile.vectors]
    if kernel == "conv_rows":
        depths = [tile.bk for tile in tiles if tile.bk >= channels]
        tiles = [tile for tile in tiles if tile.bk == min(depths, default=None)]
    return tiles


@functools.cache
def pick(kernel: str, dtype: torch.dtype, channels: int, out_channels: int) -> Tile:
    """The widest tile that pads the output channels by a third at most, else the one that pads the least."""
    tiles = candidates_for(kernel, dtype, channels, out_channels)

    def padded(tile: Tile) -> int:
        return -(-out_channels // tile.bn) * tile.bn

    fitting = [tile for tile in tiles if 3 * padded(tile) <= 4 * out_channels]
    return fitting[0] if fitting else min(tiles, key=padded)

"""What the native fused layer (csrc/halo: the whole 3x3 layer in one launch) computes and moves, by formula.

`counts` follows csrc/halo/layer.h step by step, for any shape, in microseconds. tests/kernels/test_predict_native.py
compares it with what the emulator counts while it runs the kernel's own body. The configurations are read from
csrc/halo/configs.h.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

TABLE = Path(__file__).parents[2] / "csrc" / "halo" / "configs.h"
Weights: TypeAlias = Literal["resident", "alternating", "streamed"]
WEIGHTS: dict[str, Weights] = {"kResident": "resident", "kAlternating": "alternating", "kStreamed": "streamed"}
ROW = re.compile(r"\{\{3, 1, ((?:\d+, ){6})Weights::(\w+), Term::(\w+)\}")  # of 3x3 kernels, stride 1
STAGES = 2
VALUE = 2  # bytes of bfloat16 and float16
PIXELS = 8  # of a row that ldmatrix loads at once
# Threads that copy fewer than 8 values lie in the same banks. Single values are not copied asynchronously but put
# together in registers.
COPY_CONFLICTS = {8: 1, 4: 2, 2: 4, 1: 1}


class Config(NamedTuple):
    """A row of csrc/halo/configs.h for 3x3 kernels and stride 1; for wgmma, a design, not a row of its table."""

    channels: int
    columns: int
    mt: int
    rows: int
    cols: int
    split: int
    weights: Weights
    term_in_registers: bool
    engine: Literal["mma.sync", "wgmma"] = "mma.sync"
    stages: int = STAGES

    @property
    def name(self) -> str:
        return f"{self.engine} {self.channels}x{self.columns}-{self.tile_h}x{self.tile_w}"

    @property
    def tile_h(self) -> int:
        return 2 * self.mt * self.rows

    @property
    def tile_w(self) -> int:
        return PIXELS * self.cols

    @property
    def warps(self) -> int:
        return self.rows * self.cols * self.split

    @property
    def nt(self) -> int:
        return self.columns // self.split // 8

    @property
    def planes(self) -> int:
        return self.channels // 8

    @property
    def halo(self) -> int:
        """Pixels of a tile with its halo."""
        return (self.tile_h + 2) * (self.tile_w + 2)

    @property
    def weights_bytes(self) -> int:
        """Of one half, for one chunk of channels."""
        return 9 * self.channels * self.columns * VALUE

    @property
    def shared(self) -> int:
        """Bytes of shared memory, as Config::shared()."""
        skew = 1 if self.planes >= 8 else 8 // self.planes
        plane = ((self.halo + 7 - skew) // 8 * 8 + skew) * 16
        stage = up(self.planes * plane, 128) + self.weights_bytes * (self.weights == "streamed")
        resident = {"resident": 2, "alternating": 1, "streamed": 0}[self.weights] * self.weights_bytes
        return resident + self.stages * stage + self.warps * 8 * (self.nt * 16 + 16)


class Layer(NamedTuple):
    """A 3x3 layer of stride 1 and padding 1 on a batch."""

    channels: int
    out_channels: int
    height: int
    width: int
    lengths: tuple[int, ...]

    @property
    def samples(self) -> int:
        return sum(self.lengths)

    @property
    def single(self) -> bool:
        """Whether every set has one sample: weights Wu + Ws, and no mean."""
        return max(self.lengths) == 1


class Counts(NamedTuple):
    """What one launch does, in bytes, wavefronts of shared memory (128 bytes) and products of 16 x 8 x 16.

    Attributes:
        programs: resident at once.
        items: a tile of a set, or of a part of its samples; each is done by `column_tiles` programs.
        column_tiles: of the output channels.
        copied_u: asynchronous copies of u, halo included.
        copied_weights: asynchronous copies of weights.
        mean: reads of u for the means.
        term: writes and reads of the set's term, where it does not fit the registers.
        written: of y.
        wavefronts: of shared memory.
        products: computed, padding included.
        needed_products: without padding, the term left out: those of N half-convolutions.
        imbalance: the work of the busiest multiprocessor divided by the mean.
    """

    programs: int
    items: int
    column_tiles: int
    copied_u: int
    copied_weights: int
    mean: int
    term: int
    written: int
    wavefronts: int
    products: int
    needed_products: float
    imbalance: float

    @property
    def l2(self) -> int:
        """Bytes between the multiprocessors and the L2 cache."""
        return self.copied_u + self.copied_weights + self.mean + self.term + self.written


def configs() -> tuple[Config, ...]:
    """The rows of csrc/halo/configs.h for 3x3 kernels and stride 1."""
    found = ROW.findall(TABLE.read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"{TABLE} has no rows of the form {{{{3, 1, channels, ..., Weights::k..., Term::k...}}}}")
    rows = []
    for numbers, weights, term in found:
        channels, columns, mt, across, cols, split = map(int, numbers.split(",")[:6])
        rows.append(Config(channels, columns, mt, across, cols, split, WEIGHTS[weights], term == "kRegisters"))
    return tuple(rows)


def candidates(layer: Layer, shared_limit: int) -> list[Config]:
    """Those that can compute the layer."""
    return [
        config
        for config in configs()
        if config.shared <= shared_limit and (config.weights == "streamed" or layer.channels <= config.channels)
    ]


def counts(config: Config, layer: Layer, multiprocessors: int, resident: int, parts: int | None = None) -> Counts:
    """The counts of one launch of `resident` programs on each multiprocessor."""
    c, samples, sets = config, layer.samples, len(layer.lengths)
    column_tiles = -(-layer.out_channels // c.columns)
    chunks = -(-layer.channels // c.channels) if c.weights == "streamed" else 1
    tiles = -(-layer.height // c.tile_h) * -(-layer.width // c.tile_w)
    slots = max(1, multiprocessors * resident // column_tiles)
    if parts is None:  # as csrc/halo/ops.cu
        parts = min(max(slots // (sets * tiles), 1), max(1, samples // sets // 2))
    shares = [share for length in layer.lengths for _ in range(tiles) for share in split(length, parts)]
    items = [share for share in shares if share]
    programs = min(slots, len(shares)) * column_tiles
    means = 0 if layer.single else len(items)
    passes = (samples * tiles + means) * column_tiles  # a tile of a sample or of a mean, for one column tile

    # Pixels of the image in the halo tiles, summed over the tiles.
    inside = halo_sum(layer.height, c.tile_h) * halo_sum(layer.width, c.tile_w) * layer.channels * VALUE
    mean_samples = (
        0
        if layer.single
        else sum(length * sum(share > 0 for share in split(length, parts)) for length in layer.lengths)
    )
    weights = {
        "resident": 2 * programs,
        "alternating": programs if layer.single else 2 * len(items) * column_tiles,
        "streamed": passes * chunks,
    }[c.weights] * c.weights_bytes
    term = 0 if c.term_in_registers or layer.single else (means + samples * tiles) * column_tiles * _tile_values(c) * 4

    products = c.warps * c.planes // 2 * 9 * c.nt * c.mt  # of a chunk of a pass
    tile = c.halo * c.planes * 16 // 128
    copied_tiles = samples * tiles * column_tiles * COPY_CONFLICTS[access_width(layer.channels)] + means * column_tiles
    # Of a sample: results are written to shared memory and read again, 2 bytes at a time take twice as long.
    staged = (3 if access_width(layer.out_channels) == 1 else 2) * c.warps * 2 * c.mt * c.nt
    return Counts(
        programs,
        len(shares),
        column_tiles,
        copied_u=inside * samples * column_tiles,
        copied_weights=weights,
        mean=inside * mean_samples * column_tiles,
        term=term,
        written=samples * layer.height * layer.width * layer.out_channels * VALUE,
        wavefronts=chunks * (passes * _operand_wavefronts(c) + copied_tiles * tile)
        + weights // 128
        + samples * tiles * column_tiles * staged,
        products=passes * chunks * products,
        needed_products=samples * layer.height * layer.width * 9 * layer.channels * layer.out_channels / 2048,
        imbalance=_imbalance(shares, 0 if layer.single else 1, programs // column_tiles, column_tiles, multiprocessors),
    )


def _operand_wavefronts(c: Config) -> int:
    """Of the operands of the products of a chunk: pixels and weights."""
    if c.engine == "wgmma":  # each product of 64 x columns x 16 reads both from shared memory
        return c.warps // 4 * c.mt * 9 * (c.planes // 2) * (16 + c.columns // 4)
    return c.warps * (c.planes // 2) * 3 * (4 * (c.mt + 1) + 6 * c.nt)


def _tile_values(c: Config) -> int:
    """Values of the output in a program's tile."""
    return c.tile_h * c.tile_w * c.columns


def _imbalance(shares: Sequence[int], mean: int, slots: int, column_tiles: int, multiprocessors: int) -> float:
    """The work of the busiest multiprocessor, relative to the mean: program i does the items i, i + slots, ..."""
    loads = [0] * multiprocessors
    for slot in range(slots):
        work = sum(share + mean for share in shares[slot::slots] if share)
        for column in range(column_tiles):
            loads[(slot * column_tiles + column) % multiprocessors] += work
    return max(loads) * multiprocessors / sum(loads)


def access_width(channels: int) -> int:
    """How many values an access of an image takes: all pixels are aligned to them."""
    return math.gcd(channels, 8)


def split(length: int, parts: int) -> list[int]:
    """How many samples of a set each of its parts has."""
    return [length * (part + 1) // parts - length * part // parts for part in range(parts)]


def halo_sum(size: int, tile: int) -> int:
    """Along an axis: the pixels of the image that are in the tiles with a halo of one, summed over the tiles."""
    return sum(min(size, first + tile + 1) - max(0, first - 1) for first in range(0, size, tile))


def up(count: int, step: int) -> int:
    """`count` rounded up to a multiple of `step`."""
    return -(-count // step) * step

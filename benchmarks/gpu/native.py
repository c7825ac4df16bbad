"""What the native fused layer (csrc/halo: the whole 3x3 layer in one launch) computes and moves, by formula.

`counts` follows csrc/halo/layer.h and warpgroup_layer.h step by step, for any shape, in microseconds. The tests compare
it with what the emulator counts while it runs the kernels' own bodies (tests/halo/test_predicted_counts.py). The
configurations are those of the extension, `halo.configs()`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from interconv_kernels._backends.cpp import load_error
from interconv_kernels._backends.cpp.halo import Config, configs

VALUE = 2  # bytes of bfloat16 and float16
# Threads that copy fewer than 8 values lie in the same banks. Single values are not copied asynchronously but put
# together in registers.
COPY_CONFLICTS = {8: 1, 4: 2, 2: 4, 1: 1}
MORE_ROUNDS = 8  # as in csrc/halo/arguments.h


def reason_unavailable() -> str | None:
    """Why there is no table of configurations: the extension is not built. None if there is."""
    return load_error()


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
        items: a tile and a part of the samples; each is done by `column_tiles` programs.
        parts: of the samples.
        column_tiles: of the output channels.
        copied_u: asynchronous copies of u, halo included.
        copied_weights: asynchronous copies of weights.
        mean: reads of u for the means.
        term: writes and reads of the set's term, where it does not fit the registers.
        written: of y.
        wavefronts: of shared memory.
        products: computed, padding included.
        needed_products: without padding, the term left out: those of N half-convolutions.
        imbalance: the convolutions of the busiest multiprocessor, terms included, divided by the mean.
        l2_imbalance: the same of what goes to and from the L2 cache.
    """

    programs: int
    items: int
    parts: int
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
    l2_imbalance: float

    @property
    def l2(self) -> int:
        """Bytes between the multiprocessors and the L2 cache."""
        return self.copied_u + self.copied_weights + self.mean + self.term + self.written


def candidates(layer: Layer, shared_limit: int, engine: str = "mma.sync") -> list[Config]:
    """Those that can compute the layer."""
    return [c for c in configs() if c.engine == engine and c.fits(3, 1, layer.channels, shared_limit)]


class Piece(NamedTuple):
    """What a part has of a set."""

    samples: int
    set_size: int


def pieces(lengths: Sequence[int], parts: int) -> list[list[Piece]]:
    """The pieces of sets that each part of the samples has."""
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    total = sum(lengths)
    starts = [total // parts * part + min(part, total % parts) for part in range(parts + 1)]
    bounds = pairwise(starts)
    found = [
        [Piece(min(end, last) - max(end - length, first), length) for end, length in zip(ends, lengths, strict=True)]
        for first, last in bounds
    ]
    return [[piece for piece in part if piece.samples > 0] for part in found]


def choose_parts(samples: int, num_sets: int, tiles: int, slots: int, single: bool) -> int:
    """As choose_parts in csrc/halo/arguments.h."""
    fewest = -(-tiles // slots)

    def time(parts: int) -> int:
        terms = 0 if single else -(-num_sets // parts) + (parts > 1)
        return -(-parts * tiles // slots) * (-(-samples // parts) + terms)

    rounds = range(fewest, fewest + MORE_ROUNDS + 1)
    return min((max(1, min(samples, n * slots // tiles)) for n in rounds), key=time)


def counts(config: Config, layer: Layer, multiprocessors: int, resident: int, parts: int | None = None) -> Counts:
    """The counts of one launch of `resident` programs on each multiprocessor."""
    c, samples, sets = config, layer.samples, len(layer.lengths)
    column_tiles = -(-layer.out_channels // c.columns)
    chunks = -(-layer.channels // c.channels) if c.weights == "streamed" else 1
    tiles = -(-layer.height // c.tile_h) * -(-layer.width // c.tile_w)
    slots = max(1, multiprocessors * resident // column_tiles)
    if parts is None:
        parts = choose_parts(samples, sets, tiles, slots, layer.single)
    shares = pieces(layer.lengths, parts)
    programs = min(slots, parts * tiles) * column_tiles
    means, mean_samples = 0, 0
    if not layer.single:
        means = sum(map(len, shares)) * tiles
        mean_samples = sum(piece.set_size for share in shares for piece in share)  # for each tile
    passes = (samples * tiles + means) * column_tiles  # a tile of a sample or of a mean, for one column tile

    # Pixels of the image in the halo tiles, summed over the tiles.
    inside = halo_sum(layer.height, c.tile_h) * halo_sum(layer.width, c.tile_w) * layer.channels * VALUE
    copies_of_weights = {
        "resident": 2 * programs,
        "alternating": programs if layer.single else 2 * means * column_tiles,
        "streamed": passes * chunks,
    }[c.weights]
    copied_weights = copies_of_weights * 9 * c.channels * c.columns * VALUE
    in_memory = c.term == "memory" and not layer.single
    term = (means + samples * tiles) * column_tiles * c.tile_h * c.tile_w * c.columns * 4 if in_memory else 0
    written = samples * layer.height * layer.width * layer.out_channels * VALUE

    planes = c.channels // 8
    tile = (c.tile_h + 2) * (c.tile_w + 2) * planes * 16 // 128
    copied_tiles = samples * tiles * column_tiles * COPY_CONFLICTS[access_width(layer.channels)] + means * column_tiles
    # Of a sample: results are written to shared memory and read again, 2 bytes at a time take twice as long.
    staged = (3 if access_width(layer.out_channels) == 1 else 2) * c.tile_h * c.tile_w * c.columns // 64

    # Of an item: convolutions, and tiles of samples that are moved. Every tile takes the same.
    work = [sum(p.samples + (not layer.single) for p in share) for share in shares]
    out_of_in = written / (inside * samples * column_tiles)
    moved = [sum(p.samples * (1 + out_of_in) + (0 if layer.single else p.set_size) for p in share) for share in shares]
    imbalance, l2_imbalance = (
        _imbalance(load * tiles, programs // column_tiles, column_tiles, multiprocessors) for load in (work, moved)
    )
    return Counts(
        programs,
        parts * tiles,
        parts,
        column_tiles,
        copied_u=inside * samples * column_tiles,
        copied_weights=copied_weights,
        mean=inside * mean_samples * column_tiles,
        term=term,
        written=written,
        wavefronts=chunks * (passes * _operand_wavefronts(c) + copied_tiles * tile)
        + copied_weights // 128
        + samples * tiles * column_tiles * staged,
        products=passes * chunks * c.tile_h * c.tile_w * c.columns * 9 * c.channels // 2048,
        needed_products=samples * layer.height * layer.width * 9 * layer.channels * layer.out_channels / 2048,
        imbalance=imbalance,
        l2_imbalance=l2_imbalance,
    )


def _operand_wavefronts(c: Config) -> int:
    """Of the operands of the products of a chunk: pixels and weights."""
    depths = c.channels // 16
    if c.engine == "wgmma":  # each product of 64 x columns x 16 reads both from shared memory
        return c.tile_h * c.tile_w // 64 * 9 * depths * (16 + c.columns // 4)
    return c.warps * depths * 3 * (4 * (c.mt + 1) + 6 * c.nt)


def _imbalance(items: Sequence[float], slots: int, column_tiles: int, multiprocessors: int) -> float:
    """The load of the busiest multiprocessor, relative to the mean: program i does the items i, i + slots, ..."""
    loads = [0.0] * multiprocessors
    for slot in range(slots):
        load = sum(items[slot::slots])
        for column in range(column_tiles):
            loads[(slot * column_tiles + column) % multiprocessors] += load
    return max(loads) * multiprocessors / sum(loads)


def access_width(channels: int) -> int:
    """How many values an access of an image takes: all pixels are aligned to them."""
    return math.gcd(channels, 8)


def halo_sum(size: int, tile: int) -> int:
    """Along an axis: the pixels of the image that are in the tiles with a halo of one, summed over the tiles."""
    return sum(min(size, first + tile + 1) - max(0, first - 1) for first in range(0, size, tile))


def up(count: int, step: int) -> int:
    """`count` rounded up to a multiple of `step`."""
    return -(-count // step) * step

"""Every shipped kernel configuration compiled for every GPU, and whether it is lean. `python -m benchmarks.machine_code`

Lean: nothing spilled from registers, shared memory within the chip, matrix products on tensor cores (except float32 in
ieee precision on NVIDIA, which has none for it), bulk copies in conv_tma, and 128-bit loads and stores in the set
kernels, which memory bounds. No GPU is needed: see offline.py. This says nothing about time.

    python -m benchmarks.machine_code                       print the table
    python -m benchmarks.machine_code --write docs/gpu.md   put it into the file's section for this version of triton
    python -m benchmarks.machine_code --check docs/gpu.md   compile anew; fail if the section differs or a kernel is not lean
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.runtime import JITFunction

from interconv_kernels._backends.triton import conv_kernels, fused, set_kernels, set_ops
from interconv_kernels._backends.triton.configs import TILES, Tile
from interconv_kernels.activation import Activation
from interconv_kernels.convolution import Conv
from interconv_kernels.sets import SetIndex

from .document import difference, read_section, write_section
from .offline import CHIPS, META, Chip, Code, Launch, float32_as, launches, maps, occupancy

HEIGHT, WIDTH = 64, 64
LOW_DTYPES = (torch.bfloat16, torch.float16)


class Case(NamedTuple):
    """Something that launches kernels, and what is expected of their machine code."""

    title: str
    work: Callable[[], object]
    precision: str = "ieee"  # of float32
    tensor_cores: bool = False
    bulk_copies: bool = False
    wide_access: bool = False

    def fits(self, chip: Chip) -> bool:
        return chip.has_tma or not self.bulk_copies


class Row(NamedTuple):
    """A kernel of a case, on each chip that it is for."""

    title: str
    codes: dict[str, Code]


# --- what is compiled -------------------------------------------------------------------------------------------------


def cases() -> list[Case]:
    return [*tile_cases(), *set_cases()]


def tile_cases() -> Iterator[Case]:
    """Every tile, for channels that the depth of its loop divides and others; in each dtype and precision it serves."""
    for tile in TILES:
        if tile.bits == 16:
            settings = [(dtype, "ieee") for dtype in LOW_DTYPES]
        else:  # conv_tma is not launched for float32 in ieee precision
            settings = [(torch.float32, "tf32")] + [(torch.float32, "ieee")] * (tile.kernel != "conv_tma")
        for dtype, precision in settings:
            for channels in (128, 24) if tile.vectors or tile.bits == 32 else (137, 23):
                name = precision if tile.bits == 32 else str(dtype).removeprefix("torch.")
                yield Case(
                    f"`{tile.name}` C = {channels}, {name}",
                    tile_launch(tile, dtype, channels),
                    precision,
                    tensor_cores=tile.bits == 16 or precision == "tf32",
                    bulk_copies=tile.kernel == "conv_tma",
                )


def tile_launch(tile: Tile, dtype: torch.dtype, channels: int, num_samples: int = 16) -> Callable[[], object]:
    """The tile's kernel as the layer launches it: 3x3 (pointwise: 1x1), PReLU, the set's term or a bias."""
    size = (HEIGHT, WIDTH)
    k = 1 if tile.kernel == "pointwise" else 3
    conv = Conv((1, 1), (k // 2, k // 2), (1, 1), torch.channels_last)
    sets = index(num_samples, 2)
    u, y = (maps(num_samples, channels, *size, dtype) for _ in range(2))
    t = maps(sets.num_sets, channels, *size, torch.float32)
    weight = torch.empty(k, k, channels, channels, dtype=dtype, device=META)
    vector = torch.empty(channels, dtype=dtype, device=META)
    prelu = Activation("prelu", vector)
    if tile.kernel == "wgrad":
        return lambda: fused._wgrad(conv, y, u, weight.permute(3, 2, 0, 1), tile)
    if tile.kernel == "pointwise":
        return lambda: fused._pointwise(u, weight, weight, vector, sets, prelu, y, tile)
    walk = fused.Walk(size, (1, 1), (-1, -1), (1, 1), (1, 1), (0, 0))
    return lambda: fused._convolve(u, walk, weight, y, t, sets.set_ids, None, prelu, tile)


def set_cases() -> Iterator[Case]:
    """Every set kernel, for samples of a multiple of 16 values."""
    for dtype in (*LOW_DTYPES, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for title, work in set_launches(dtype):
            yield Case(f"{title}, {name}", work, wide_access=True)


def set_launches(dtype: torch.dtype, channels: int = 64, num_samples: int = 16) -> Iterator[tuple[str, Callable[[], object]]]:
    size = (HEIGHT, WIDTH)
    sets, long_sets = index(num_samples, 2), index(2 * set_ops.PIECE, 1)
    u, wide = maps(num_samples, channels, *size, dtype), maps(num_samples, 2 * channels, *size, dtype)
    nchw, wide_nchw = (x.contiguous() for x in (u, wide))
    long, mean = maps(long_sets.num_rows, channels, *size, dtype), maps(sets.num_sets, channels, *size, dtype)
    dev = maps(num_samples - sets.num_sets, channels, *size, dtype)
    bias = torch.empty(channels, dtype=dtype, device=META)
    prelu = Activation("prelu", bias)
    yield "short sets", lambda: set_ops.set_reduce(u, sets, mean=True)
    yield "long sets", lambda: set_ops.set_reduce(long, long_sets, mean=True)
    yield "mean's backward", lambda: set_ops.set_add(None, mean, sets, mean=True)
    for fmt, x, pair, term in (("channels_last", u, wide, mean), ("NCHW", nchw, wide_nchw, mean.contiguous())):
        yield f"{fmt}, bias, PReLU", lambda x=x, t=term: set_ops.set_add(x, t, sets, False, bias=bias, activation=prelu)
        yield fmt, lambda x=x: set_ops.concat_set_mean(x, sets)
        yield fmt, lambda g=pair: set_ops.concat_set_mean_backward(g, sets)
    yield "from the mean", lambda: set_ops.center(u, sets, from_mean=True)
    yield "from the last sample", lambda: set_ops.center(u, sets, from_mean=False)
    yield "inverse", lambda: set_ops.uncenter(mean, dev, sets)


def index(num_samples: int, num_sets: int) -> SetIndex:
    offsets, ids = (torch.empty(n, dtype=torch.int32, device=META) for n in (num_sets + 1, num_samples))
    return SetIndex(offsets, ids)


def all_kernels() -> set[str]:
    """The names of the package's kernels."""
    functions = [*vars(set_kernels).items(), *vars(conv_kernels).items()]
    return {name for name, value in functions if isinstance(value, JITFunction) and name.endswith("_kernel")}


# --- whether it is lean -----------------------------------------------------------------------------------------------


def faults(case: Case, chip: Chip, code: Code) -> list[str]:
    """Why a kernel's code is not lean."""
    found = []
    if code.spills:
        found.append(f"spills {code.spills}")
    if code.shared > chip.program_shared:
        found.append(f"{code.shared} bytes of shared memory: the chip has {chip.program_shared}")
    if case.tensor_cores and not code.instructions[chip.tensor_core]:
        found.append(f"no {chip.tensor_core} instruction")
    if case.bulk_copies and not code.instructions["bulk"]:
        found.append("no bulk copy")
    found += [f"no {name}" for name in ("load128", "store128") if case.wide_access and not code.instructions[name]]
    return found


def compile_case(number: int) -> list[tuple[str, str, Code]]:
    """(kernel, chip, code) of each kernel of a case, on each chip that it is for."""
    case = cases()[number]
    made: list[tuple[str, str, Code]] = []
    for chip in CHIPS.values():
        if case.fits(chip):
            with float32_as(case.precision):
                recorded: list[Launch] = launches(chip, case.work)
            made += [(launch.kernel, chip.name, launch.code) for launch in recorded]
    return made

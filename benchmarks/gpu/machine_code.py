"""Compiles every kernel configuration for every GPU and checks its code: `python -m benchmarks machine-code`.

The code of a kernel is lean if nothing is spilled to memory, shared memory fits, matrix products run on tensor cores
(except float32 in ieee precision, which NVIDIA's tensor cores would round), conv_tma copies in bulk, and the set
kernels, which are bound by memory, load and store 128 bits at once. No GPU is needed, see offline.py. Nothing is timed.

    python -m benchmarks machine-code                 prints the table
    python -m benchmarks machine-code --write FILE    replaces the file's section for the installed version of Triton
    python -m benchmarks machine-code --check FILE    fails if that section differs

The exit status is 1 if a kernel is not lean.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import torch
import triton
from triton.runtime import JITFunction

from interconv_kernels._accuracy import float32_as
from interconv_kernels._backends.triton import conv_kernels, conv_launch, row_kernels, row_launch, set_kernels, set_ops
from interconv_kernels._backends.triton.configs import TILES, Tile
from interconv_kernels.convolution import Conv

from ..document import add_options, write_or_compare
from .offline import CHIPS, META, Chip, Code, compile_for, index, maps, occupancy, record

HEIGHT, WIDTH = 64, 64
Products: TypeAlias = Literal["16-bit", "tf32", "ieee", ""]
TENSOR_CORES = ("mma", "wgmma", "tcgen05")
# ptxas keeps a few registers in memory, although more are free: by version of Triton and (chip, case), where that is
# accepted.
ACCEPTED_SPILLS = {
    "3.7.1": {
        ("sm_86", "conv-16-64x32x32-odd, C = 137, bfloat16"): "8 bytes of stack memory",
        ("sm_86", "conv-16-64x32x32-odd, C = 137, the set's term"): "8 bytes of stack memory",
    },
    "3.9.0": {
        ("sm_80", "conv-32-64x64x32-odd, C = 33, ieee"): "72 bytes of stack memory",
        ("sm_86", "channels_last, bfloat16"): "8 bytes of stack memory",
        ("sm_90", "inverse, bfloat16"): "8 bytes of stack memory",
        ("sm_120", "conv-16-64x32x32-odd, C = 137, bfloat16"): "8 bytes of stack memory",
    },
}


class KernelCase(NamedTuple):
    """Code that launches kernels, and what is expected of their machine code.

    Attributes:
        title: what is launched.
        work: launches the kernels, on meta tensors.
        products: the precision of the matrix products; "" if there are none.
        bulk_copies: whether bulk copies are expected.
    """

    title: str
    work: Callable[[], object]
    products: Products = ""
    bulk_copies: bool = False

    def fits(self, chip: Chip) -> bool:
        """Whether the launchers use this code on the chip: not bulk copies or TF32 where it has none."""
        return (chip.has_tma or not self.bulk_copies) and (chip.backend == "cuda" or self.products != "tf32")


class CompiledKernel(NamedTuple):
    """A kernel of a case, on the chips that support it."""

    kernel: str
    case: str
    codes: dict[str, Code]  # by chip
    faults: list[str]


# --- what is compiled -------------------------------------------------------------------------------------------------


def cases() -> list[KernelCase]:
    """Everything that is compiled."""
    return [*tile_cases(), *set_cases()]


def tile_cases() -> Iterator[KernelCase]:
    """Every tile, in each dtype and precision that it is used for, with two typical channel counts."""
    for tile in TILES:
        for products in products_of(tile):
            # float16 has the same code as bfloat16, except for conversions
            dtype = torch.bfloat16 if products == "16-bit" else torch.float32
            for channels in typical_channels(tile):
                title = f"{tile.name}, C = {channels}, {'bfloat16' if products == '16-bit' else products}"
                yield KernelCase(title, tile_launch(tile, dtype, channels), products, tile.kernel == "conv_tma")
        if tile.kernel.startswith("conv") and tile.bits == 16:
            title, launch = f"{tile.name}, C = {channels}, the set's term", set_term_launch(tile, channels)
            yield KernelCase(title, launch, "16-bit", tile.kernel == "conv_tma")


def products_of(tile: Tile) -> tuple[Products, ...]:
    """The precisions that conv_launch.py launches the tile for."""
    if tile.bits == 16:
        return ("16-bit",)
    return ("tf32",) if tile.kernel in ("conv_tma", "conv_rows") else ("tf32", "ieee")


def typical_channels(tile: Tile) -> tuple[int, ...]:
    """Channel counts of the paper's networks: one that BK divides and one that it does not; odd ones for odd tiles."""
    if tile.kernel == "conv_rows":
        return (tile.bk, tile.bk - 8) if tile.vectors else (12, 23)
    if tile.vectors:
        return {32: (32, 24), 64: (64, 184), 128: (128, 200)}[tile.bn]
    if tile.bits == 16:
        return {32: (23, 137), 64: (33, 100)}[tile.bn]
    return {32: (128, 23), 64: (128, 33)}[tile.bn]


def tile_launch(
    tile: Tile,
    dtype: torch.dtype,
    channels: int,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    lengths: Sequence[int] = (8, 8),
) -> Callable[[], object]:
    """The tile's kernel as the layer launches it: 3x3 (pointwise: 1x1), PReLU, the set's term or a bias."""
    k = 1 if tile.kernel == "pointwise" else 3
    conv = Conv((1, 1), (k // 2, k // 2), (1, 1), torch.channels_last)
    sets = index(lengths)
    u, y = (maps(sets.num_rows, channels, *size, dtype) for _ in range(2))
    t = maps(sets.num_sets, channels, *size, torch.float32)
    weight = torch.empty(k, k, channels, channels, dtype=dtype, device=META)
    vector = torch.empty(channels, dtype=dtype, device=META)
    if tile.kernel == "wgrad":
        return lambda: conv_launch.wgrad(conv, y, u, weight.permute(3, 2, 0, 1), tile)
    if tile.kernel == "pointwise":
        return lambda: conv_launch.pointwise(u, weight, weight, vector, sets, vector, y, tile)
    geometry = conv_launch.Geometry(size, (1, 1), (-1, -1), (1, 1), (1, 1), (0, 0))
    epilogue = conv_launch.Epilogue(t, sets.set_ids, slope=vector)
    return partial(convolution_of(tile), u, geometry, weight, y, epilogue, tile)


def set_term_launch(tile: Tile, channels: int) -> Callable[[], object]:
    """A convolution tile that computes the set term of a 3x3 layer: from the set means, in float32, with the bias."""
    means, t = maps(4, channels, HEIGHT, WIDTH, torch.bfloat16), maps(4, channels, HEIGHT, WIDTH, torch.float32)
    weight = torch.empty(3, 3, channels, channels, dtype=torch.bfloat16, device=META)
    bias = torch.empty(channels, dtype=torch.bfloat16, device=META)
    geometry = conv_launch.Geometry((HEIGHT, WIDTH), (1, 1), (-1, -1), (1, 1), (1, 1), (0, 0))
    return partial(convolution_of(tile), means, geometry, weight, t, conv_launch.Epilogue(bias=bias), tile)


def convolution_of(tile: Tile) -> Callable[..., None]:
    """The launcher of a convolution tile."""
    return row_launch.convolve_rows if tile.kernel == "conv_rows" else conv_launch.convolve


def set_cases() -> Iterator[KernelCase]:
    """Every set kernel, for samples whose number of values is a multiple of 16."""
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for title, work in set_launches(dtype):
            yield KernelCase(f"{title}, {name}", work)


def set_launches(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    """(title, code that launches it) for every set operation."""
    num_samples, channels = 16, 64
    sets, long_sets = index([8, 8]), index([2 * set_ops.PIECE])
    long = maps(long_sets.num_rows, channels, HEIGHT, WIDTH, dtype)
    slope = torch.empty(channels, dtype=dtype, device=META)
    for fmt, last in (("channels_last", True), ("NCHW", False)):
        u, g = (maps(num_samples, n * channels, HEIGHT, WIDTH, dtype, channels_last=last) for n in (1, 2))
        t, dev = (maps(n, channels, HEIGHT, WIDTH, dtype, channels_last=last) for n in (2, num_samples - 2))
        yield f"{fmt}, PReLU", partial(set_ops.set_add, u, t, sets, mean=False, out=u, slope=slope)
        yield fmt, partial(set_ops.concat_set_mean, u, sets)
        yield fmt, partial(set_ops.concat_set_mean_backward, g, sets)
    yield "short sets", partial(set_ops.set_reduce, u, sets, True)
    yield "long sets", partial(set_ops.set_reduce, long, long_sets, True)
    yield "the mean's backward", partial(set_ops.set_add, None, t, sets, mean=True, out=u)
    yield "from the mean", partial(set_ops.center, u, sets, True)
    yield "from the last sample", partial(set_ops.center, u, sets, False)
    yield "inverse", partial(set_ops.uncenter, t, dev, sets)


def all_kernels() -> set[str]:
    """The names of all kernels of the library."""
    functions = [item for module in (set_kernels, conv_kernels, row_kernels) for item in vars(module).items()]
    return {name for name, value in functions if isinstance(value, JITFunction) and name.endswith("_kernel")}


# --- checking the code ------------------------------------------------------------------------------------------------


def faults(case: KernelCase, chip: Chip, code: Code) -> list[str]:
    """Why the code of a kernel is not lean; empty if it is."""
    found = []
    accepted = ACCEPTED_SPILLS.get(triton.__version__, {}).get((chip.name, case.title))
    if code.spills not in ("", accepted):
        found.append(f"spills {code.spills}")
    if code.shared > chip.program_shared:
        found.append(f"{code.shared} bytes of shared memory, expected at most {chip.program_shared}")
    count = code.instructions
    if case.products == "ieee" and chip.backend == "cuda":
        found += [f"{name} instructions, which round float32" for name in TENSOR_CORES if count[name]]
    elif case.products and not count[chip.tensor_core]:
        found.append(f"no {chip.tensor_core} instruction")
    if case.bulk_copies and not count["bulk"]:
        found.append("no bulk copy")
    if not case.products:
        found += [f"no {name}" for name in ("load128", "store128") if not count[name]]
    return found


def compile_case(number: int) -> list[CompiledKernel]:
    """The kernels of one case, by its position in `cases()`."""
    case = cases()[number]
    rows: dict[str, CompiledKernel] = {}
    for chip in CHIPS.values():
        if not case.fits(chip):
            continue
        with float32_as("tf32" if case.products == "tf32" else "ieee"):
            launches = record(chip, case.work)
        for launch in launches:
            code = compile_for(chip, launch)
            row = rows.setdefault(launch.kernel, CompiledKernel(launch.kernel, case.title, {}, []))
            row.codes[chip.name] = code
            row.faults.extend(
                f"{launch.kernel} ({case.title}) on {chip.name}: {fault}" for fault in faults(case, chip, code)
            )
    return list(rows.values())


def compile_all() -> list[CompiledKernel]:
    """The kernels of all cases on all chips."""
    with ProcessPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return [row for rows in pool.map(compile_case, range(len(cases()))) for row in rows]


# --- the table --------------------------------------------------------------------------------------------------------


def table(rows: list[CompiledKernel]) -> str:
    """A Markdown table with a line for each kernel of each case."""
    lines = [f"| kernel | case | {' | '.join(CHIPS)} |", "|---|---|" + "---|" * len(CHIPS)]
    for row in rows:
        cells = (cell(chip, row.codes[chip.name]) if chip.name in row.codes else "-" for chip in CHIPS.values())
        lines.append(f"| {row.kernel.removesuffix('_kernel')} | {row.case} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(chip: Chip, code: Code) -> str:
    """Registers per thread, shared memory per program, occupancy, instructions."""
    found = ", ".join(f"{name} {count}" for name, count in code.instructions.items() if count)
    spilled = f", **spills {code.spills}**" if code.spills else ""
    return f"{code.registers} · {code.shared / 1024:.0f} KB · {occupancy(chip, code):.0%}{spilled}<br>{found}"


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles, then prints, writes or checks; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks machine-code",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    arguments = parser.parse_args(argv)
    rows = compile_all()
    text, section = table(rows), f"machine code, triton {triton.__version__}"
    messages = "".join(f"not lean: {fault}\n" for row in rows for fault in row.faults)
    if arguments.write or arguments.check:
        messages += write_or_compare(arguments, {section: text})
    else:
        print(text, end="")
    sys.stderr.write(messages)
    return 1 if messages else 0

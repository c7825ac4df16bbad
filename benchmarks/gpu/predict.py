"""PREDICTED time of the Triton kernels on GPUs that are not here; nothing in this file is measured.

    python -m benchmarks predict [--gpu h100|a100|h200|mi300x]
    python -m benchmarks predict --write docs/gpu.md        the H100's and the A100's tables, into the file
    python -m benchmarks predict --check docs/gpu.md        fail where they differ

The launches are those that the launchers make on that chip (offline.py); their arguments say what they move.

    time = max(FLOPs done / peak, bytes / bandwidth, L2 bytes / L2 bandwidth) * (busiest SM's programs / the mean SM's)
    floor = max(FLOPs needed / peak, bytes / bandwidth), of a layer that of docs/design.md: N h FLOPs and 2 N A bytes
            forward, 2 N h and 3 N A backward

with h the FLOPs of one half-convolution of a sample and A the bytes of its map. What is assumed:

* FLOPs done count whole tiles: channels, depth and pixels that only fill a tile are computed too.
* Bytes: each tensor of a launch crosses the memory bus once. Second reads (a tap's, a column tile's, a second pass's)
  hit the L2 cache, because neighbours in time work on the same set; they count as L2 bytes.
* Programs take equal time and are spread evenly; those on one SM share its throughput. Occupancy drops out of this:
  whether it hides latency is not predicted.
* Peaks are reached, launches cost nothing, and torch's small operations on weights and sums are left out.

So the time is a lower bound, and the fraction of the floor an upper one: what padding, re-reads, passes and waves
leave.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from interconv_kernels._backends.triton import fused, set_ops
from interconv_kernels.convolution import Conv

from .document import difference, write_section
from .offline import CHIPS, META, Launch, index, maps, record


class Gpu(NamedTuple):
    """A GPU by its datasheet; rates a second."""

    title: str
    chip: str
    multiprocessors: int
    flops: float  # dense bfloat16
    bandwidth: float  # bytes
    l2_bandwidth: float  # bytes


# L2: 5120 bytes a clock at 1.41 GHz (NVIDIA A100 whitepaper), the same assumed of Hopper at 1.755 GHz; 2048 bytes a
# clock in each of 8 dies at 2.1 GHz (AMD CDNA 3 whitepaper).
GPUS = {
    "h100": Gpu("H100 SXM", "sm_90", 132, 989e12, 3.35e12, 9.0e12),
    "a100": Gpu("A100 SXM 80 GB", "sm_80", 108, 312e12, 2.04e12, 7.2e12),
    "h200": Gpu("H200 SXM", "sm_90", 132, 989e12, 4.8e12, 9.0e12),
    "mi300x": Gpu("MI300X", "gfx942", 304, 1307e12, 5.3e12, 34.4e12),
}


class Shape(NamedTuple):
    """A layer of one of the paper's networks."""

    network: str
    channels: int
    height: int
    width: int
    k: int = 3

    def __str__(self) -> str:
        return f"{self.network}: {self.channels} x {self.height}x{self.width}, k = {self.k}"


SHAPES = (
    Shape("SimpleUNet", 16, 160, 192),
    Shape("SimpleUNet", 49, 80, 96),
    Shape("SimpleUNet", 200, 40, 48),
    Shape("nnUNet", 32, 160, 192),
    Shape("nnUNet", 64, 80, 96),
    Shape("nnUNet", 128, 40, 48),
    Shape("nnUNet", 512, 10, 12),
    Shape("ScribblePrompt", 137, 128, 128),
    Shape("ScribblePrompt", 192, 128, 128),
    Shape("SwinUNet", 96, 40, 48, 1),
    Shape("SwinUNet", 192, 20, 24, 1),
)
SETS = {"8 x 1": [1] * 8, "8 x 2": [2] * 8, "8 x 8": [8] * 8, "ragged": [1, 2, 7, 16, 3, 4, 12, 8]}
DTYPE = torch.bfloat16


class Cost(NamedTuple):
    """What a launch, or a layer, does (`flops`, `l2_bytes`), and what it cannot do without."""

    flops: float
    needed_flops: float
    bytes: float
    l2_bytes: float


class Prediction(NamedTuple):
    """PREDICTED."""

    seconds: float
    floor: float
    bound: str

    @property
    def fraction(self) -> float:
        return self.floor / self.seconds


# --- what launches do -------------------------------------------------------------------------------------------------


def cost(launch: Launch) -> Cost:
    """Counted from the arguments of a launch."""
    a = launch.arguments
    if launch.kernel == "conv_kernel":
        pixels, depth = a["num_rows"] * a["grid_h"] * a["grid_w"], a["TAPS_H"] * a["TAPS_W"] * a["C"]
        added = a["p_t"].nbytes * a["grid_h"] * a["grid_w"] / (a["out_h"] * a["out_w"]) if a["HAS_SET"] else 0
        written = pixels * a["CO"] * a["p_y"].itemsize
        moved = a["p_u"].nbytes + a["p_weight"].nbytes + added + written
        return product(launch, a["BM"], pixels, depth, up(depth, a["BK"]), moved, written)
    if launch.kernel == "conv_tma_kernel":
        u, weight, y = (a[name].base for name in ("u_tiles", "weight_tiles", "y_tiles"))
        taps, pixels = a["TAPS_H"] * a["TAPS_W"], y.shape[0] * a["out_h"] * a["out_w"]
        moved = u.nbytes + weight.nbytes + (a["p_t"].nbytes if a["HAS_SET"] else 0) + y.nbytes
        rows, tile_depth = a["BH"] * a["BW"], taps * up(a["C"], a["BK"])
        return product(launch, rows, pixels, taps * a["C"], tile_depth, moved, y.nbytes)
    if launch.kernel == "wgrad_kernel":
        pixels, rows = a["num_rows"] * a["out_h"] * a["out_w"], a["TAPS_H"] * a["TAPS_W"] * a["C"]
        parts = a["p_parts"].nbytes
        moved = a["p_u"].nbytes + a["p_g"].nbytes + 2 * parts  # written, and read by the sum over parts
        num_parts = a["p_parts"].shape[0]
        return product(launch, a["BM"], rows * num_parts, pixels / num_parts, a["chunk"], moved, parts)
    if launch.kernel == "pointwise_kernel":
        u, y, num_sets = a["p_u"], a["p_y"], a["p_offsets"].shape[0] - 1
        products = u.shape[0] / num_sets + 1  # a program makes one for each sample of its set and one for their mean
        depth, tile_depth = a["C"] * products, up(a["C"], a["BK"]) * products
        moved = u.nbytes + y.nbytes + 2 * a["p_w_own"].nbytes
        return product(launch, a["BM"], num_sets * a["area"], depth, tile_depth, moved, y.nbytes)
    tensors = {id(x): x for x in a.values() if isinstance(x, torch.Tensor)}
    moved = sum(x.nbytes for x in tensors.values())
    return Cost(0, 0, moved, moved)


def product(
    launch: Launch, tile_rows: int, rows: int, depth: float, tile_depth: float, moved: float, written: float
) -> Cost:
    """The cost of a matrix product [rows, depth] @ [depth, CO] by tiles of [tile_rows, BN]. What fills a tile without
    being there is computed, but not loaded."""
    columns, tile_columns = launch.arguments["CO"], launch.arguments["BN"]
    column_tiles = -(-columns // tile_columns)
    row_tiles = launch.programs // column_tiles
    loaded = depth * (rows * column_tiles + columns * row_tiles) * DTYPE.itemsize
    done = 2 * launch.programs * tile_rows * tile_columns * tile_depth
    return Cost(done, 2 * rows * columns * depth, moved, loaded + written)


def up(count: int, step: int) -> int:
    """`count` rounded up to a multiple of `step`."""
    return -(-count // step) * step


def predict(gpu: Gpu, launch: Launch) -> Prediction:
    """PREDICTED seconds of one launch, and the floor of that launch alone."""
    work = cost(launch)
    times = {
        "compute": work.flops / gpu.flops,
        "memory": work.bytes / gpu.bandwidth,
        "L2": work.l2_bytes / gpu.l2_bandwidth,
    }
    bound = max(times, key=lambda name: times[name])
    imbalance = up(launch.programs, gpu.multiprocessors) / launch.programs
    floor = max(work.needed_flops / gpu.flops, work.bytes / gpu.bandwidth)
    return Prediction(times[bound] * imbalance, floor, bound)


def predict_layer(gpu: Gpu, shape: Shape, lengths: list[int], direction: str) -> Prediction:
    """PREDICTED seconds of a fused layer's launches together, against the layer's floor."""
    launches = record(CHIPS[gpu.chip], layer(shape, lengths, direction))
    passes, maps_moved = (1, 2) if direction == "forward" else (2, 3)
    values = sum(lengths) * shape.channels * shape.height * shape.width
    compute = passes * 2 * shape.k**2 * shape.channels * values / gpu.flops
    memory = maps_moved * values * DTYPE.itemsize / gpu.bandwidth
    seconds = sum(predict(gpu, launch).seconds for launch in launches)
    return Prediction(seconds, max(compute, memory), "compute" if compute > memory else "memory")


def layer(shape: Shape, lengths: list[int], direction: str) -> Callable[[], object]:
    """The fused layer with a bias, forward or backward (all gradients)."""
    conv = Conv((1, 1), (shape.k // 2,) * 2, (1, 1), torch.channels_last)
    sets = index(lengths)
    u, g = (maps(sets.num_rows, shape.channels, shape.height, shape.width, DTYPE) for _ in range(2))
    weight = torch.empty(shape.channels, 2 * shape.channels, shape.k, shape.k, dtype=DTYPE, device=META)
    if direction == "forward":
        return partial(fused.fused_forward, conv, u, weight, weight[:, 0, 0, 0].contiguous(), sets)
    return partial(fused.fused_backward, conv, g, u, weight, sets, (True, True, True))


def set_operations(shape: Shape, lengths: list[int]) -> Callable[[], object]:
    """The operations of the forms over the vendor's convolution."""
    sets = index(lengths)
    u, g = (maps(sets.num_rows, n * shape.channels, shape.height, shape.width, DTYPE) for n in (1, 2))

    def work() -> None:
        set_ops.concat_set_mean(u, sets)
        set_ops.concat_set_mean_backward(g, sets)
        set_ops.uncenter(*set_ops.center(u, sets, False), sets)
        set_ops.set_add(u, set_ops.set_reduce(u, sets, True), sets, False)

    return work


# --- tables -----------------------------------------------------------------------------------------------------------


def report(gpu: Gpu) -> str:
    """Markdown: every layer in every batch, and every kernel in the ragged batch."""
    lines = [
        f"PREDICTED, not measured: {gpu.title}, bfloat16, the fused layer.",
        "",
        "| layer (channels x height x width) | sets | PREDICTED forward | floor | of the floor | PREDICTED backward"
        " | floor | of the floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        for name, lengths in SETS.items():
            cells = []
            for direction in ("forward", "backward"):
                total = predict_layer(gpu, shape, lengths, direction)
                floor = f"{microseconds(total.floor)} ({total.bound})"
                cells += [microseconds(total.seconds), floor, f"{total.fraction:.0%}"]
            lines.append(f"| {shape} | {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"PREDICTED, not measured: {gpu.title}, each kernel in the ragged batch, against its own floor.",
        "",
        "| layer | kernel | programs | GFLOP done | MB | PREDICTED time | bound | floor | of the floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        lines += dict.fromkeys(kernel_lines(gpu, shape))  # grad_u is the forward again: one line for both
    return "\n".join(lines) + "\n"


def kernel_lines(gpu: Gpu, shape: Shape) -> Iterator[str]:
    """A line for each kernel of a layer: the fused one's, then those of the other forms."""
    lengths = SETS["ragged"]
    chip = CHIPS[gpu.chip]
    launches = [launch for way in ("forward", "backward") for launch in record(chip, layer(shape, lengths, way))]
    for launch in launches + record(chip, set_operations(shape, lengths)):
        work, part = cost(launch), predict(gpu, launch)
        yield (
            f"| {shape} | {launch.kernel.removesuffix('_kernel')} | {launch.programs} | {work.flops / 1e9:.1f}"
            f" | {work.bytes / 1e6:.1f} | {microseconds(part.seconds)} | {part.bound} | {microseconds(part.floor)}"
            f" | {part.fraction:.0%} |"
        )


def microseconds(seconds: float) -> str:
    """Three digits are more than a prediction is worth."""
    return f"{seconds * 1e6:.3g} us"


def main(argv: Sequence[str] | None = None) -> int:
    """Print, write or check the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--write", type=Path, metavar="FILE")
    target.add_argument("--check", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    if not arguments.write and not arguments.check:
        print(report(GPUS[arguments.gpu]), end="")
        return 0
    differences = ""
    for name in ("h100", "a100"):
        section, text = f"predicted, {name}", report(GPUS[name])
        if arguments.write:
            write_section(arguments.write, section, text)
        else:
            differences += difference(arguments.check, section, text)
    sys.stderr.write(differences)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

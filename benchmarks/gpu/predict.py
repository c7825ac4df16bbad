"""PREDICTED times of the Triton kernels on GPUs that are not present; nothing is measured.

The launches are recorded from the launchers (offline.py), and their arguments tell what they compute and move:

    time = max(computed FLOPs / peak, bytes / bandwidth, L2 bytes / L2 bandwidth)
           * programs of the busiest SM / mean programs per SM
    roofline of a launch = max(needed FLOPs / peak, bytes / bandwidth)
    roofline of a layer  = the same with N h FLOPs and 2 N A bytes forward, 2 N h FLOPs and 3 N A bytes backward

h is the FLOPs of one half-convolution and A the bytes of one sample's features. Assumptions:

* Computed FLOPs count whole tiles, including channels, depth and pixels that only fill a tile.
* Each tensor of a launch is moved from or to memory once. Repeated reads (by another tap, column tile or pass) hit the
  L2 cache, because programs that run at the same time work on the same set. They count as L2 bytes.
* Programs take equal time and are distributed evenly; those on one SM share its throughput. Occupancy has no influence:
  whether it hides latency is not predicted.
* Peak rates are reached, launches take no time, and torch's small operations on weights and sums are left out.

The time is therefore a lower bound, and the fraction of the roofline an upper bound. It shows the cost of padding,
repeated reads, passes and uneven distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import torch

from interconv_kernels._backends.triton import fused, set_ops
from interconv_kernels._backends.triton.configs import candidates_for
from interconv_kernels.convolution import Conv

from .machine_code import tile_launch
from .offline import CHIPS, META, Launch, index, maps, record


class Gpu(NamedTuple):
    """A GPU according to its data sheet; rates per second."""

    title: str
    chip: str
    multiprocessors: int
    flops: float  # dense bfloat16
    bandwidth: float  # bytes
    l2_bandwidth: float  # bytes
    hertz: float
    l2: int  # bytes
    mma_sync: float = 1.0  # the share of `flops` that mma.sync reaches


# L2: 5120 bytes per clock at 1.41 GHz (NVIDIA A100 whitepaper), assumed to be the same for Hopper at 1.755 GHz; 2048
# bytes per clock in each of 8 dies at 2.1 GHz (AMD CDNA 3 whitepaper). mma.sync on Hopper: about 0.62 of wgmma's rate
# (assumed: published microbenchmarks find 0.6 to 0.65).
GPUS = {
    "h100": Gpu("H100 SXM", "sm_90", 132, 989e12, 3.35e12, 9.0e12, 1.755e9, 50 * 2**20, 0.62),
    "a100": Gpu("A100 SXM 80 GB", "sm_80", 108, 312e12, 2.04e12, 7.2e12, 1.41e9, 40 * 2**20),
    "h200": Gpu("H200 SXM", "sm_90", 132, 989e12, 4.8e12, 9.0e12, 1.755e9, 50 * 2**20, 0.62),
    "mi300x": Gpu("MI300X", "gfx942", 304, 1307e12, 5.3e12, 34.4e12, 2.1e9, 256 * 2**20),
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
Bound: TypeAlias = Literal["compute", "memory", "L2"]
Pass: TypeAlias = Literal["forward", "backward"]
PASSES: tuple[Pass, ...] = ("forward", "backward")


class Cost(NamedTuple):
    """What a launch computes and moves."""

    flops: float  # computed, with whole tiles
    needed_flops: float
    bytes: float
    l2_bytes: float


class Prediction(NamedTuple):
    """A PREDICTED time.

    Attributes:
        seconds: the time.
        roofline: the roofline in seconds.
        bound: what determines the time.
    """

    seconds: float
    roofline: float
    bound: Bound

    @property
    def fraction(self) -> float:
        return self.roofline / self.seconds


# --- what launches cost -----------------------------------------------------------------------------------------------


def cost(launch: Launch) -> Cost:
    """The cost of a launch, counted from its arguments."""
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
    if launch.kernel == "conv_rows_kernel":
        columns, tile_columns = a["num_samples"] * a["out_w"], up(a["CO"], a["BN"])
        steps = a["out_h"] + 2 * -(-a["out_h"] // a["rows"])  # rows of u that the blocks of a column read
        moved = a["p_u"].nbytes + a["p_weight"].nbytes + (a["p_t"].nbytes if a["HAS_SET"] else 0) + a["p_y"].nbytes
        loaded = 3 * columns * steps * a["C"] * tile_columns // a["BN"] + 9 * launch.programs * a["BK"] * a["BN"]
        done = 2 * 9 * up(columns, a["BM"]) * steps * a["BK"] * tile_columns
        needed = 2 * 9 * columns * a["out_h"] * a["C"] * a["CO"]
        return Cost(done, needed, moved, loaded * DTYPE.itemsize + a["p_y"].nbytes)
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
    """The cost of a matrix product [rows, depth] @ [depth, CO] in tiles of [tile_rows, BN].

    Padding of a tile is computed, but not loaded.
    """
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
    """The PREDICTED time of one launch, and the roofline of that launch alone."""
    work = cost(launch)
    times: dict[Bound, float] = {
        "compute": work.flops / gpu.flops,
        "memory": work.bytes / gpu.bandwidth,
        "L2": work.l2_bytes / gpu.l2_bandwidth,
    }
    bound = max(times, key=lambda name: times[name])
    imbalance = up(launch.programs, gpu.multiprocessors) / launch.programs
    roofline = max(work.needed_flops / gpu.flops, work.bytes / gpu.bandwidth)
    return Prediction(times[bound] * imbalance, roofline, bound)


def predict_layer(gpu: Gpu, shape: Shape, lengths: list[int], direction: Pass) -> Prediction:
    """The PREDICTED time of all launches of a fused layer, and the roofline of the layer."""
    launches = record(CHIPS[gpu.chip], layer(shape, lengths, direction))
    passes, maps_moved = (1, 2) if direction == "forward" else (2, 3)
    values = sum(lengths) * shape.channels * shape.height * shape.width
    compute = passes * 2 * shape.k**2 * shape.channels * values / gpu.flops
    memory = maps_moved * values * DTYPE.itemsize / gpu.bandwidth
    seconds = sum(predict(gpu, launch).seconds for launch in launches)
    return Prediction(seconds, max(compute, memory), "compute" if compute > memory else "memory")


def layer(shape: Shape, lengths: list[int], direction: Pass) -> Callable[[], object]:
    """The fused layer with a bias, forward or backward (all gradients)."""
    conv = Conv((1, 1), (shape.k // 2,) * 2, (1, 1), torch.channels_last)
    sets = index(lengths)
    u, g = (maps(sets.num_rows, shape.channels, shape.height, shape.width, DTYPE) for _ in range(2))
    weight = torch.empty(shape.channels, 2 * shape.channels, shape.k, shape.k, dtype=DTYPE, device=META)
    if direction == "forward":
        bias = weight[:, 0, 0, 0].contiguous()
        return partial(fused.forward, conv, u, weight, bias, sets, max_centered=1, slope=None, tiles={})
    return partial(fused.backward, conv, g, u, weight, sets, (True, True, True), max_centered=1, tiles={})


def set_operations(shape: Shape, lengths: list[int]) -> Callable[[], object]:
    """The set operations that `concat`, `split` and `centered` use around the vendor's convolution."""
    sets = index(lengths)
    u, g = (maps(sets.num_rows, n * shape.channels, shape.height, shape.width, DTYPE) for n in (1, 2))

    def work() -> None:
        set_ops.concat_set_mean(u, sets)
        set_ops.concat_set_mean_backward(g, sets)
        set_ops.uncenter(*set_ops.center(u, sets, False), sets)
        set_ops.set_add(u, set_ops.set_reduce(u, sets, True), sets, mean=False, out=u)

    return work


# --- tables -----------------------------------------------------------------------------------------------------------


def report(gpu: Gpu) -> str:
    """Markdown tables of every layer with every batch, and of every kernel with the ragged batch."""
    lines = [
        f"PREDICTED, not measured: {gpu.title}, bfloat16, the fused layer.",
        "",
        "| layer (channels x height x width) | sets | PREDICTED forward | roofline | of the roofline"
        " | PREDICTED backward | roofline | of the roofline |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        for name, lengths in SETS.items():
            cells = []
            for direction in PASSES:
                total = predict_layer(gpu, shape, lengths, direction)
                roofline = f"{microseconds(total.roofline)} ({total.bound})"
                cells += [microseconds(total.seconds), roofline, f"{total.fraction:.0%}"]
            lines.append(f"| {shape} | {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"PREDICTED, not measured: {gpu.title}, each kernel with the ragged batch, against its own roofline.",
        "",
        "| layer | kernel | programs | computed GFLOP | MB | PREDICTED time | bound | roofline | of the roofline |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        lines += dict.fromkeys(kernel_lines(gpu, shape))  # grad_u has the launches of the forward: one line for both
    lines += [
        "",
        f"PREDICTED, not measured: {gpu.title}, the tiles for 3x3 kernels with few channels, one launch with the ragged"
        " batch. L2 bytes per value of u: 18 if each tap reads u.",
        "",
        "| layer | tile | programs | computed GFLOP | MB | L2 bytes per value of u | PREDICTED time | bound"
        " | of the roofline |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        lines += tile_lines(gpu, shape)
    return "\n".join(lines) + "\n"


def kernel_lines(gpu: Gpu, shape: Shape) -> Iterator[str]:
    """A line for each kernel: those of the fused layer, then those of the other algorithms."""
    lengths = SETS["ragged"]
    chip = CHIPS[gpu.chip]
    launches = [launch for each in PASSES for launch in record(chip, layer(shape, lengths, each))]
    for launch in launches + record(chip, set_operations(shape, lengths)):
        work, part = cost(launch), predict(gpu, launch)
        yield (
            f"| {shape} | {launch.kernel.removesuffix('_kernel')} | {launch.programs} | {work.flops / 1e9:.1f}"
            f" | {work.bytes / 1e6:.1f} | {microseconds(part.seconds)} | {part.bound} | {microseconds(part.roofline)}"
            f" | {part.fraction:.0%} |"
        )


def tile_lines(gpu: Gpu, shape: Shape) -> Iterator[str]:
    """A line for each tile that `ik.tune` can choose for the layer, if conv_rows is among them."""
    if shape.k != 3 or not candidates_for("conv_rows", DTYPE, shape.channels, shape.channels):
        return
    chip = CHIPS[gpu.chip]
    for kernel in ("conv_tma", "conv", "conv_rows") if chip.has_tma else ("conv", "conv_rows"):
        for tile in candidates_for(kernel, DTYPE, shape.channels, shape.channels):
            size = (shape.height, shape.width)
            [launch] = record(chip, tile_launch(tile, DTYPE, shape.channels, size, SETS["ragged"]))
            work, part = cost(launch), predict(gpu, launch)
            values = sum(SETS["ragged"]) * shape.channels * shape.height * shape.width
            yield (
                f"| {shape} | {tile.name} | {launch.programs} | {work.flops / 1e9:.1f} | {work.bytes / 1e6:.1f}"
                f" | {work.l2_bytes / values:.1f} | {microseconds(part.seconds)} | {part.bound} | {part.fraction:.0%} |"
            )


def microseconds(seconds: float) -> str:
    """Three digits, which is more than a prediction is worth."""
    return f"{seconds * 1e6:.3g} us"

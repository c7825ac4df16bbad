"""PREDICTED times of the 3x3 layer by every way to compute it; nothing is measured.

    floor    max(N h FLOPs / peak, 2 N A bytes / bandwidth) forward; of all gradients 2 N h and 3 N A
    native   csrc/halo in one launch, by the counts of native.py (its weights are packed by a launch before it):
             overlapped = the slowest of memory, L2, shared memory and tensor cores
             serial     = the mean's pass (reads through L2) + the slowest of the rest
             All but the memory, which all multiprocessors share, times the imbalance: what the busiest multiprocessor
             does, divided by the mean.
    triton   the launches of the fused layer, as in predict.py
    default  the vendor's convolution with the set kernels, as `choose` takes it; concat: the same with one launch that
             concatenates, which is the paper's layer

Assumptions, beside those of predict.py:

* The vendor's convolutions reach their roofline: each tensor moved once, no padding. They are therefore flattered.
* Shared memory serves a wavefront of 128 bytes a clock, without conflicts where the layout has none.
* The samples of a set are read again from L2 after the mean, as far as what all resident programs work on fits there;
  the rest is read from memory twice.
* As many native programs are resident as shared memory and 255 registers a thread allow.
* A launch costs the device no time. `predict_networks.py` adds the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from interconv_kernels import algorithms
from interconv_kernels._backends.cpp.halo import Config
from interconv_kernels._backends.registry import BACKENDS
from interconv_kernels.choice import Choice, choose
from interconv_kernels.convolution import Conv

from .native import Counts, Layer, candidates, counts, up
from .offline import CHIPS, META, index, maps
from .predict import DTYPE, SETS, Gpu, Pass, Prediction, Shape, cost, predict, predict_layer
from .torch_ops import Recorded, record_all

REGISTERS, WARP_REGISTERS = 65536, 255 * 32  # of a multiprocessor, and of a warp of 255 registers a thread
SIZES = (
    *((c, 160, 192) for c in (16, 23, 32, 49, 64)),
    *((c, 80, 96) for c in (16, 32, 46, 64, 128)),
    *((c, 40, 48) for c in (64, 92, 128, 200)),
    *((c, 20, 24) for c in (128, 184, 282)),
    (368, 10, 12),
    *((c, 128, 128) for c in (32, 64, 128, 137, 192)),
)


class Way(NamedTuple):
    """A PREDICTED way to compute a layer.

    Attributes:
        seconds: on the device; what limits it is `bound`.
        bound: the resource.
        launches: kernels.
        bytes: moved from and to memory.
    """

    seconds: float
    bound: str
    launches: int
    bytes: float


def floor(gpu: Gpu, layer: Layer, direction: Pass = "forward") -> Prediction:
    """The roofline of the layer."""
    pixels = layer.samples * layer.height * layer.width
    times, moved = (
        (1, layer.channels + layer.out_channels)
        if direction == "forward"
        else (2, 2 * layer.channels + layer.out_channels)
    )
    compute = times * 18 * layer.channels * layer.out_channels * pixels / gpu.flops
    memory = moved * pixels * DTYPE.itemsize / gpu.bandwidth
    return Prediction(max(compute, memory), max(compute, memory), "compute" if compute > memory else "memory")


# --- native -----------------------------------------------------------------------------------------------------------


def native(gpu: Gpu, config: Config, layer: Layer, overlapped: bool) -> Way:
    """One configuration of the native layer."""
    chip = CHIPS[gpu.chip]
    resident = min(chip.shared // (config.shared + chip.reserved_shared), REGISTERS // (WARP_REGISTERS * config.warps))
    work = counts(config, layer, gpu.multiprocessors, max(1, resident))
    packed = 2 * 9 * up(layer.channels, 16) * up(layer.out_channels, config.columns) * DTYPE.itemsize
    moved = _memory_bytes(gpu, layer, work)
    rate = gpu.flops * (gpu.mma_sync if config.engine == "mma.sync" else 1.0)
    clocks = gpu.multiprocessors * gpu.hertz
    times = {
        "memory": moved / gpu.bandwidth,
        "L2": work.l2 / gpu.l2_bandwidth * work.l2_imbalance,
        "shared memory": work.wavefronts / clocks * work.imbalance,
        "tensor cores": work.products * 4096 / rate * work.imbalance,
    }
    if not overlapped:
        mean = work.mean / gpu.l2_bandwidth * work.l2_imbalance
        rest = times | {"L2": times["L2"] - mean, "memory": 0.0}
        bound = max(rest, key=lambda name: rest[name])
        times = {"memory": times["memory"], f"mean, then {bound}": mean + rest[bound]}
    bound = max(times, key=lambda name: times[name])
    seconds = times[bound] + 2 * packed / gpu.bandwidth
    imbalance = work.l2_imbalance if bound == "L2" else work.imbalance
    if bound != "memory" and imbalance > 1.1:
        bound += f", {imbalance:.2f} imbalance"
    return Way(seconds, bound, 2, moved + 2 * packed)


def _memory_bytes(gpu: Gpu, layer: Layer, work: Counts) -> float:
    """u and y once, and u again as far as the sets in progress do not fit L2."""
    image = layer.height * layer.width * DTYPE.itemsize
    u, y = (layer.samples * channels * image for channels in (layer.channels, layer.out_channels))
    if layer.single:
        return u + y
    tiles = work.items // work.parts
    tile = work.copied_u / work.column_tiles / layer.samples / tiles  # bytes of a sample's
    set_size = sum(length**2 for length in layer.lengths) / layer.samples  # of a sample's set
    in_progress = tile * set_size * work.programs // work.column_tiles
    return u * (1 + max(0.0, 1 - gpu.l2 / in_progress)) + y


def best_native(gpu: Gpu, layer: Layer, overlapped: bool, engine: str = "mma.sync") -> tuple[Config, Way]:
    """The configuration that is predicted to be the fastest, as `ik.tune` would find it."""
    found = candidates(layer, CHIPS[gpu.chip].program_shared, engine)
    ways = [(config, native(gpu, config, layer, overlapped)) for config in found]
    return min(ways, key=lambda pair: pair[1].seconds)


# --- the vendor's convolution -----------------------------------------------------------------------------------------


def vendor(gpu: Gpu, layer: Layer, algorithm: str, direction: Pass = "forward") -> Way:
    """The vendor's convolution with the set kernels; algorithm "default" is what `choose` takes."""
    return cost_of(gpu, record_all(CHIPS[gpu.chip], vendor_call(layer, algorithm, direction)))


def vendor_call(
    layer: Layer, algorithm: str, direction: Pass, k: int = 3, stride: int = 1, needs_u: bool = True
) -> Callable[[], object]:
    """A call of the layer, on meta tensors."""
    conv = Conv((stride, stride), (k // 2, k // 2), (1, 1), torch.channels_last)
    sets = index(layer.lengths)
    u = maps(sets.num_rows, layer.channels, layer.height, layer.width, DTYPE)
    weight = torch.empty(layer.out_channels, 2 * layer.channels, k, k, dtype=DTYPE, device=META)
    weight = weight.contiguous(memory_format=torch.channels_last)
    if algorithm == "default":
        algorithm = choose("torch", "auto", direction, conv, u, weight, sets).algorithm
    choice = Choice(BACKENDS["triton"], algorithm)
    if direction == "forward":
        return partial(algorithms.forward, choice, conv, u, weight, weight[:, 0, 0, 0].contiguous(), sets)
    height, width = conv.output_size(u.shape[2:], (k, k))
    g = maps(sets.num_rows, layer.out_channels, height, width, DTYPE)
    return partial(algorithms.backward, choice, conv, g, u, weight, sets, (needs_u, True, True))


def cost_of(gpu: Gpu, recorded: Recorded) -> Way:
    """The PREDICTED time of operators at their roofline and of Triton's launches, one after the other."""
    seconds = {"compute": 0.0, "memory": 0.0, "L2": 0.0}
    moved = 0.0
    for op in recorded.ops:
        compute, memory = op.flops / gpu.flops, op.bytes / gpu.bandwidth
        seconds["compute" if compute > memory else "memory"] += max(compute, memory)
        moved += op.bytes
    for launch in recorded.launches:
        part = predict(gpu, launch)
        seconds[part.bound] += part.seconds
    return Way(
        sum(seconds.values()),
        max(seconds, key=lambda name: seconds[name]),
        len(recorded.ops) + len(recorded.launches),
        moved + sum(cost(launch).bytes for launch in recorded.launches),
    )


# --- the table --------------------------------------------------------------------------------------------------------


def table(gpu: Gpu) -> str:
    """Shares of the layer's floor, as Markdown."""
    hopper = gpu.chip == "sm_90"
    lines = [
        f"PREDICTED, not measured: {gpu.title}, bfloat16, the 3x3 layer forward with ragged sets"
        f" ({', '.join(map(str, SETS['ragged']))}), in percent of the layer's floor; padding of tiles is counted.",
        "",
        "| C = Co, image | floor | native, mma.sync: overlapped | serial | limit (overlapped) | configuration |"
        + (" wgmma: overlapped | serial | limit (overlapped) | configuration |" if hopper else "")
        + " triton | default | concat |",
        "|---|---|---|---|---|---|" + "---|---|---|---|" * hopper + "---|---|---|",
    ]
    for channels, height, width in SIZES:
        case = Layer(channels, channels, height, width, tuple(SETS["ragged"]))
        least = floor(gpu, case)

        def share(seconds: float, least: Prediction = least) -> str:
            return f"{least.seconds / seconds:.0%}"

        cells = [f"{channels}, {height}x{width}", f"{least.seconds * 1e6:.3g} us ({least.bound})"]
        for engine in ("mma.sync", "wgmma")[: 2 if hopper else 1]:
            config, way = best_native(gpu, case, True, engine)
            serial = best_native(gpu, case, False, engine)[1]
            cells += [share(way.seconds), share(serial.seconds), way.bound, config.name.split("3x3-")[1]]
        triton = predict_layer(gpu, Shape("", channels, height, width), list(case.lengths), "forward")
        cells.append(share(triton.seconds))
        cells += [share(vendor(gpu, case, algorithm).seconds) for algorithm in ("default", "concat")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"

"""Times whole networks: `python -m benchmarks networks`.

    train    a training step: forward, loss, backward (the automatic loss; for scribbleprompt the interactive one)
    infer    the forward of a network in eval mode, without autograd

Each network has InterConv in both placements ("append" with the features of "replace"). These implementations are
timed, interleaved, on the same images:

    ours        InterConv2d
    concat      the same weights in the authors' layer: mean, concatenation and convolution in plain torch
    baseline    the network without InterConv with about as many parameters (the paper's size)

--unmerged also measures ours with activations as modules of their own; only SimpleUNet and ScribblePrompt differ.
--compile also measures each of them under torch.compile.

The loss and the gradients, or the logits, are first compared with those of concat in float32. An implementation that
differs or fails is not measured, and the exit status is 1. In bfloat16, twice the error of concat itself is allowed in
addition.

Memory is the peak of what steps add to a fresh process that has the network: to its resident memory on the CPU (Linux
only), to torch's allocations on CUDA.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from interconv_seg.networks import FAMILIES, SIZES
from interconv_seg.networks.registry import Placement
from rich.table import Table

from .baselines import MEMORY_FORMATS
from .check import describe_errors
from .network_implementations import Network, NetworkImplementation, Step, Workload, expect
from .report import make_console, print_environment, print_error
from .results import Measurement, Results, describe_environment, write_results
from .timing import interleave, peak_bytes

NETWORKS = ("simpleunet-60K", "nnunet-20M", "swinunet-27M", "scribbleprompt-3.6M")
# Smaller than the paper's 160x192 and 128x128, so that all networks take about 10 minutes on 2 cores.
IMAGE_SIZES = {"simpleunet": (128, 128), "nnunet": (128, 128), "swinunet": (128, 128), "scribbleprompt": (64, 64)}


def measure(
    workload: Workload, implementations: Sequence[NetworkImplementation], repeats: int
) -> tuple[list[Measurement], list[str]]:
    """Checks and measures implementations of one network.

    Args:
        workload: what they compute.
        implementations: to measure.
        repeats: timed rounds.

    Returns:
        The measurements, and a message for each implementation that is wrong, which is not measured.
    """
    torch.compiler.reset()  # otherwise torch stops compiling after eight networks
    references = dict.fromkeys(implementation.reference for implementation in implementations)
    expected = {reference: expect(workload, reference) for reference in references}
    steps, errors = {}, []
    for implementation in implementations:
        step, case = Step(workload, implementation), workload.case(implementation.placement)
        if error := describe_errors(step.results, expected[implementation.reference]):
            errors.append(f"{case} {workload.direction}, {workload.memory_format}, {implementation.name}: {error}")
        else:
            steps[implementation] = step
    del expected  # the gradients of whole networks
    calls = {str(implementation): step for implementation, step in steps.items()}
    times = interleave(calls, repeats, torch.device(workload.device))
    measurements = []
    for implementation, step in steps.items():
        details = {
            "network": workload.network.name,
            "placement": implementation.placement or "",
            "compiled": implementation.compiled,
            "features": str(step.features),
            "parameters": step.parameters,
            "height": workload.size[0],
            "width": workload.size[1],
        }
        measured = (workload.case(implementation.placement), implementation.name, workload.memory_format)
        quantiles, peak = times[str(implementation)], peak_memory(workload, implementation)
        measurements.append(
            Measurement(*measured, workload.direction, list(workload.lengths), *quantiles, peak, details)
        )
    return measurements, errors


def peak_memory(workload: Workload, implementation: NetworkImplementation) -> int:
    """The peak of the bytes that steps add to a fresh process that has the network."""
    context = multiprocessing.get_context("forkserver")  # it imports torch once, and each process is a copy of it
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_peak_memory_here, workload, implementation).result()


def _peak_memory_here(workload: Workload, implementation: NetworkImplementation) -> int:
    disable_tf32()
    step = Step(workload, implementation)
    step()  # what only the first step needs (code, compilation) does not count
    step.network.zero_grad()
    if workload.device == "cuda":
        return peak_bytes(step, torch.device(workload.device))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # otherwise memory that the C library keeps would count as held before
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for _ in range(2):
        step()
    return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return 1024 * int(line.split()[1])


def disable_tf32() -> None:
    """Keeps GPUs from rounding float32 to TF32.

    By torch's older switches: torch.compile and torch.export read them, which fails if the newer ones, which each
    operation has, differ.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def ratios(row: Measurement, measurements: Sequence[Measurement]) -> dict[str, float | None]:
    """A measurement against concat with the same placement, and against the baseline; all compiled or none.

    A ratio is None if there is no such measurement, or if concat's network is so small that its memory reads as 0.
    """

    def where(row: Measurement) -> tuple[object, ...]:
        return row.details["network"], row.direction, row.memory_format, row.details["compiled"]

    by_layers = {
        (other.details["placement"], other.implementation.removeprefix("compiled-")): other
        for other in measurements
        if where(other) == where(row)
    }
    concat, baseline = by_layers.get((row.details["placement"], "concat")), by_layers.get(("", "baseline"))
    return {
        "speedup_over_concat": concat.p50 / row.p50 if concat else None,
        "memory_over_concat": row.peak_bytes / concat.peak_bytes if concat and concat.peak_bytes else None,
        "time_over_baseline": row.p50 / baseline.p50 if baseline else None,
    }


def table(measurements: Sequence[Measurement]) -> Table:
    """The measurements of one network in one direction and memory format."""
    first = measurements[0]
    sets, size = "+".join(map(str, first.lengths)), f"{first.details['height']}x{first.details['width']}"
    title = f"{first.details['network']}, {first.direction}: sets of {sets} images of {size}, {first.memory_format}"
    made = Table(title=title, title_justify="left")
    for heading in ("placement", "implementation"):
        made.add_column(heading)
    for heading in ("features", "parameters", "ms", "p20-p80", "speedup over concat"):
        made.add_column(heading, justify="right")
    for heading in ("MiB", "MiB / concat's", "ms / baseline's"):
        made.add_column(heading, justify="right")
    for row in measurements:
        speedup, memory, time = (f"{ratio:.2f}" if ratio else "" for ratio in ratios(row, measurements).values())
        made.add_row(
            *(row.details["placement"], row.implementation, row.details["features"]),
            f"{row.details['parameters']:,}",
            *(f"{1e3 * row.p50:.1f}", f"{1e3 * row.p20:.1f}-{1e3 * row.p80:.1f}", speedup),
            *(f"{row.peak_bytes / 2**20:.1f}", memory, time),
        )
    return made


def parse_network(text: str) -> Network:
    """A network by one of the paper's sizes, or as FAMILY:FEATURES."""
    if text in SIZES:
        return Network(text, *SIZES[text])
    family, _, numbers = text.partition(":")
    if family not in FAMILIES or not all(number.isdecimal() for number in numbers.split(",")):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected one of {', '.join(SIZES)}; or {', '.join(FAMILIES)} with features, as in simpleunet:16"
        )
    features = [int(number) for number in numbers.split(",")]
    one_or_more = features if family == "nnunet" else features[0]
    return Network(text, family, one_or_more, one_or_more)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a positive integer")
    return int(text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; exits with status 2 if this machine does not support them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks networks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--networks",
        type=parse_network,
        nargs="+",
        default=[parse_network(name) for name in NETWORKS],
        metavar="NETWORK",
        help="a size of the paper, or FAMILY:FEATURES as in nnunet:8,16; default: " + " ".join(NETWORKS),
    )
    add("--placements", nargs="+", choices=("replace", "append"), default=["replace", "append"], help="default: both")
    add("--directions", nargs="+", choices=("train", "infer"), default=["train", "infer"], help="default: both")
    formats = "default: channels_last"
    add("--memory-formats", nargs="+", choices=MEMORY_FORMATS, default=["channels_last"], help=formats)
    add("--lengths", type=_positive, nargs="+", default=[3, 5, 8], metavar="K", help="set sizes; default: 3 5 8")
    add("--size", type=_positive, nargs=2, metavar=("H", "W"), help=f"of the images; default: {IMAGE_SIZES}")
    add("--unmerged", action="store_true", help="also ours without the activations in the layers")
    add("--compile", action="store_true", help="also under torch.compile, which takes minutes for each network")
    add("--repeats", type=_positive, default=5, help="timed rounds; default: %(default)s")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--precision", choices=("float32", "bfloat16"), default="float32", help="bfloat16: under autocast")
    add("--out", type=Path, help="folder for results.json and results.csv; default: out/networks-DEVICE-PRECISION")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device")
    if args.device == "cpu" and sys.platform != "linux":
        parser.error("--device cpu: memory is read from /proc, which only Linux has")
    args.out = args.out or Path("out") / f"networks-{args.device}-{args.precision}"
    return args


def make_implementations(
    placements: Sequence[Placement], compiled: bool, unmerged: bool = False
) -> list[NetworkImplementation]:
    """The baseline, and ours and concat in each placement."""
    made = [NetworkImplementation(None, "baseline", compiled)]
    for placement in placements:
        made.append(NetworkImplementation(placement, "ours", compiled))
        if unmerged:
            made.append(NetworkImplementation(placement, "ours-unmerged", compiled))
        made.append(NetworkImplementation(placement, "concat", compiled))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit status."""
    args = parse(argv)
    console = make_console()
    disable_tf32()
    environment = describe_environment(torch.device(args.device), args.precision)
    print_environment(console, environment)
    implementations = make_implementations(args.placements, compiled=False, unmerged=args.unmerged)
    if args.compile:
        implementations += make_implementations(args.placements, compiled=True, unmerged=args.unmerged)
    measurements: list[Measurement] = []
    errors: list[str] = []
    for network, memory_format, direction in itertools.product(args.networks, args.memory_formats, args.directions):
        size = tuple(args.size or IMAGE_SIZES[network.family])
        workload = Workload(network, direction, memory_format, tuple(args.lengths), size, args.device, args.precision)
        of_network, wrong = measure(workload, implementations, args.repeats)
        for error in wrong:
            print_error(console, error)
        measurements += of_network
        errors += wrong
        if of_network:
            console.print(table(of_network))
            # Written after each network, so that an interrupted run leaves its results.
            write_results(args.out, Results(environment, measurements), partial(ratios, measurements=measurements))
    console.print(f"written to {args.out}: results.json, results.csv")
    return 1 if errors else 0

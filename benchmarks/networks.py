"""Whole networks against the same networks on eager concat. `python -m benchmarks networks`

    train    a training step: forward, loss, backward (the automatic loss; scribbleprompt: the interactive one)
    infer    the forward of a network in eval mode, without autograd

Each network has InterConv in both placements ("append" with the features of "replace"), in forms that take turns
(A B C A B C ...), all on the same images:

    ours        InterConv2d
    concat      the same weights in the layer as its authors publish it: mean, concatenation, convolution in plain torch
    baseline    the network without InterConv, at the paper's matching size: what does InterConv cost at all?

With --compile each is measured under torch.compile too.

Loss and gradients, or logits, are first compared with those of concat in float32; a form that differs or fails is
refused, and the exit status is 1. In bfloat16, twice the error that concat itself makes is allowed beside.

Memory is the most that steps add to what a fresh process holds before them, its weights included: to its resident
memory on the CPU (Linux only), to torch's allocations on CUDA.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from interconv_seg.networks import FAMILIES, SIZES
from rich.table import Table

from .network_forms import Form, Network, Standard, Step, Work
from .peers import LAYOUTS
from .report import make_console
from .results import describe_environment, replacing, write_csv
from .timing import peak_bytes, take_turns

NETWORKS = ("simpleunet-60K", "nnunet-20M", "swinunet-27M", "scribbleprompt-3.6M")
# Smaller than the paper's 160x192 and 128x128, so that all networks take about 10 minutes on 2 cores.
IMAGE_SIZES = {"simpleunet": (128, 128), "nnunet": (128, 128), "swinunet": (128, 128), "scribbleprompt": (64, 64)}


@dataclass(frozen=True)
class Row:
    """One form of one network, times in seconds. `placement` is "" in the baseline."""

    network: str
    placement: str
    form: str
    compiled: bool
    features: str
    parameters: int
    direction: str
    layout: str
    lengths: list[int]
    height: int
    width: int
    p20: float
    p50: float
    p80: float
    peak_bytes: int


def measure(work: Work, forms: Sequence[Form], repeats: int) -> tuple[list[Row], list[str]]:
    """(rows, what was refused and why) of one network in one direction and layout."""
    torch.compiler.reset()  # else the ninth network would no longer be compiled
    standards = {plain: Standard.of(work, plain) for plain in dict.fromkeys(form.plain for form in forms)}
    steps, refused = {}, []
    for form in forms:
        step = Step(work, form)
        if why := standards[form.plain].complaint(step):
            refused.append(f"{work.network.name} {work.direction}, {work.layout}, {form}: {why}")
        else:
            steps[form] = step
    del standards  # the gradients of whole networks
    times = take_turns({str(form): step for form, step in steps.items()}, repeats, torch.device(work.device))
    rows = []
    for form, step in steps.items():
        of_form = (form.placement or "", form.layer, form.compiled, str(step.features), step.parameters)
        of_work = (work.direction, work.layout, list(work.lengths), *work.size)
        rows.append(Row(work.network.name, *of_form, *of_work, *times[str(form)], peak_memory(work, form)))
    return rows, refused


def peak_memory(work: Work, form: Form) -> int:
    """Bytes that steps add at most to what a fresh process holds before them."""
    context = multiprocessing.get_context("forkserver")  # it imports torch once, and each process is a copy of it
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_peak, work, form).result()


def _peak(work: Work, form: Form) -> int:
    use_float32()
    step = Step(work, form)
    step()  # what the first takes once (code, compilation) is not counted
    step.network.zero_grad()
    if work.device == "cuda":
        return peak_bytes(step, torch.device(work.device))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed but kept by the C library would count as held before
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for _ in range(2):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return 1024 * int(line.split()[1])


def use_float32() -> None:
    """Let no GPU round float32 to TF32: by the old switches, which torch.compile and torch.export read, and cannot read
    once the newer ones, of each operation, differ."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def ratios(row: Row, rows: Sequence[Row]) -> dict[str, float | None]:
    """A row against concat in its place, and its time against the baseline's, all compiled or none; None where there is
    no such row (or a network so small that its memory is not seen)."""

    def other(placement: str, form: str) -> Row | None:
        same = [r for r in rows if (r.network, r.direction, r.layout, r.compiled) == where]
        return next((r for r in same if (r.placement, r.form) == (placement, form)), None)

    where = (row.network, row.direction, row.layout, row.compiled)
    concat, baseline = other(row.placement, "concat"), other("", "baseline")
    return {
        "concat_by_this": concat.p50 / row.p50 if concat else None,
        "memory_by_concat": row.peak_bytes / concat.peak_bytes if concat and concat.peak_bytes else None,
        "time_by_baseline": row.p50 / baseline.p50 if baseline else None,
    }


def table(rows: Sequence[Row]) -> Table:
    """The rows of one network in one direction and layout."""
    first, sets = rows[0], "+".join(map(str, rows[0].lengths))
    title = f"{first.network}, {first.direction}: sets of {sets} images of {first.height}x{first.width}, {first.layout}"
    made = Table(title=title, title_justify="left")
    for heading in ("placement", "form"):
        made.add_column(heading)
    for heading in ("features", "parameters", "ms", "p20-p80", "x concat", "MiB", "of concat", "time of baseline"):
        made.add_column(heading, justify="right")
    for row in rows:
        x_concat, memory, time = (f"{ratio:.2f}" if ratio else "" for ratio in ratios(row, rows).values())
        made.add_row(
            *(row.placement, f"{row.form}, compiled" if row.compiled else row.form),
            *(row.features, f"{row.parameters:,}"),
            *(f"{1e3 * row.p50:.1f}", f"{1e3 * row.p20:.1f}-{1e3 * row.p80:.1f}", x_concat),
            *(f"{row.peak_bytes / 2**20:.1f}", memory, time),
        )
    return made


def write(folder: Path, environment: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """results.json, and results.csv whose rows stand for themselves."""
    where = {key: value for key, value in environment.items() if not isinstance(value, dict)}
    write_csv(folder / "results.csv", [asdict(row) | ratios(row, rows) | where for row in rows])
    with replacing(folder / "results.json") as partial:
        content = {"environment": dict(environment), "rows": [asdict(row) for row in rows]}
        partial.write_text(json.dumps(content, indent=1) + "\n")


def parse_network(text: str) -> Network:
    """One of the paper's sizes, or FAMILY:FEATURES."""
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


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with status 2 where it makes no sense here."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks networks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    networks = [parse_network(name) for name in NETWORKS]
    add(
        "--networks",
        type=parse_network,
        nargs="+",
        default=networks,
        metavar="NETWORK",
        help="a size of the paper, or FAMILY:FEATURES as in nnunet:8,16 (default: " + " ".join(NETWORKS) + ")",
    )
    add("--placements", nargs="+", choices=("replace", "append"), default=["replace", "append"])
    add("--directions", nargs="+", choices=("train", "infer"), default=["train", "infer"])
    add("--layouts", nargs="+", choices=LAYOUTS, default=["channels_last"])
    add("--lengths", type=_count, nargs="+", default=[3, 5, 8], metavar="K", help="the sets (default: 3 5 8)")
    add("--size", type=_count, nargs=2, metavar=("H", "W"), help=f"default: {IMAGE_SIZES}")
    add("--compile", action="store_true", help="under torch.compile as well, which takes minutes for each network")
    add("--repeats", type=_count, default=5, help="turns (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("float32", "bfloat16"), default="float32", help="bfloat16: under autocast")
    add("--out", type=Path, help="folder for results.json and results.csv (default: out/networks-DEVICE-PRECISION)")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    if args.device == "cpu" and sys.platform != "linux":
        parser.error("--device cpu: a process's memory is read from /proc, which only Linux has")
    args.out = args.out or Path("out") / f"networks-{args.device}-{args.precision}"
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; the exit status."""
    args = parse(argv)
    console = make_console()
    use_float32()
    environment = describe_environment(torch.device(args.device), args.precision)
    console.print(", ".join(f"{key} {value}" for key, value in environment.items()), style="dim")
    layers = [(None, "baseline"), *itertools.product(args.placements, ("ours", "concat"))]
    forms = [Form(*layer, compiled) for compiled in (False, True)[: 1 + args.compile] for layer in layers]
    rows: list[Row] = []
    refused: list[str] = []
    for network, layout, direction in itertools.product(args.networks, args.layouts, args.directions):
        size = tuple(args.size or IMAGE_SIZES[network.family])
        work = Work(network, direction, layout, tuple(args.lengths), size, args.device, args.precision)
        new, wrong = measure(work, forms, args.repeats)
        for line in wrong:
            console.print(f"refused: {line}", style="bold red", markup=False)
        rows += new
        refused += wrong
        if new:
            console.print(table(new))
            write(args.out, environment, rows)  # what there is, should a later network fail
    console.print(f"written to {args.out}: results.json, results.csv")
    return 1 if refused else 0

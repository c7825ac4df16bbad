"""Times the set mean and the per-set add of backend "cpp" against plain torch: `python -m benchmarks set-ops`.

The baselines are as fast as we can write them. Results are checked, then all are timed, interleaved. Bandwidth counts
each input as read once and each output as written once. It is given as a fraction of the bandwidth that a copy of the
same packed tensor reaches in the same run.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

import interconv_kernels as ik

from .baselines import OURS
from .check import Expected, describe_errors
from .report import make_console, print_environment
from .results import Measurement, Results, describe_environment, write_results
from .timing import interleave, peak_bytes

LENGTHS = {
    "ragged": [1, 2, 7, 16, 3, 1, 4, 12, 2, 8, 1, 7],
    "small": [2, 1, 3, 1, 2, 2, 1, 4] * 4,
    "one large": [64],
}
SIZES = ((64, 64, 64), (16, 32, 32))
CPU = torch.device("cpu")
COPY = "copy"
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 0.05}  # some baselines round each sum to bfloat16
Implementations = dict[str, Callable[[], Tensor]]


def mean_implementations(u: Tensor, sets: ik.Sets) -> Implementations:
    """Implementations of the set means [B,...]."""
    lengths, ids, offsets = list(sets.lengths), sets.set_ids.long(), sets.offsets.long()
    shape = (len(sets), *u.shape[1:])
    sizes = torch.tensor(lengths, dtype=u.dtype).view(-1, 1, 1, 1)
    return {
        OURS: lambda: torch.ops.interconv.set_reduce(u, sets.offsets, sets.set_ids, True, "cpp"),
        "loop of means": lambda: torch.stack([samples.mean(0) for samples in u.split(lengths)]),
        "index_add": lambda: u.new_zeros(shape).index_add_(0, ids, u).div_(sizes),
        "segment_reduce": lambda: torch.segment_reduce(u, "mean", offsets=offsets, axis=0),
    }


def add_implementations(u: Tensor, sets: ik.Sets) -> Implementations:
    """Implementations of u + t of the sample's set, [N,...]."""
    lengths, ids = list(sets.lengths), sets.set_ids.long()
    t = torch.randn(len(sets), *u.shape[1:]).to(u.dtype)

    def loop() -> Tensor:
        out = torch.empty_like(u)
        for samples, row, target in zip(u.split(lengths), t, out.split(lengths), strict=True):
            torch.add(samples, row, out=target)
        return out

    return {
        OURS: lambda: torch.ops.interconv.set_add(u, t, sets.offsets, sets.set_ids, False, "cpp"),
        "loop of adds": loop,
        "index_select": lambda: u + t.index_select(0, ids),
    }


OPERATIONS = {"mean": mean_implementations, "add": add_implementations}


def measure(
    operation: str, dtype: torch.dtype, sets_name: str, size: tuple[int, ...], repeats: int
) -> list[Measurement]:
    """Checks that all implementations of an operation agree, and measures them and a copy of u.

    Raises:
        ValueError: an implementation differs from ours, or fails.
    """
    lengths = LENGTHS[sets_name]
    sets, u = ik.Sets.from_lengths(lengths), torch.randn(sum(lengths), *size).to(dtype)
    calls = OPERATIONS[operation](u, sets)
    expected = Expected(dict.fromkeys(calls, calls[OURS]()), dict.fromkeys(calls, ALLOWED[dtype]))
    if error := describe_errors(lambda: {name: call() for name, call in calls.items()}, expected):
        raise ValueError(f"{operation} on {sets_name} sets: {error}")
    target = torch.empty_like(u)
    calls[COPY] = lambda: target.copy_(u)
    times = interleave(calls, repeats, CPU)
    dtype_name, shape = str(dtype).removeprefix("torch."), "x".join(map(str, size))
    case = f"{operation} {dtype_name} {sets_name} {shape}"
    rows = len(u) + len(sets) + (len(u) if operation == "add" else 0)
    return [
        Measurement(
            *(case, name, "contiguous", "fwd", lengths, *quantiles, peak_bytes(calls[name], CPU)),
            {"bytes": (2 * len(u) if name == COPY else rows) * u[0].nbytes},
        )
        for name, quantiles in times.items()
    ]


def table(measurements: Sequence[Measurement]) -> Table:
    """A line for each case: ours, the fastest baseline, and the bandwidth of ours."""
    made = Table()
    for heading in ("case", "ours ms", "fastest baseline", "ms", "speedup", "of a copy's bandwidth"):
        made.add_column(heading, justify="left" if heading in ("case", "fastest baseline") else "right")
    for case, of_case in itertools.groupby(measurements, key=lambda row: row.case):
        by_name = {row.implementation: row for row in of_case}
        ours, copy = by_name.pop(OURS), by_name.pop(COPY)
        baseline = min(by_name.values(), key=lambda row: row.p50)
        fraction = (ours.details["bytes"] / ours.p50) / (copy.details["bytes"] / copy.p50)
        times = f"{1e3 * ours.p50:.3f}", baseline.implementation, f"{1e3 * baseline.p50:.3f}"
        made.add_row(case, *times, f"{baseline.p50 / ours.p50:.2f}", f"{fraction:.0%}")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks set-ops", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds; default: %(default)s")
    out = Path("out/set-ops")
    parser.add_argument(
        "--out", type=Path, default=out, help="folder for results.json, results.csv; default: %(default)s"
    )
    args = parser.parse_args(argv)
    environment = describe_environment(CPU, "float32, bfloat16")
    console = make_console()
    print_environment(console, environment)
    measurements = []
    for case in itertools.product(OPERATIONS, ALLOWED, LENGTHS, SIZES):
        measurements += measure(*case, args.repeats)
    console.print(table(measurements))
    write_results(args.out, Results(environment, measurements))
    console.print(f"written to {args.out}: results.json, results.csv")

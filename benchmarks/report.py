"""Results of layers as tables for a terminal: a line for each case, then geometric means over all cases."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

from rich.console import Console
from rich.table import Table

from .baselines import CONCAT, OURS, SPLIT
from .results import Measurement, Results
from .suites import is_ragged, mean_set_size

# The measurements of a case in a direction, by implementation, each in its faster memory format.
Fastest: TypeAlias = dict[str, Measurement]
BASELINES = {"concat": CONCAT, "split": SPLIT}
TITLES = {"fwd": "forward", "bwd": "backward", "both": "forward + backward"}
SPEEDUP_BOUND = 0.95  # the aim is that no case is below
MANY_CHANNELS = 64  # from here on, a 3x3 layer is bound by arithmetic


def make_console() -> Console:
    """A console as wide as the terminal; wide enough for the tables if output is redirected."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=180, highlight=False)


def print_environment(console: Console, environment: Mapping[str, object]) -> None:
    """Prints where results are made, on one line."""
    console.print(", ".join(f"{key} {value}" for key, value in environment.items()), style="dim", markup=False)


def print_error(console: Console, error: str) -> None:
    """Prints that an implementation is wrong and therefore not measured."""
    console.print(f"wrong, not measured: {error}", style="bold red", markup=False)


def faster_memory_formats(measurements: Iterable[Measurement]) -> dict[tuple[str, str], Fastest]:
    """By (case, direction): each implementation in the memory format in which it is faster."""
    cases: dict[tuple[str, str], Fastest] = {}
    for measurement in measurements:
        by_name = cases.setdefault((measurement.case, measurement.direction), {})
        other = by_name.get(measurement.implementation)
        if other is None or measurement.p50 < other.p50:
            by_name[measurement.implementation] = measurement
    return cases


def fastest(by_name: Fastest, names: Sequence[str]) -> Measurement | None:
    """The fastest of the named implementations, None if none was measured."""
    return min((by_name[name] for name in names if name in by_name), key=lambda row: row.p50, default=None)


def geometric_mean(values: Sequence[float]) -> float:
    """The exponential of the mean logarithm."""
    return math.exp(statistics.fmean(map(math.log, values)))


def print_case(console: Console, measurements: Sequence[Measurement]) -> None:
    """Prints a line for each direction of a case, as soon as it was measured."""
    for (case, direction), by_name in faster_memory_formats(measurements).items():
        parts = []
        for name, row in by_name.items():
            ratio = f" ({row.p50 / by_name[OURS].p50:.2f}x ours)" if OURS in by_name and name != OURS else ""
            parts.append(f"{name} {1e3 * row.p50:.2f} ms{ratio}")
        console.print(f"{case} {direction}: {', '.join(parts)}", markup=False, soft_wrap=True)


def print_report(console: Console, results: Results) -> None:
    """Prints the table and the summary."""
    console.print(table(results))
    for line in summary(results):
        console.print(line, markup=False)


def table(results: Results) -> Table:
    """A line for each case and direction: ours, and the faster baseline of each kind."""
    made = Table(title="Medians in ms, each in its faster memory format (* channels_last)", pad_edge=False)
    made.add_column("case", no_wrap=True)
    for heading in ("direction", "ours", "p20-p80", *BASELINES, *(f"speedup over {kind}" for kind in BASELINES)):
        made.add_column(heading, justify="right")
    for heading in ("GFLOP/s", "GB/s", "of roofline", "MB", "MB / concat's"):
        made.add_column(heading, justify="right")
    for (case, direction), by_name in faster_memory_formats(results.measurements).items():
        made.add_row(case, direction, *_cells(by_name, results))
    return made


def _cells(by_name: Fastest, results: Results) -> list[str]:
    ours, concat, split = (fastest(by_name, names) for names in ((OURS,), CONCAT, SPLIT))
    baselines = [_milliseconds(concat), _milliseconds(split)]
    if ours is None:
        return ["", "", *baselines]
    rates = results.layer_rates(ours)
    return [
        _milliseconds(ours),
        f"{1e3 * ours.p20:.2f}-{1e3 * ours.p80:.2f}",
        *baselines,
        *(f"{baseline.p50 / ours.p50:.2f}" if baseline else "" for baseline in (concat, split)),
        *(f"{rates['gflop_per_s']:.0f}", f"{rates['gb_per_s']:.1f}", f"{rates['roofline_fraction']:.0%}"),
        f"{ours.peak_bytes / 1e6:.1f}",
        f"{ours.peak_bytes / concat.peak_bytes:.2f}" if concat else "",
    ]


def _milliseconds(row: Measurement | None) -> str:
    return "" if row is None else f"{1e3 * row.p50:.2f}{'*' if row.memory_format == 'channels_last' else ' '}"


# --- the summary ------------------------------------------------------------------------------------------------------


def summary(results: Results) -> list[str]:
    """Lines with means over all cases that have ours, for each direction."""
    machine = results.require_machine()
    rates = f"{machine.flops / 1e9:.0f} GFLOP/s (a large matrix product), {machine.bandwidth / 1e9:.1f} GB/s (copy)"
    lines = [f"This machine: {rates}. The roofline is that of a direct convolution."]
    cases = faster_memory_formats(results.measurements)
    for direction in dict.fromkeys(direction for _, direction in cases):
        measured = [by_name for (_, of), by_name in cases.items() if of == direction and OURS in by_name]
        if measured:
            heading = f"{direction}: geometric mean of the speedup over the faster baseline, {len(measured)} cases"
            lines += ["", heading]
            parts = _mean_speedups(measured), _smallest_speedup(measured), _memory(measured)
            lines += [f"  {line}" for line in chain(*parts, _roofline_fractions(measured, results))]
    return lines


def _mean_speedups(cases: list[Fastest]) -> Iterator[str]:
    """Lines for all cases, for each set size and for each kernel size."""
    for name, group in _groups(cases).items():
        means = [f"{mean:.2f} over {kind}" for kind in BASELINES if (mean := mean_speedup(kind, group))]
        if means:
            yield f"{name}: {', '.join(means)}"


def _groups(cases: list[Fastest]) -> dict[str, list[Fastest]]:
    groups: dict[str, list[Fastest]] = {"all": cases}
    ours = [by_name[OURS] for by_name in cases]
    equal = [row for row in ours if not is_ragged(row.lengths)]
    for size in sorted({mean_set_size(row.lengths) for row in equal}):
        groups[f"K = {size:.0f}"] = [by_name for by_name in cases if set(by_name[OURS].lengths) == {size}]
    groups["ragged"] = [by_name for by_name in cases if is_ragged(by_name[OURS].lengths)]
    for kernel in sorted({row.details["kernel"] for row in ours}):
        groups[f"k = {kernel}"] = [by_name for by_name in cases if by_name[OURS].details["kernel"] == kernel]
    return groups


def mean_speedup(kind: str, cases: Iterable[Fastest]) -> float | None:
    """The geometric mean over cases of our speedup over the faster baseline of a kind.

    Args:
        kind: "concat" or "split".
        cases: all with ours; those without a baseline of the kind do not count.

    Returns:
        None if no case has such a baseline.
    """
    names = BASELINES[kind]
    speedups = [row.p50 / by_name[OURS].p50 for by_name in cases if (row := fastest(by_name, names))]
    return geometric_mean(speedups) if speedups else None


def _smallest_speedup(cases: list[Fastest]) -> Iterator[str]:
    pairs = [(by_name[OURS], row) for by_name in cases if (row := fastest(by_name, CONCAT + SPLIT))]
    if pairs:
        ours, baseline = min(pairs, key=lambda pair: pair[1].p50 / pair[0].p50)
        smallest = baseline.p50 / ours.p50
        yield f"smallest speedup over the fastest baseline: {smallest:.2f} ({baseline.implementation}, {ours.case})"
        below = sum(baseline.p50 / ours.p50 < SPEEDUP_BOUND for ours, baseline in pairs)
        yield f"cases with a speedup below {SPEEDUP_BOUND} over the fastest baseline: {below} of {len(pairs)}"


def _memory(cases: list[Fastest]) -> Iterator[str]:
    pairs = [(by_name[OURS], row) for by_name in cases if (row := fastest(by_name, CONCAT))]
    if pairs:
        peak = geometric_mean([ours.peak_bytes / concat.peak_bytes for ours, concat in pairs])
        yield f"peak memory, divided by concat's: {peak:.2f}"
    saved = [[row.details["saved_bytes"] for row in pair] for pair in pairs]
    if ratios := [ours / concat for ours, concat in saved if concat]:
        yield f"memory saved for the backward, without the inputs, divided by concat's: at most {max(ratios):.2f}"


def _roofline_fractions(cases: list[Fastest], results: Results) -> Iterator[str]:
    rows = [by_name[OURS] for by_name in cases]
    yield f"fraction of the roofline: {geometric_mean([results.roofline_fraction(row) for row in rows]):.0%}"
    arithmetic = [row for row in rows if row.details["kernel"] == 3 and row.details["in_channels"] >= MANY_CHANNELS]
    if arithmetic:
        mean = geometric_mean([results.roofline_fraction(row) for row in arithmetic])
        yield f"fraction of the roofline, k = 3 and C >= {MANY_CHANNELS}: {mean:.0%}"

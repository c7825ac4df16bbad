"""Times a layer against samples, sets, channels and pixels: `python -m benchmarks scaling`.

Each sweep varies one property of a layer C -> C. Times are medians, each in its faster memory format. The slope is that
of a straight line through log time over log x: 1 if time grows as x does; 2 for channels if multiplications dominate.

Then sets of mixed sizes are compared with as many equal sets of as many samples, interleaved. The aim is that mixed
sizes take at most 1.05 times as long.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from .baselines import OURS, make_implementations
from .check import compute, describe_errors, expect, make_inputs
from .machine import measure_machine
from .measure import Settings, add_options, make_settings, measure_case, measure_implementations
from .plots import COLORS, LABELS, log_axes, panels, save
from .report import TITLES, faster_memory_formats, make_console, print_environment, print_error
from .results import Measurement, Results, describe_environment, write_csv, write_results
from .suites import SQUARE, Case, Layer

KINDS = {OURS: "ours", "concat": "concat", "eager-split": "split"}  # implementations, and their kind in plots.py
FACTORS = (0.25, 0.5, 1, 2, 4)
EQUAL, MIXED = (4,) * 8, (1, 2, 3, 4, 4, 5, 6, 7)
MAX_RATIO = 1.05


class Sweep(NamedTuple):
    """One property that varies, and the case at each of its values."""

    title: str
    cases: dict[int, Case]


def make_sweeps(kernel: int, channels: int, side: int) -> list[Sweep]:
    """All sweeps, around a layer channels -> channels on side x side pixels with 4 sets of 4 samples."""

    def case(size: int = 4, num_sets: int = 4, factor: float = 1, scale: float = 1) -> Case:
        c, s = int(channels * factor), int(side * scale)
        return Case(Layer(SQUARE, c, c, s, s, kernel), (size,) * num_sets)

    by_channels = [case(factor=factor) for factor in FACTORS]
    by_side = [case(scale=scale) for scale in FACTORS[:-1]]
    return [
        Sweep("samples N, sets of 4", {4 * b: case(num_sets=b) for b in (1, 2, 4, 8, 16)}),
        Sweep("sets B, 16 samples", {b: case(size=16 // b, num_sets=b) for b in (1, 2, 4, 8, 16)}),
        Sweep("set size K, 4 sets", {k: case(size=k) for k in (1, 2, 4, 8, 16)}),
        Sweep("channels C", {case.layer.in_channels: case for case in by_channels}),
        Sweep("pixels H W", {case.layer.height * case.layer.width: case for case in by_side}),
    ]


class Curve(NamedTuple):
    """The times of an implementation along a sweep."""

    sweep: str
    direction: str
    implementation: str
    xs: list[int]
    seconds: list[float]

    @property
    def slope(self) -> float:
        return float(self.line()[0])

    def line(self) -> Any:
        """(slope, intercept) of log seconds over log x."""
        return np.polyfit(np.log(self.xs), np.log(self.seconds), 1)


def make_curves(sweeps: Sequence[Sweep], measurements: Sequence[Measurement]) -> list[Curve]:
    """A curve for each sweep, direction and implementation that was measured at all of its points."""
    cases = faster_memory_formats(measurements)
    curves = []
    for direction in dict.fromkeys(row.direction for row in measurements):
        for sweep in sweeps:
            points = {x: cases.get((str(case), direction), {}) for x, case in sweep.cases.items()}
            for name in KINDS:
                if all(name in by_name for by_name in points.values()):
                    seconds = [by_name[name].p50 for by_name in points.values()]
                    curves.append(Curve(sweep.title, direction, name, list(points), seconds))
    return curves


class MixedSizes(NamedTuple):
    """The times of ours on equal and on mixed set sizes, in seconds."""

    layer: str
    memory_format: str
    direction: str
    equal: float
    mixed: float

    @property
    def ratio(self) -> float:
        return self.mixed / self.equal


def compare_mixed_sizes(layer: Layer, settings: Settings) -> tuple[list[MixedSizes], list[str]]:
    """Times ours on MIXED and on EQUAL sets, interleaved.

    Returns:
        The times in each memory format and direction, and messages for wrong results, which are not timed.
    """
    cases = {"equal": Case(layer, EQUAL), "mixed": Case(layer, MIXED)}
    inputs = make_inputs(cases["equal"], settings.dtype)  # the same values for both
    expected = {name: expect(case, inputs, settings.device, settings.directions) for name, case in cases.items()}
    times, errors = [], []
    for memory_format in settings.memory_formats:
        implementations = {}
        for name, case in cases.items():
            [implementations[name]] = make_implementations(case, memory_format, settings.device, [OURS]).values()
            formatted = inputs.to(memory_format, settings.device)
            run = partial(compute, implementations[name], formatted, settings.directions)
            if error := describe_errors(run, expected[name]):
                errors.append(f"{case}, {memory_format}: {error}")
        if errors:
            continue
        measured = measure_implementations(cases["equal"], memory_format, implementations, inputs, settings)
        seconds = {(row.direction, row.implementation): row.p50 for row in measured}
        for direction in settings.directions:
            pair = seconds[direction, "equal"], seconds[direction, "mixed"]
            times.append(MixedSizes(str(layer), memory_format, direction, *pair))
    return times, errors


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """The options and how to measure; exits with status 2 if this machine does not support them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kernel", type=int, default=3, help="kernel size; default: %(default)s")
    add("--channels", type=int, help="C in the middle of the sweep, a multiple of 4; default: 32, on CUDA 128")
    add("--side", type=int, help="H = W in the middle of the sweep, a multiple of 4; default: 48, on CUDA 128")
    add_options(parser)
    add("--out", type=Path, help="folder; default: out/scaling-kK-DEVICE-DTYPE")
    args = parser.parse_args(argv)
    channels, side = (128, 128) if args.device == "cuda" else (32, 48)
    args.channels, args.side = args.channels or channels, args.side or side
    args.out = args.out or Path("out") / f"scaling-k{args.kernel}-{args.device}-{args.dtype}"
    return args, make_settings(parser, args)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns exit status 1 if an implementation is wrong."""
    args, settings = parse(argv)
    console = make_console()
    environment = describe_environment(settings.device, args.dtype)
    print_environment(console, environment)
    machine = measure_machine(settings.device, settings.dtype)
    sweeps = make_sweeps(args.kernel, args.channels, args.side)
    measurements, mixed_sizes, errors = [], [], []
    for case in dict.fromkeys(case for sweep in sweeps for case in sweep.cases.values()):
        console.print(str(case), style="dim", markup=False)
        of_case, wrong = measure_case(case, list(KINDS), settings)
        measurements += of_case
        errors += wrong
    for factor in FACTORS:
        channels = int(args.channels * factor)
        layer = Layer(SQUARE, channels, channels, args.side, args.side, args.kernel)
        of_layer, wrong = compare_mixed_sizes(layer, settings)
        mixed_sizes += of_layer
        errors += wrong
    for error in errors:
        print_error(console, error)
    curves = make_curves(sweeps, measurements)
    if curves and mixed_sizes:
        console.print(slopes_table(curves))
        console.print(mixed_sizes_table(mixed_sizes))
        results = Results(environment, measurements, machine)
        write_results(args.out, results, results.layer_rates)
        write_csv(args.out / "slopes.csv", [{**curve._asdict(), "slope": curve.slope} for curve in curves])
        write_csv(args.out / "mixed-sizes.csv", [{**row._asdict(), "ratio": row.ratio} for row in mixed_sizes])
        save(args.out / "scaling.png", draw(curves), environment)
        console.print(f"\nwritten to {args.out}: results.json, results.csv, slopes.csv, mixed-sizes.csv, scaling.png")
    return 1 if errors else 0


def slopes_table(curves: Sequence[Curve]) -> Table:
    """Slopes by sweep and implementation."""
    table = Table(title="Slopes of log time over log x")
    for heading in ("sweep", "direction", *KINDS):
        table.add_column(heading)
    slopes: dict[tuple[str, str], dict[str, str]] = {}
    for curve in curves:
        slopes.setdefault((curve.sweep, curve.direction), {})[curve.implementation] = f"{curve.slope:.2f}"
    for key, by_name in slopes.items():
        table.add_row(*key, *(by_name.get(name, "") for name in KINDS))
    return table


def mixed_sizes_table(mixed_sizes: Sequence[MixedSizes]) -> Table:
    """Mixed against equal set sizes; ratios above the aim are marked."""
    table = Table(title=f"Ours on sets of {'+'.join(map(str, MIXED))} samples, and on {len(EQUAL)} sets of {EQUAL[0]}")
    for heading in ("layer", "memory format", "direction", "equal ms", "mixed ms", "mixed / equal", ""):
        table.add_column(heading)
    for row in mixed_sizes:
        mark = f"above {MAX_RATIO}" if row.ratio > MAX_RATIO else ""
        times = [f"{1e3 * seconds:.2f}" for seconds in (row.equal, row.mixed)]
        table.add_row(row.layer, row.memory_format, row.direction, *times, f"{row.ratio:.3f}", mark)
    return table


def draw(curves: Sequence[Curve]) -> Any:
    """A panel for each sweep in each direction: times, and straight lines through them."""
    by_panel: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        by_panel.setdefault((curve.direction, curve.sweep), []).append(curve)
    titles = [TITLES[direction] for direction, _ in by_panel]
    figure, axes = panels(titles, columns=len({sweep for _, sweep in by_panel}), width=3.6)
    for axis, ((_, sweep), of_panel) in zip(axes, by_panel.items(), strict=True):
        for curve in of_panel:
            kind = KINDS[curve.implementation]
            label = f"{LABELS[kind]}: slope {curve.slope:.2f}"
            axis.plot(curve.xs, [1e3 * s for s in curve.seconds], "o", markersize=4, color=COLORS[kind], label=label)
            fitted = np.exp(np.polyval(curve.line(), np.log(curve.xs)))
            axis.plot(curve.xs, 1e3 * fitted, color=COLORS[kind], linewidth=1)
        log_axes(axis, x_base=2)
        axis.set_xticks(of_panel[0].xs, [str(x) for x in of_panel[0].xs])
        axis.set_xlabel(sweep)
        axis.set_ylabel("ms")
        axis.legend(frameon=False, fontsize=7)
    return figure

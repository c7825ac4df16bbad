"""How cost grows with samples, sets, channels and pixels; mixes against equal sets. `python -m benchmarks scaling`

Each sweep changes one thing about a layer C -> C. Times are medians, in each form's better layout; a slope is that of a
straight line through log time over log x: 1 where the cost grows as x does, 2 for channels where multiplications are
all. Then mixes of set sizes against equal sets of as many samples, in turns: at most 1.05 times as long is the aim.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from .check import complaint, make_inputs, make_standard
from .machine import measure_machine
from .measure import Settings, add_options, measure_case, measure_forms, needs_gradients, prepare
from .peers import OURS, make_forms, plain
from .plots import COLORS, LABELS, log_axes, panels, save
from .report import TITLES, best_layouts, make_console
from .results import Results, Row, describe_environment, write_csv, write_results
from .suites import SQUARE, Case, Layer

KINDS = {OURS: "ours", "concat": "concat", "eager-split": "split"}  # the forms, and what plots.py calls them
FACTORS = (0.25, 0.5, 1, 2, 4)
EQUAL, MIXED = (4,) * 8, (1, 2, 3, 4, 4, 5, 6, 7)
AIM = 1.05


class Sweep(NamedTuple):
    """One thing that changes, and the case at each of its values."""

    title: str
    cases: dict[int, Case]


def sweeps(kernel: int, channels: int, side: int) -> list[Sweep]:
    """All of them, around a layer channels -> channels on side x side pixels, for 4 sets of 4."""

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


class Line(NamedTuple):
    """A form's seconds over what a sweep changes, and the slope between their logarithms."""

    sweep: str
    direction: str
    form: str
    xs: list[int]
    seconds: list[float]

    @property
    def slope(self) -> float:
        return float(np.polyfit(np.log(self.xs), np.log(self.seconds), 1)[0])


def lines_of(chosen: Sequence[Sweep], rows: Sequence[Row]) -> list[Line]:
    """A line for each sweep, direction and form that was measured at all of its points."""
    best = best_layouts(rows)
    lines = []
    for direction in dict.fromkeys(row.direction for row in rows):
        for sweep in chosen:
            at = {x: best.get((str(case), direction), {}) for x, case in sweep.cases.items()}
            for form in KINDS:
                if all(form in forms for forms in at.values()):
                    seconds = [forms[form].p50 for forms in at.values()]
                    lines.append(Line(sweep.title, direction, form, list(at), seconds))
    return lines


def compare_mixes(layer: Layer, settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    """(a row for each layout and direction, what was refused) of ours on mixed sets against equal ones."""
    cases = {"equal": Case(layer, EQUAL), "mixed": Case(layer, MIXED)}
    inputs = make_inputs(cases["equal"], settings.dtype)  # the values are the same in both
    rows: list[dict[str, Any]] = []
    refused = []
    for layout in settings.layouts:
        forms = {}
        for name, case in cases.items():
            [forms[name]] = make_forms(case, layout, settings.device, [OURS]).values()
            gradients = needs_gradients(settings.directions)
            standard = make_standard(case, inputs, plain(case), settings.device, gradients)
            why = complaint(forms[name], inputs.to(layout, settings.device), standard, settings.directions)
            refused += [f"{case}, {layout}: {why}"] if why else []
        if refused:
            continue
        measured = measure_forms(cases["equal"], layout, forms, inputs, settings)
        seconds = {(row.direction, row.form): row.p50 for row in measured}
        for direction in settings.directions:
            equal, mixed = seconds[direction, "equal"], seconds[direction, "mixed"]
            row = {"layer": str(layer), "layout": layout, "direction": direction, "equal": equal, "mixed": mixed}
            rows.append(row | {"ratio": mixed / equal})
    return rows, refused


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; exit status 1 where a form was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", type=int, default=3, help="k; default: %(default)s")
    parser.add_argument("--channels", type=int, help="C in the middle, a multiple of 4; default: 32, on CUDA 128")
    parser.add_argument("--side", type=int, help="H = W in the middle, a multiple of 4; default: 48, on CUDA 128")
    add_options(parser)
    parser.add_argument("--out", type=Path, help="folder; default: out/scaling-kK-DEVICE-DTYPE")
    args = parser.parse_args(argv)
    settings = prepare(parser, args)
    channels, side = (
        (args.channels or 128, args.side or 128) if args.device == "cuda" else (args.channels or 32, args.side or 48)
    )
    chosen = sweeps(args.kernel, channels, side)
    console = make_console()
    environment = describe_environment(settings.device, args.dtype)
    machine = measure_machine(settings.device, settings.dtype)

    rows, mixes, refused = [], [], []
    for case in dict.fromkeys(case for sweep in chosen for case in sweep.cases.values()):
        console.print(str(case), style="dim", markup=False)
        new, wrong = measure_case(case, list(KINDS), settings)
        rows += new
        refused += wrong
    for factor in FACTORS:
        c = int(channels * factor)
        new_mixes, wrong = compare_mixes(Layer(SQUARE, c, c, side, side, args.kernel), settings)
        mixes += new_mixes
        refused += wrong
    for line in refused:
        console.print(f"refused: {line}", style="bold red", markup=False)
    lines = lines_of(chosen, rows)
    folder = args.out or Path("out") / f"scaling-k{args.kernel}-{args.device}-{args.dtype}"
    if lines and mixes:
        print_tables(console, lines, mixes)
        write_results(folder, Results(environment, machine, rows))
        write_csv(folder / "slopes.csv", [{**line._asdict(), "slope": line.slope} for line in lines])
        write_csv(folder / "mixes.csv", mixes)
        save(folder / "scaling.png", draw(lines), environment)
        console.print(f"\nwritten to {folder}: results.json, results.csv, slopes.csv, mixes.csv, scaling.png")
    return 1 if refused else 0


def print_tables(console: Console, lines: Sequence[Line], mixes: Sequence[dict[str, Any]]) -> None:
    """Slopes by form, and mixes against equal sets."""
    table = Table(title="Slopes of log time over log x")
    for heading in ("sweep", "direction", *KINDS):
        table.add_column(heading)
    slopes: dict[tuple[str, str], dict[str, str]] = {}
    for line in lines:
        slopes.setdefault((line.sweep, line.direction), {})[line.form] = f"{line.slope:.2f}"
    for key, by_form in slopes.items():
        table.add_row(*key, *(by_form.get(form, "") for form in KINDS))
    console.print(table)
    sizes = "+".join(map(str, MIXED))
    table = Table(title=f"Ours on sets of {sizes} samples against {len(EQUAL)} sets of {EQUAL[0]}")
    for heading in ("layer", "layout", "direction", "equal ms", "mixed ms", "ratio", ""):
        table.add_column(heading)
    for row in mixes:
        mark = f"above {AIM}" if row["ratio"] > AIM else ""
        times = [f"{1e3 * row[name]:.2f}" for name in ("equal", "mixed")]
        table.add_row(row["layer"], row["layout"], row["direction"], *times, f"{row['ratio']:.3f}", mark)
    console.print(table)


def draw(lines: Sequence[Line]) -> Any:
    """A panel for each sweep in each direction: times, and the straight lines."""
    by_panel: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        by_panel.setdefault((line.direction, line.sweep), []).append(line)
    titles = [TITLES[direction] for direction, _ in by_panel]
    figure, axes = panels(titles, columns=len({sweep for _, sweep in by_panel}), width=3.6)
    for axis, ((_, sweep), of_panel) in zip(axes, by_panel.items(), strict=True):
        for line in of_panel:
            kind = KINDS[line.form]
            label = f"{LABELS[kind]}: slope {line.slope:.2f}"
            axis.plot(line.xs, [1e3 * s for s in line.seconds], "o", markersize=4, color=COLORS[kind], label=label)
            fitted = np.exp(np.polyval(np.polyfit(np.log(line.xs), np.log(line.seconds), 1), np.log(line.xs)))
            axis.plot(line.xs, 1e3 * fitted, color=COLORS[kind], linewidth=1)
        log_axes(axis, x_base=2)
        axis.set_xticks(of_panel[0].xs, [str(x) for x in of_panel[0].xs])
        axis.set_xlabel(sweep)
        axis.set_ylabel("ms")
        axis.legend(frameon=False, fontsize=7)
    return figure

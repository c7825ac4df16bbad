"""Results of layers as plots: speedup by set size and by channels, the roofline, and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from interconv_kernels._files import replacing

from .baselines import CONCAT, OURS, SPLIT
from .report import BASELINES, TITLES, Fastest, faster_memory_formats, fastest, geometric_mean
from .results import Measurement, Results
from .suites import mean_set_size

COLORS = {"ours": "#0072B2", "concat": "#D55E00", "split": "#009E73"}  # distinct for colour-blind readers as well
LABELS = {"ours": "this library", "concat": "concat (the authors' layer)", "split": "eager split"}
Cases: TypeAlias = dict[tuple[str, str], Fastest]  # by (case, direction)


def plot_all(folder: Path, results: Results) -> list[str]:
    """Writes the plots that the results have points for, and returns their file names."""
    cases = faster_memory_formats(results.measurements)
    figures = {"roofline.png": roofline(results)}
    if any(OURS in by_name and fastest(by_name, CONCAT + SPLIT) for by_name in cases.values()):
        xlabel = "set size K (ragged sets: their mean)"
        figures["speed-by-set-size.png"] = speedup(cases, xlabel, lambda row: mean_set_size(row.lengths))
        figures["speed-by-channels.png"] = speedup(cases, "channels C", lambda row: row.details["in_channels"])
    if any(OURS in by_name and fastest(by_name, CONCAT) for by_name in cases.values()):
        figures["memory.png"] = memory(cases)
    for name, figure in figures.items():
        save(folder / name, figure, results.environment)
    return list(figures)


def save(path: Path, figure: Any, environment: Mapping[str, Any]) -> None:
    """Writes a figure, labelled with its environment, and closes it."""
    label = "{device}, {threads} threads, torch {torch}, {dtype}, {commit:.9}".format(**environment)
    figure.supxlabel(label, fontsize=7, color="gray", x=0.99, ha="right")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)
    plt.close(figure)


def panels(titles: Sequence[str], columns: int, width: float = 4.5, sharey: bool = False) -> tuple[Any, list[Any]]:
    """(figure, axes) with a panel for each title, `columns` in a row."""
    rows = -(-len(titles) // columns)
    size = (1 + width * columns, 4.4 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=sharey, layout="constrained")
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title)
        axis.grid(True, alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def _direction_panels(directions: Sequence[str]) -> tuple[Any, list[Any]]:
    return panels([TITLES[direction] for direction in directions], len(directions), sharey=True)


def _directions(cases: Cases) -> list[str]:
    return list(dict.fromkeys(direction for _, direction in cases))


def speedup(cases: Cases, xlabel: str, x_of: Callable[[Measurement], float]) -> Any:
    """Our speedup over the faster baseline of each kind.

    A point is a case, and a line connects the geometric means of cases with equal x.
    """
    directions = _directions(cases)
    figure, axes = _direction_panels(directions)
    for axis, direction in zip(axes, directions, strict=True):
        for offset, (kind, names) in zip((0.97, 1.03), BASELINES.items(), strict=True):
            speedups: dict[float, list[float]] = {}
            for (_, of), by_name in cases.items():
                if of == direction and OURS in by_name and (row := fastest(by_name, names)):
                    speedups.setdefault(x_of(by_name[OURS]), []).append(row.p50 / by_name[OURS].p50)
            xs = sorted(speedups)
            points = [(offset * x, value) for x in xs for value in speedups[x]]  # so that the kinds do not overlap
            style = {"color": COLORS[kind], "linewidth": 0}
            axis.scatter(*np.array(points).reshape(-1, 2).T, s=14, alpha=0.45, **style)
            means = [geometric_mean(speedups[x]) for x in xs]
            axis.plot(xs, means, "o-", color=COLORS[kind], label=f"over {LABELS[kind]}")
        axis.axhline(1, color="black", linewidth=0.8)
        log_axes(axis, x_base=2)
        axis.set_xlabel(xlabel)
    axes[0].set_ylabel("speedup (lines: geometric means)")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def log_axes(axes: Any, x_base: int = 10) -> None:
    """Makes both axes logarithmic, with plain numbers as ticks: powers of 2, or 1, 2, 5, 10, ..."""
    for axis, set_scale, base in ((axes.xaxis, axes.set_xscale, x_base), (axes.yaxis, axes.set_yscale, 10)):
        set_scale("log", base=base)
        axis.set_major_locator(LogLocator(base, subs=(1,) if base == 2 else (1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def roofline(results: Results) -> Any:
    """The rate of every measurement by its FLOPs per byte, below the rates that the machine reached in the same run."""
    machine, rows = results.require_machine(), results.measurements
    directions = list(dict.fromkeys(row.direction for row in rows))
    figure, axes = _direction_panels(directions)
    intensities = [_intensity(row) for row in rows]
    xs = np.geomspace(min(intensities) / 1.5, max(intensities) * 1.5, 200)
    for axis, direction in zip(axes, directions, strict=True):
        roof = np.minimum(machine.flops, xs * machine.bandwidth) / 1e9
        axis.plot(xs, roof, color="black", linewidth=1, label="matrix product and copy, same run")
        for offset, kind in ((0.95, "concat"), (1, "split"), (1.05, "ours")):  # so that the kinds do not overlap
            of_kind = [row for row in rows if row.direction == direction and _kind(row.implementation) == kind]
            if of_kind:
                x = [offset * _intensity(row) for row in of_kind]
                y = [results.layer_rates(row)["gflop_per_s"] for row in of_kind]
                axis.scatter(x, y, s=16, alpha=0.6, linewidth=0, color=COLORS[kind], label=LABELS[kind])
        log_axes(axis)
        axis.set_xlabel("FLOPs per byte of a direct convolution")
    axes[0].set_ylabel("GFLOP/s of a direct convolution")
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _intensity(row: Measurement) -> float:
    return row.details["flops"] / row.details["bytes"]


def _kind(implementation: str) -> str:
    return next((kind for kind, names in BASELINES.items() if implementation in names), "ours")


def memory(cases: Cases) -> Any:
    """Peak memory of a call against that of the faster concat."""
    directions = _directions(cases)
    figure, axes = _direction_panels(directions)
    for axis, direction in zip(axes, directions, strict=True):
        for kind, names in (("split", SPLIT), ("ours", (OURS,))):
            pairs = [
                (concat.peak_bytes / 1e6, row.peak_bytes / 1e6)
                for (_, of), by_name in cases.items()
                if of == direction and (concat := fastest(by_name, CONCAT)) and (row := fastest(by_name, names))
            ]
            axis.scatter(*np.array(pairs).reshape(-1, 2).T, s=18, alpha=0.6, color=COLORS[kind], label=LABELS[kind])
        log_axes(axis)
        ends = axis.get_xlim()
        for share, style, label in ((1, "-", "as much as concat"), (0.5, "--", "half as much")):
            axis.plot(ends, [share * end for end in ends], style, color="black", linewidth=0.8, label=label)
        axis.set_xlabel("peak MB of a call, concat")
    axes[0].set_ylabel("peak MB of a call")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure

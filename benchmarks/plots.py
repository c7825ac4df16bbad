"""What was measured, as pictures: speed by set size and by channels, the roofline, and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .peers import CONCAT, OURS, SPLIT
from .report import TITLES, Key, best_layouts, fastest, geometric_mean
from .results import Results, Row, replacing

COLORS = {"ours": "#0072B2", "concat": "#D55E00", "split": "#009E73"}  # told apart by the colour-blind, too
KINDS = {"concat": CONCAT, "split": SPLIT}
LABELS = {"ours": "this library", "concat": "concat (the authors' layer)", "split": "eager split"}
Cases = dict[Key, dict[str, Row]]


def plot_all(folder: Path, results: Results) -> list[str]:
    """Draws what the results have points for; the names of the files."""
    best = best_layouts(results.rows)
    drawn = {"roofline.png": roofline(results)}
    if any(OURS in forms and fastest(forms, CONCAT + SPLIT) for forms in best.values()):
        drawn["speed-by-set-size.png"] = speed(best, "set size K (of a mix: its mean)", lambda row: row.set_size)
        drawn["speed-by-channels.png"] = speed(best, "channels C", lambda row: row.in_channels)
    if any(OURS in forms and fastest(forms, CONCAT) for forms in best.values()):
        drawn["memory.png"] = memory(best)
    for name, figure in drawn.items():
        save(folder / name, figure, results.environment)
    return list(drawn)


def save(path: Path, figure: Any, environment: Mapping[str, Any]) -> None:
    """Writes a figure, which says where its figures are from, and closes it."""
    where = "{device}, {threads} threads, torch {torch}, {dtype}, {commit:.9}".format(**environment)
    figure.supxlabel(where, fontsize=7, color="gray", x=0.99, ha="right")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)
    plt.close(figure)


def panels(titles: Sequence[str], columns: int, width: float = 4.5, sharey: bool = False) -> tuple[Any, list[Any]]:
    """A figure with a panel for each title, in rows of so many."""
    rows = -(-len(titles) // columns)
    size = (1 + width * columns, 4.4 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=sharey, layout="constrained")
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title)
        axis.grid(True, alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def _by_direction(directions: Sequence[str]) -> tuple[Any, list[Any]]:
    return panels([TITLES[direction] for direction in directions], len(directions), sharey=True)


def _directions(best: Cases) -> list[str]:
    return list(dict.fromkeys(direction for _, direction in best))


def speed(best: Cases, xlabel: str, x_of: Callable[[Row], float]) -> Any:
    """How many times as long the better peer of each kind takes: a point for each case, a line through the geometric
    means of equal x."""
    directions = _directions(best)
    figure, axes = _by_direction(directions)
    for axis, direction in zip(axes, directions, strict=True):
        for side, (kind, names) in zip((0.97, 1.03), KINDS.items(), strict=True):
            ratios: dict[float, list[float]] = {}
            for (_, of), forms in best.items():
                if of == direction and OURS in forms and (peer := fastest(forms, names)):
                    ratios.setdefault(x_of(forms[OURS]), []).append(peer.p50 / forms[OURS].p50)
            xs = sorted(ratios)
            points = [(side * x, ratio) for x in xs for ratio in ratios[x]]  # beside each other, not on each other
            style = {"color": COLORS[kind], "linewidth": 0}
            axis.scatter(*np.array(points).reshape(-1, 2).T, s=14, alpha=0.45, **style)
            means = [geometric_mean(ratios[x]) for x in xs]
            axis.plot(xs, means, "o-", color=COLORS[kind], label=f"against {LABELS[kind]}")
        axis.axhline(1, color="black", linewidth=0.8)
        log_axes(axis, x_base=2)
        axis.set_xlabel(xlabel)
    axes[0].set_ylabel("times as fast (lines: geometric means)")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def log_axes(axes: Any, x_base: int = 10) -> None:
    """Both axes logarithmic, with plain numbers on them: powers of 2, or 1, 2, 5, 10, ..."""
    for axis, set_scale, base in ((axes.xaxis, axes.set_xscale, x_base), (axes.yaxis, axes.set_yscale, 10)):
        set_scale("log", base=base)
        axis.set_major_locator(LogLocator(base, subs=(1,) if base == 2 else (1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def roofline(results: Results) -> Any:
    """Every row by what its case needs, under the rates that this machine reached in the same run."""
    machine, rows = results.machine, results.rows
    directions = list(dict.fromkeys(row.direction for row in rows))
    figure, axes = _by_direction(directions)
    intensities = [row.flops / row.bytes for row in rows]
    xs = np.geomspace(min(intensities) / 1.5, max(intensities) * 1.5, 200)
    for axis, direction in zip(axes, directions, strict=True):
        roof = np.minimum(machine.flops, xs * machine.bandwidth) / 1e9
        axis.plot(xs, roof, color="black", linewidth=1, label="matrix product and copy, same run")
        for side, kind in ((0.95, "concat"), (1, "split"), (1.05, "ours")):  # beside each other, not on each other
            of_kind = [row for row in rows if row.direction == direction and _kind(row.form) == kind]
            if of_kind:
                x = [side * row.flops / row.bytes for row in of_kind]
                y = [row.flops / row.p50 / 1e9 for row in of_kind]
                axis.scatter(x, y, s=16, alpha=0.6, linewidth=0, color=COLORS[kind], label=LABELS[kind])
        log_axes(axis)
        axis.set_xlabel("FLOPs per byte that the layer needs")
    axes[0].set_ylabel("GFLOP/s of what the layer needs")
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _kind(form: str) -> str:
    return next((kind for kind, names in KINDS.items() if form in names), "ours")


def memory(best: Cases) -> Any:
    """Peak memory of a call against that of the faster concat."""
    directions = _directions(best)
    figure, axes = _by_direction(directions)
    for axis, direction in zip(axes, directions, strict=True):
        for kind, names in (("split", SPLIT), ("ours", (OURS,))):
            pairs = [
                (concat.peak_bytes / 1e6, row.peak_bytes / 1e6)
                for (_, of), forms in best.items()
                if of == direction and (concat := fastest(forms, CONCAT)) and (row := fastest(forms, names))
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

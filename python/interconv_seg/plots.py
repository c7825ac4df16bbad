"""Pictures of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from .atomic import replacing
from .estimates import Estimate
from .reports import Row


def dice_by_set_size(path: Path, rows: Sequence[Row], names: tuple[str, str]) -> None:
    """Dice against set size with bands of confidence. `rows` have a baseline; `names` are the network's and its."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    sizes = [float(row.set_size or 0) for row in rows]
    _band(axes, sizes, [row.baseline for row in rows], "tab:gray", names[1])
    _band(axes, sizes, [row.dice for row in rows], "tab:blue", names[0])
    _set_size_axis(axes, sizes)
    axes.set_ylabel("Dice (95 % CI)")
    axes.legend()
    _save(figure, path)


def improvement_by_set_size(path: Path, rows: Sequence[Row]) -> None:
    """Dice improvement over the baseline against set size, a line with its band for each number of prompts (paper,
    Figure 4)."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    counts = sorted({row.prompts for row in rows})
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(counts)))
    for count, color in zip(counts, shades, strict=True):
        own = [row for row in rows if row.prompts == count]
        label = f"{count} + {count}" if count else None
        _band(axes, [float(row.set_size or 0) for row in own], [row.gain for row in own], color, label)
    _set_size_axis(axes, sorted({float(row.set_size or 0) for row in rows}))
    _improvement_axis(axes)
    if counts != [0]:
        figure.legend(title="prompts per image:\npositive + negative", loc="outside right upper", frameon=False)
    _save(figure, path)


def improvement_by_scans(path: Path, rows: Sequence[Row]) -> None:
    """Dice improvement over the baseline against the number of scans that a subject has (paper, Figure 6)."""
    figure = Figure(figsize=(5.8, 4), layout="constrained")
    axes = figure.subplots()
    scans = [float(row.scans or 0) for row in rows]
    _band(axes, scans, [row.gain for row in rows], "tab:blue", None)
    axes.set_xticks(scans, [f"{row.scans}\nn = {row.dice.count}" for row in rows])
    axes.set_xlabel("scans of the subject (n: values in the mean)")
    _improvement_axis(axes)
    _save(figure, path)


def overlays(
    path: Path,
    images: Tensor,
    columns: Mapping[str, Tensor],
    structures: Sequence[str],
    dice: Mapping[str, Sequence[float]],
    prompts: Tensor | None = None,
) -> None:
    """Images [N, H, W] in rows; in columns the image (with its prompts [N, 2, H, W]) and, over it in colours, the
    classes that each of `columns` [N, H, W] says, of which "truth" is one. Those that have a Dice show it, and the
    truth's outline in white."""
    count, height, width = images.shape
    wide = 2.4 * width / height
    figure = Figure(figsize=(wide * (1 + len(columns)), 2.65 * count + 0.5), layout="constrained")
    colors = colormaps["Set1" if len(structures) <= 9 else "tab20"]
    palette = np.array([(0, 0, 0, 0), *((*colors(i % colors.N)[:3], 0.6) for i in range(len(structures)))])
    for i, line in enumerate(figure.subplots(count, 1 + len(columns), squeeze=False)):
        for axes, title in zip(line, ("image", *columns), strict=True):
            axes.imshow(images[i].numpy(), cmap="gray", vmin=0, vmax=float(images[i].quantile(0.995)))
            if title in columns:
                axes.imshow(palette[columns[title][i].numpy()], interpolation="nearest")
            elif prompts is not None:
                _draw_prompts(axes, prompts[i], size=4)
            axes.set_xticks([])
            axes.set_yticks([])
            if i == 0:
                axes.set_title(title, fontsize=11)
            if title in dice:
                for label in range(1, 1 + len(structures)):
                    outline = (columns["truth"][i] == label).float().numpy()
                    axes.contour(outline, [0.5] if outline.any() else [], colors="white", linewidths=0.7)
                axes.set_xlabel(f"Dice {dice[title][i]:.3f}", fontsize=9)
    handles: list[Patch | Line2D] = [
        Patch(color=palette[1 + i], label=name) for i, name in enumerate(structures) if len(structures) > 1
    ]
    if prompts is not None:
        for color, name in (("lime", "positive prompt"), ("red", "negative prompt")):
            handles.append(Line2D([], [], color=color, marker="o", markersize=4, linewidth=0, label=name))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False)
    _save(figure, path)


def prompts(path: Path, images: Tensor, masks: Tensor, rows: Sequence[tuple[str, Tensor, float]]) -> None:
    """Images [N,H,W] with the outlines of their masks [N,H,W], and rows of (title, prompts [N,2,H,W], marker size)
    drawn on them: positive in green, negative in red."""
    figure = Figure(figsize=(2.6 * len(images), 2.35 * len(rows)), layout="constrained")
    figure.suptitle("Simulated prompts, positive (green) and negative (red), for the outlined label")
    for line, (title, drawn, size) in zip(figure.subplots(len(rows), len(images), squeeze=False), rows, strict=True):
        line[0].set_ylabel(title, fontsize=12)
        for axes, image, mask, own in zip(line, images, masks, drawn, strict=True):
            axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=float(image.quantile(0.995)))
            axes.contour(mask.numpy(), [0.5], colors="gold", linewidths=0.5)
            _draw_prompts(axes, own, size)
            axes.set_xticks([])
            axes.set_yticks([])
    _save(figure, path)


def _draw_prompts(axes: Axes, drawn: Tensor, size: float) -> None:
    for channel, color in zip(drawn, ("lime", "red"), strict=True):
        row, column = channel.nonzero(as_tuple=True)
        axes.plot(column.numpy(), row.numpy(), "o", color=color, markersize=size, markeredgewidth=0)


def _band(axes: Axes, x: Sequence[float], found: Sequence[Estimate | None], color: Any, label: str | None) -> None:
    mean, low, high = np.array([[e.mean, e.low, e.high] for e in found if e is not None]).T
    axes.plot(x, mean, "o-", color=color, label=label, markersize=4.5)
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axes.grid(alpha=0.3)


def _set_size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{k:.0f}" for k in sizes])
    axes.set_xlabel("set size K (images segmented together)")


def _improvement_axis(axes: Axes) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("Dice improvement over the baseline (95 % CI)")


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=130)

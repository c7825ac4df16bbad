"""Pictures of results. Files are written under a temporary name and renamed, so that none is ever half there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def dice_by_set_size(path: Path, rows: np.ndarray) -> None:
    """Dice against set size with bands of confidence; rows hold K, then mean, low, high of baseline, InterConv and
    gain."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, column, color in (("SimpleUNet (baseline)", 1, "tab:gray"), ("SimpleUNet-InterConv", 4, "tab:blue")):
        axes.plot(rows[:, 0], rows[:, column], "o-", color=color, label=name)
        axes.fill_between(rows[:, 0], rows[:, column + 1], rows[:, column + 2], color=color, alpha=0.2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(rows[:, 0], [f"{k:.0f}" for k in rows[:, 0]])
    axes.set_xlabel("set size K (scans of a subject segmented together)")
    axes.set_ylabel("Dice, held-out subjects (95 % CI)")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def predictions(
    path: Path, images: Tensor, tissues: Tensor, baseline: Tensor, interconv: Tensor, most: int = 4
) -> None:
    """A subject's scans [K,1,H,W] in rows; in columns the scan, its truth [H,W], and both networks' tissues [K,H,W]."""
    rows = min(most, len(images))
    figure = Figure(figsize=(11, 2.4 * rows), layout="constrained")
    titles = ("scan", "truth", "SimpleUNet", f"SimpleUNet-InterConv, K = {len(images)}")
    for i, line in enumerate(figure.subplots(rows, 4, squeeze=False)):
        for axes, title, picture in zip(line, titles, (images[i, 0], tissues, baseline[i], interconv[i]), strict=True):
            scan = title == "scan"
            axes.imshow(
                picture.numpy(),
                cmap="gray" if scan else "viridis",
                vmin=0,
                vmax=None if scan else 2,
                interpolation="nearest",
            )
            axes.set_axis_off()
            if i == 0:
                axes.set_title(title)
    _save(figure, path)


def prompts(path: Path, images: Tensor, masks: Tensor, rows: Sequence[tuple[str, Tensor, float]]) -> None:
    """Images [N,H,W] with the outlines of their masks [N,H,W], and rows of (title, prompts [N,2,H,W], marker size)
    drawn on them: positive in green, negative in red."""
    figure = Figure(figsize=(2.6 * len(images), 2.35 * len(rows)), layout="constrained")
    figure.suptitle("Simulated prompts, positive (green) and negative (red), for the outlined label")
    for line, (title, drawn, size) in zip(figure.subplots(len(rows), len(images), squeeze=False), rows, strict=True):
        line[0].set_ylabel(title, fontsize=12)
        for axes, image, mask, (positive, negative) in zip(line, images, masks, drawn, strict=True):
            axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=float(image.quantile(0.995)))
            axes.contour(mask.numpy(), [0.5], colors="gold", linewidths=0.5)
            for channel, color in ((positive, "lime"), (negative, "red")):
                row, column = channel.nonzero(as_tuple=True)
                axes.plot(column.numpy(), row.numpy(), "o", color=color, markersize=size, markeredgewidth=0)
            axes.set_xticks([])
            axes.set_yticks([])
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    FigureCanvasAgg(figure)
    figure.savefig(partial, format="png", dpi=130)
    partial.replace(path)

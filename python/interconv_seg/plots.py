"""Figures of results, written as PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from interconv_kernels._files import replacing

from .estimates import Estimate
from .metrics import dice_scores
from .reports import ConditionSummary


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with what is drawn on it.

    Attributes:
        image: [H,W].
        mask: class indices [H,W], in colour.
        outline: class indices [H,W], in white.
        prompts: [2,H,W], positive in green, negative in red.
        text: below the image.
        box: (top, left, size) of a square.
    """

    image: Tensor
    mask: Tensor | None = None
    outline: Tensor | None = None
    prompts: Tensor | None = None
    text: str = ""
    box: tuple[int, int, int] | None = None

    def close_up(self, box: tuple[int, int, int]) -> Picture:
        """What lies in a square, without text.

        Args:
            box: (top, left, size).
        """
        top, left, size = box
        place = (..., slice(top, top + size), slice(left, left + size))
        mask, outline, prompts = (None if x is None else x[place] for x in (self.mask, self.outline, self.prompts))
        return Picture(self.image[place], mask, outline, prompts)


def dice_by_set_size(path: Path, summaries: Sequence[ConditionSummary], names: tuple[str, str]) -> None:
    """Dice of a network and its baseline against set size, with confidence bands.

    Args:
        path: the PNG file.
        summaries: one for each set size, with a baseline.
        names: of the network and its baseline.
    """
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    sizes = [float(summary.set_size or 0) for summary in summaries]
    _plot_band(axes, sizes, [summary.baseline for summary in summaries], "tab:gray", names[1])
    _plot_band(axes, sizes, [summary.dice for summary in summaries], "tab:blue", names[0])
    _set_size_axis(axes, sizes)
    axes.set_ylabel("Dice (95 % CI)")
    axes.legend()
    save(figure, path)


def improvement_by_set_size(path: Path, summaries: Sequence[ConditionSummary]) -> None:
    """Improvement over the baseline against set size, one line per number of prompts (Figure 4 of the paper).

    Args:
        path: the PNG file.
        summaries: one for each set size and number of prompts, with a baseline.
    """
    improvement_panels(path, {"": summaries}, draw_by_set_size)


def improvement_by_scans(path: Path, summaries: Sequence[ConditionSummary]) -> None:
    """Improvement over the baseline against the number of scans of a subject (Figure 6 of the paper).

    Args:
        path: the PNG file.
        summaries: one for each number of scans, with a baseline.
    """
    improvement_panels(path, {"": summaries}, draw_by_scans)


def improvement_panels(
    path: Path,
    panels: Mapping[str, Sequence[ConditionSummary]],
    draw: Callable[[Axes, Sequence[ConditionSummary]], None],
) -> None:
    """Improvement over the baseline, one panel for each data set.

    Args:
        path: the PNG file.
        panels: the title and the summaries of each panel.
        draw: `draw_by_set_size` or `draw_by_scans`.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.2 + 4.8 * columns, 4 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, summaries) in zip(grid, panels.items(), strict=False):
        axes.set_title(title, fontsize=11)
        draw(axes, summaries)
    for axes in grid[len(panels) :]:
        axes.remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        title = "prompts per image:\npositive + negative"
        figure.legend(handles, labels, title=title, loc="outside right upper", frameon=False)
    save(figure, path)


def draw_by_set_size(axes: Axes, summaries: Sequence[ConditionSummary]) -> None:
    """Draws improvement against set size.

    Args:
        axes: where to.
        summaries: as in `improvement_by_set_size`.
    """
    counts = sorted({summary.prompts for summary in summaries})
    colors = colormaps["viridis"](np.linspace(0.0, 0.85, len(counts)))
    for count, color in zip(counts, colors, strict=True):
        line = [summary for summary in summaries if summary.prompts == count]
        label = f"{count} + {count}" if count else None
        _plot_band(axes, [float(s.set_size or 0) for s in line], [s.gain for s in line], color, label)
    _set_size_axis(axes, sorted({float(summary.set_size or 0) for summary in summaries}))
    _improvement_axis(axes)


def draw_by_scans(axes: Axes, summaries: Sequence[ConditionSummary]) -> None:
    """Draws improvement against the number of scans of a subject.

    Args:
        axes: where to.
        summaries: as in `improvement_by_scans`.
    """
    scans = [float(summary.scans or 0) for summary in summaries]
    _plot_band(axes, scans, [summary.gain for summary in summaries], "tab:blue", None)
    axes.set_xticks(scans, [f"{summary.scans}\nn = {summary.dice.count}" for summary in summaries])
    axes.set_xlabel("scans of the subject (n: values in the mean)")
    _improvement_axis(axes)


def overlays(
    path: Path,
    images: Tensor,
    truth: Tensor,
    predictions: Mapping[str, Tensor],
    structures: Sequence[str],
    prompts: Tensor | None = None,
) -> None:
    """Segmentations in colour over their images: one row per image; columns for the image, the truth and predictions.

    Predictions show their mean Dice and, in white, the outline of the truth.

    Args:
        path: the PNG file.
        images: [N,H,W].
        truth: class indices, int64 [N,H,W].
        predictions: for the title of each further column, class indices, int64 [N,H,W].
        structures: the names of classes 1, 2, ...
        prompts: [N,2,H,W], drawn on the images.
    """
    pictures = [
        [Picture(image, prompts=None if prompts is None else prompts[i]) for i, image in enumerate(images)],
        [Picture(image, mask) for image, mask in zip(images, truth, strict=True)],
        *(predicted_pictures(images, truth, predicted, structures) for predicted in predictions.values()),
    ]
    height, width = images.shape[1:]
    size = (2.4 * width / height * len(pictures), 2.65 * len(images) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    columns = ["image", "truth", *predictions]
    picture_grid(figure, list(zip(*pictures, strict=True)), structures, columns=columns)
    save(figure, path)


def prompts(path: Path, images: Tensor, masks: Tensor, rows: Sequence[tuple[str, Tensor, float]]) -> None:
    """Prompts on their images: positive in green, negative in red, with the outline of the label.

    Args:
        path: the PNG file.
        images: [N,H,W], one per column.
        masks: bool [N,H,W].
        rows: for each row of the figure its title, prompts [N,2,H,W] (with boxes [N,3,H,W]) and marker size in points.
    """
    figure = Figure(figsize=(2.6 * len(images), 2.35 * len(rows)), layout="constrained")
    figure.suptitle("Simulated prompts, positive (green) and negative (red), for the outlined label")
    for line, (title, drawn, size) in zip(figure.subplots(len(rows), len(images), squeeze=False), rows, strict=True):
        line[0].set_ylabel(title, fontsize=12)
        for axes, image, mask, image_prompts in zip(line, images, masks, drawn, strict=True):
            _draw_image(axes, image)
            axes.contour(mask.numpy(), [0.5], colors="gold", linewidths=0.5)
            _draw_prompts(axes, image_prompts, size)
    save(figure, path)


def picture_grid(
    figure: Figure | SubFigure,
    pictures: Sequence[Sequence[Picture]],
    structures: Sequence[str],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> None:
    """Draws pictures, with a legend of the structures and prompts.

    Args:
        figure: where to.
        pictures: [rows][columns].
        structures: the names of classes 1, 2, ...
        rows: their titles.
        columns: their titles.
    """
    palette = _palette(len(structures))
    grid = figure.subplots(len(pictures), len(pictures[0]), squeeze=False)
    for line, drawn in zip(grid, pictures, strict=True):
        for axes, picture in zip(line, drawn, strict=True):
            _draw_picture(axes, picture, palette)
    for axes, title in zip(grid[:, 0], rows, strict=False):
        axes.set_ylabel(title, fontsize=11)
    for axes, title in zip(grid[0], columns, strict=False):
        axes.set_title(title, fontsize=11)
    handles: list[Patch | Line2D] = []
    if len(structures) > 1:
        handles += [Patch(color=palette[1 + i], label=name) for i, name in enumerate(structures)]
    if any(picture.prompts is not None for drawn in pictures for picture in drawn):
        for color, name in (("lime", "positive prompt"), ("red", "negative prompt")):
            handles.append(Line2D([], [], color=color, marker="o", markersize=4, linewidth=0, label=name))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False)


def predicted_pictures(images: Tensor, truth: Tensor, predicted: Tensor, structures: Sequence[str]) -> list[Picture]:
    """Predictions with the outline of the truth and their mean Dice.

    Args:
        images: [N,H,W].
        truth: class indices, int64 [N,H,W].
        predicted: the same.
        structures: the names of classes 1, 2, ...
    """
    dice = dice_scores(predicted, truth, 1 + len(structures)).nanmean(1)
    return [Picture(images[i], predicted[i], outline=truth[i], text=f"Dice {dice[i]:.3f}") for i in range(len(images))]


def _palette(structures: int) -> np.ndarray:
    """Colours with opacity: none for the background."""
    colors = colormaps["Set1" if structures <= 9 else "tab20"]
    return np.array([(0, 0, 0, 0), *((*colors(i % colors.N)[:3], 0.6) for i in range(structures))])


def _draw_picture(axes: Axes, picture: Picture, palette: np.ndarray) -> None:
    _draw_image(axes, picture.image)
    if picture.mask is not None:
        axes.imshow(palette[picture.mask.clamp(min=0).numpy()], interpolation="nearest")
    if picture.outline is not None:
        _draw_outlines(axes, picture.outline, len(palette) - 1)
    if picture.prompts is not None:
        _draw_prompts(axes, picture.prompts, size=4)
    if picture.box is not None:
        top, left, size = picture.box
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), size, size, fill=False, color="gold", linewidth=1.5))
    axes.set_xlabel(picture.text, fontsize=9)


def _draw_image(axes: Axes, image: Tensor) -> None:
    axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=float(image.quantile(0.995)))
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_outlines(axes: Axes, mask: Tensor, structures: int) -> None:
    for label in range(1, 1 + structures):
        structure = (mask == label).float().numpy()
        axes.contour(structure, [0.5] if structure.any() else [], colors="white", linewidths=0.7)


def _draw_prompts(axes: Axes, drawn: Tensor, size: float) -> None:
    """Positive prompts in green, negative ones in red, as opaque as they are strong; the box in blue."""
    for channel, color in zip(drawn, ("lime", "red"), strict=False):
        row, column = channel.nonzero(as_tuple=True)
        strength = channel[row, column].numpy() if len(row) else None
        axes.scatter(column.numpy(), row.numpy(), s=size**2, c=color, alpha=strength, linewidths=0)
    for box in drawn[2:].numpy():
        axes.contour(box, [0.5] if box.any() else [], colors="deepskyblue", linewidths=1.2)


def _plot_band(
    axes: Axes, x: Sequence[float], estimates: Sequence[Estimate | None], color: Any, label: str | None
) -> None:
    mean, low, high = np.array([[e.mean, e.low, e.high] for e in estimates if e is not None]).T
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


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG.

    Args:
        figure: the figure.
        path: the file.
    """
    FigureCanvasAgg(figure)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=130)

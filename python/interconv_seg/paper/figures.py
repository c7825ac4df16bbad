"""The figures of the paper, as PNG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from ..data import Group, collate
from ..evaluation import divide
from ..plots import Picture
from ..prompts import PromptKind, draw_prompts
from ..reports import ConditionSummary
from .models import Model
from .results import Results, data_name

Box = tuple[int, int, int]
CLOSE_UP = 3  # its side is the shorter side of an image divided by this


def figure1(results: Results, path: Path) -> None:
    """Close-up of the sample with the largest gain: image, truth, InterConv, baseline."""
    gains = {}
    for data, (ours, baseline) in results.best_pairs("automatic").items():
        scores, others = results.scores(ours, data), results.scores(baseline, data)
        for score, other in zip(scores, others, strict=True):
            if score.mean == score.mean:
                gains[data, score.group, score.sample] = score.mean - other.mean
    data, group_name, sample = max(gains, key=lambda key: gains[key])
    pair = results.best_pairs("automatic")[data]
    group = next(g for g in results.groups(pair[0], data) if g.name == group_name)
    found = _segmented(results, pair, group)
    i = [s.name for s in group.samples].index(sample)
    rows = found.rows(results.ensemble(pair[0]).structures)
    box = close_up_box(found.ours[i : i + 1], found.baseline[i : i + 1], found.truth[i : i + 1])
    pictures = [[row[i].close_up(box) for row in rows]]
    names = [f"image of {data_name(data)}", "truth", pair[0].name, pair[1].name]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    plots.picture_grid(figure, pictures, results.ensemble(pair[0]).structures, columns=names)
    plots.save(figure, path)


def figure4(results: Results, path: Path) -> None:
    """Improvement against set size by number of prompts, a panel for each data set and kind of prompts."""
    panels = {}
    for data, pair in results.best_pairs("interactive").items():
        for kind in results.conditions.kinds:
            panels[f"{data_name(data)}, {kind}s"] = results.compared(pair, data, kind)
    plots.improvement_panels(path, panels, plots.draw_by_set_size)


def figure5(results: Results, path: Path) -> None:
    """Segmentations of sets: with 2 scribbles of each sign on the first data set, 8 clicks on the last."""
    pairs = results.best_pairs("interactive")
    first, last = next(iter(pairs)), list(pairs)[-1]
    _draw_sets(results, path, [(first, "scribble", 2, 8), (last, "click", 8, 8)])


def figure11(results: Results, path: Path) -> None:
    """Segmentations of one set of 4 images: with 1 click of each sign, and with 8."""
    data = next(iter(results.best_pairs("interactive")))
    _draw_sets(results, path, [(data, "click", 1, 4), (data, "click", 8, 4)])


def by_scans_figure(family: str) -> Callable[[Results, Path], None]:
    """Figure 6, 9 or 10: improvement against the number of scans of a subject, a panel for each data set.

    Args:
        family: of the architecture.
    """

    def figure(results: Results, path: Path) -> None:
        panels: dict[str, Sequence[ConditionSummary]] = {}
        for data, pair in results.best_pairs("automatic", family).items():
            panels[f"{data_name(data)}: {pair[0].name}"] = results.compared(pair, data, by_scans=True)
        plots.improvement_panels(path, panels, plots.draw_by_scans)

    return figure


def figure7(results: Results, path: Path) -> None:
    """Scans of the subject with most scans, each beside a close-up of where the networks differ most."""
    pairs = results.best_pairs("automatic", "nnunet") or results.best_pairs("automatic")
    data, pair = next(iter(pairs.items()))
    group = max(results.groups(pair[0], data), key=lambda group: len(group.samples))
    found = _segmented(results, pair, group).first(4)
    box = close_up_box(found.ours, found.baseline, found.truth)
    structures = results.ensemble(pair[0]).structures
    pictures = [
        [shown for picture in row for shown in (replace(picture, box=box), picture.close_up(box))]
        for row in found.rows(structures)
    ]
    figure = Figure(figsize=(2.1 * len(pictures[0]) + 0.5, 9.6), layout="constrained")
    names = ["image", "truth", f"{pair[0].name},\nK = {len(group.samples)}", pair[1].name]
    plots.picture_grid(figure, pictures, structures, rows=names)
    plots.save(figure, path)


def figure8(results: Results, path: Path) -> None:
    """How many subjects have how many scans, in each part, a panel for each data set."""
    entries = results.trained_on()
    figure = Figure(figsize=(4.5 * len(entries) + 0.5, 3.6), layout="constrained")
    for axes, (model, data) in zip(figure.subplots(1, len(entries), squeeze=False)[0], entries, strict=True):
        parts = results.parts(model, data)
        width = 0.8 / len(parts)
        for i, (part, found) in enumerate(parts.items()):
            scans = Counter((scan.task, scan.subject) for scan in found.scans)
            subjects = Counter(scans.values())
            places = [count + width * (i - (len(parts) - 1) / 2) for count in subjects]
            axes.bar(places, list(subjects.values()), width, label=f"{part} ({len(scans)} subjects)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(data_name(data), fontsize=11)
        axes.set_xlabel("images of the subject")
        axes.set_ylabel("subjects")
        axes.legend(fontsize=8)
    plots.save(figure, path)


@dataclass(frozen=True, eq=False)
class _Segmented:
    """A set with the segmentations of two networks.

    Attributes:
        images: [K,H,W].
        truth: class indices [K,H,W].
        prompts: [K,2,H,W] or None.
        ours: class indices [K,H,W], of the InterConv network.
        baseline: the same of the baseline.
    """

    images: Tensor
    truth: Tensor
    prompts: Tensor | None
    ours: Tensor
    baseline: Tensor

    def first(self, count: int) -> _Segmented:
        prompts = None if self.prompts is None else self.prompts[:count]
        images, truth, ours, baseline = (x[:count] for x in (self.images, self.truth, self.ours, self.baseline))
        return _Segmented(images, truth, prompts, ours, baseline)

    def rows(self, structures: Sequence[str]) -> list[list[Picture]]:
        """Pictures of the images, the truth, InterConv and the baseline."""
        predicted = [
            plots.predicted_pictures(self.images, self.truth, x, structures) for x in (self.ours, self.baseline)
        ]
        images = [Picture(image) for image in self.images]
        truth = [Picture(image, mask) for image, mask in zip(self.images, self.truth, strict=True)]
        return [images, truth, *predicted]


def close_up_box(ours: Tensor, baseline: Tensor, truth: Tensor) -> Box:
    """The square in which InterConv is right and the baseline is wrong most often.

    Args:
        ours: class indices [K,H,W].
        baseline: the same.
        truth: the same.

    Returns:
        (top, left, size).
    """
    gain = ((ours == truth).float() - (baseline == truth).float()).mean(0)
    size = max(1, min(gain.shape) // CLOSE_UP)
    sums = F.avg_pool2d(gain[None], size, stride=1)[0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return top, left, size


def _segmented(
    results: Results, pair: tuple[Model, Model], group: Group, kind: PromptKind = "click", count: int = 0
) -> _Segmented:
    draw = partial(draw_prompts, positive=count, negative=count, kind=kind) if count else None
    batch = collate([group], prompts=draw)
    assert batch.masks is not None
    ours, baseline = (results.ensemble(model).probabilities(batch).argmax(1).cpu() for model in pair)
    return _Segmented(batch.images.mean(1), batch.masks, batch.prompts, ours, baseline)


def _draw_sets(results: Results, path: Path, parts: Sequence[tuple[str, PromptKind, int, int]]) -> None:
    """Sets with prompts: (data set, kind and number of prompts, number of images) of each part of the figure."""
    width = 0.8 + 1.5 * max(size for _, _, _, size in parts)
    figure = Figure(figsize=(width, 6.2 * len(parts)), layout="constrained")
    subfigures = figure.subfigures(len(parts), 1, squeeze=False)[:, 0]
    for subfigure, (data, kind, count, size) in zip(subfigures, parts, strict=True):
        pair = results.best_pairs("interactive")[data]
        group = max(results.groups(pair[0], data), key=lambda group: min(len(group.samples), size))
        found = _segmented(results, pair, divide(group, size, seed=0)[0][0], kind, count)
        assert found.prompts is not None
        images = [
            Picture(image, outline=truth, prompts=prompts)
            for image, truth, prompts in zip(found.images, found.truth, found.prompts, strict=True)
        ]
        rows = [images, *found.rows(["label"])[2:]]
        plural = "s" if count > 1 else ""
        subfigure.suptitle(f"{group.name}: {count} positive and {count} negative {kind}{plural} on each image")
        names = ["image and truth", f"{pair[0].name},\nK = {len(images)}", pair[1].name]
        plots.picture_grid(subfigure, rows, ["label"], rows=names)
    plots.save(figure, path)

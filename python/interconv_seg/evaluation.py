"""Evaluation: Dice of each sample, for set sizes and numbers of prompts (paper, section 4)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics import compute_dice
from torch import Tensor
from tqdm import tqdm

from .data import Batch, Group, collate
from .prompts import Kind, draw_prompts
from .runs import Run, same_task
from .seeding import random_of, seed_of

MOST_AT_ONCE = 64  # images that go through a network together, unless one set has more


def probabilities_of(logits: Tensor) -> Tensor:
    """Probabilities [N, C, H, W] of each class, from logits [N, C, H, W]; from [N, 1, H, W] (binary) those of
    background and label, [N, 2, H, W]. float32."""
    if logits.shape[1] > 1:
        return logits.float().softmax(1)
    label = logits.float().sigmoid()
    return torch.cat([1 - label, label], dim=1)


def dice_of(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Dice 2 |P and T| / (|P| + |T|) of each structure of each sample (MONAI's).

    A structure that is absent in the truth gives NaN, whatever is predicted, and is left out of every mean: so which
    values are compared depends on the truth alone. One that is in the truth and is not predicted gives 0.

    Args:
        predicted, truth: int64 [N, H, W] of class indices.
        classes: with background, class 0, which is no structure.

    Returns:
        float32 [N, classes - 1].
    """
    guess, mask = (F.one_hot(x, classes).movedim(-1, 1) for x in (predicted, truth))
    dice: Tensor = compute_dice(guess, mask, include_background=False)
    return dice


class Ensemble:
    """Networks trained from several seeds, which segment as one: the mean of their probabilities (paper, section 4.2).

    Raises:
        ValueError: no runs, or runs that do not go together (`same_task`).
    """

    def __init__(self, runs: Sequence[Run], device: torch.device | str = "cpu"):
        self.config = same_task(list(runs))
        self.networks, self.device = [run.network for run in runs], torch.device(device)

    @classmethod
    def open(cls, folders: Sequence[Path], device: torch.device | str = "cpu") -> Ensemble:
        """From the folders of runs; see `Run.open`."""
        return cls([Run.open(folder, device) for folder in folders], device)

    @property
    def structures(self) -> list[str]:
        """The names of classes 1, 2, ...; in interactive mode one, which each task has its own name for."""
        labels = self.config.labels
        return ["label"] if self.config.mode == "interactive" else [labels[value] for value in sorted(labels)]

    @torch.no_grad()
    def probabilities(self, batch: Batch) -> Tensor:
        """float32 [N, classes, H, W], see `probabilities_of`."""
        moved = batch.to(self.device)
        return torch.stack([probabilities_of(n(moved.inputs, moved.sets)) for n in self.networks]).mean(0)


@dataclass(frozen=True)
class Score:
    """Dice of one sample under one condition.

    Attributes:
        group, subject, sample: names. scans: images in the group.
        set_size: K of the sets it was segmented in; None: all of the group together.
        prompts: positive ones, and as many negative ones, on each image; 0 in automatic mode.
        seed: of prompts and of the sets' composition.
        dice: of each structure (`dice_of`), NaN where the truth has none of it.
    """

    group: str
    subject: str
    sample: str
    scans: int
    set_size: int | None
    prompts: int
    seed: int
    dice: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the structures that the truth has; NaN if none."""
        present = [dice for dice in self.dice if not math.isnan(dice)]
        return sum(present) / len(present) if present else math.nan


def evaluate(
    ensemble: Ensemble,
    groups: Sequence[Group],
    set_sizes: Sequence[int | None],
    prompts: Sequence[int] = (0,),
    seeds: Sequence[int] = (0,),
    kind: Kind = "mixed",
) -> list[Score]:
    """Dice of every sample of the groups, for each set size, number of prompts and seed.

    Every sample is segmented once per condition. For a seed, a group is put into a random order and cut into sets of K;
    so the sets of a larger K are made of those of a smaller one, and an image's prompts are the same for all K. What is
    left over at the end is filled up to K with images from the start, which are not counted again; a group of fewer
    than K images is one set.

    Args:
        set_sizes: each K; None: all of a group.
        prompts: each number of positive prompts, with as many negative ones; (0,) in automatic mode.
    """
    scores = []
    conditions = [(k, number, seed) for seed in seeds for number in prompts for k in set_sizes]
    with tqdm(total=len(conditions) * len(groups), desc="evaluating", unit="group", disable=None, leave=False) as bar:
        for group in groups:
            for k, number, seed in conditions:
                drawn = partial(draw_prompts, positive=number, negative=number, kind=kind) if number else None
                scores += [
                    Score(group.name, *sample, len(group.samples), k, number, seed, tuple(dice))
                    for sample, dice in _segmented(ensemble, group, k, seed, drawn)
                ]
                bar.update()
    return scores


def cut(group: Group, set_size: int | None, seed: int) -> list[tuple[Group, int]]:
    """The group's sets, and how many samples at the end of each are counted; see `evaluate`."""
    order = random_of(seed, "order", group.name).permutation(len(group.samples))
    samples = [group.samples[i] for i in order]
    k = min(set_size or len(samples), len(samples))
    sets = []
    for first in range(0, len(samples), k):
        own = samples[first : first + k]
        sets.append((replace(group, samples=(*samples[: k - len(own)], *own)), len(own)))
    return sets


def _segmented(
    ensemble: Ensemble, group: Group, set_size: int | None, seed: int, prompts: partial[Tensor] | None
) -> Iterator[tuple[tuple[str, str], list[float]]]:
    """((subject, name), Dice of each structure) of each sample."""
    classes = max(2, ensemble.config.classes)
    sets = cut(group, set_size, seed)
    at_once = max(1, MOST_AT_ONCE // len(sets[0][0].samples))
    for first in range(0, len(sets), at_once):
        chosen = sets[first : first + at_once]
        batch = collate([part for part, _ in chosen], prompts=prompts, seeds=[seed_of(seed, group.name)] * len(chosen))
        assert batch.masks is not None
        predicted = ensemble.probabilities(batch).argmax(1).cpu()
        dice = dice_of(predicted, batch.masks, classes).tolist()
        end = 0
        for part, counted in chosen:
            end += len(part.samples)
            for sample, values in zip(part.samples[-counted:], dice[end - counted : end], strict=True):
                yield (sample.subject, sample.name), values


def mean_by(scores: Sequence[Score], unit: str) -> dict[tuple[str, str], float]:
    """Mean Dice of each sample (`unit` "sample"), over seeds, or of each subject ("subject"), over its samples too.
    Samples in which no structure is left out are those whose truth has one."""
    values: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        if not math.isnan(score.mean):
            values.setdefault((score.group, getattr(score, unit)), []).append(score.mean)
    return {key: float(np.mean(found)) for key, found in values.items()}

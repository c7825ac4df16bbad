"""Evaluation: the metrics of each sample, by set size and number of prompts (section 4 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from torch import Tensor
from tqdm import tqdm

from .data import Group, Sample, collate
from .data.sets import PromptMaker
from .inference import Ensemble
from .metrics import dice_scores
from .prompts import PromptKind, draw_prompts
from .seeding import random_of, seed_of
from .stored_truth import SampleScore, StoredTruth

Unit: TypeAlias = Literal["sample", "subject", "group"]
Metric: TypeAlias = Literal["dice", "hd95", "surface_dice"]
MAX_IMAGES_PER_BATCH = 64  # in one call of a network, unless a single set has more


@dataclass(frozen=True)
class Score:
    """The metrics of one sample under one condition.

    Attributes:
        group: the name of its group.
        subject: the name of its subject.
        sample: its name.
        scans: the number of images in the group.
        set_size: K of the sets it was segmented in; None: the whole group.
        prompts: the number of positive prompts on each image, and of negative ones; 0 in automatic mode.
        seed: of the prompts and of the composition of the sets.
        dice: of each structure (`dice_scores`); NaN if the truth does not have it.
        task: the name of its task: of its group in interactive mode, else data set, modality and axis.
        hd95: of each structure (`surface_scores`); None unless it was measured.
        surface_dice: likewise.
    """

    group: str
    subject: str
    sample: str
    scans: int
    set_size: int | None
    prompts: int
    seed: int
    dice: tuple[float, ...]
    task: str = ""
    hd95: tuple[float, ...] | None = None
    surface_dice: tuple[float, ...] | None = None

    @property
    def mean(self) -> float:
        """Mean Dice over the structures that the truth has; NaN if it has none."""
        return self.mean_of("dice")

    def mean_of(self, metric: Metric) -> float:
        """The mean of a metric over the structures that the truth has; NaN if it has none.

        Args:
            metric: one that was measured.
        """
        present = [value for value in getattr(self, metric) if not math.isnan(value)]
        return sum(present) / len(present) if present else math.nan


def evaluate(
    ensemble: Ensemble,
    groups: Sequence[Group],
    set_sizes: Sequence[int | None],
    prompts: Sequence[int] = (0,),
    seeds: Sequence[int] = (0,),
    kind: PromptKind = "mixed",
    stored: StoredTruth | None = None,
) -> list[Score]:
    """The metrics of every sample for each set size, number of prompts and seed.

    Every sample is segmented once per condition. For each seed, a group is put into a random order and divided into
    sets of K (`divide`). So the sets of a larger K consist of those of a smaller one. The prompts of an image are the
    same for all K.

    Args:
        ensemble: the networks.
        groups: the labelled samples.
        set_sizes: each K; None: a whole group.
        prompts: each number of positive prompts, with the same number of negative ones; (0,) in automatic mode.
        seeds: of the order of the groups and of the prompts.
        kind: of the prompts, as in `draw_prompts`.
        stored: the masks as stored, to measure there, volume by volume and with surface metrics. None: Dice of each
            sample at the size that the networks see.

    Returns:
        A score for each sample (with `stored`: image or volume) and condition.
    """
    scores = []
    conditions = [(k, count, seed) for seed in seeds for count in prompts for k in set_sizes]
    with tqdm(total=len(conditions) * len(groups), desc="evaluating", unit="group", disable=None, leave=False) as bar:
        for group in groups:
            for k, count, seed in conditions:
                draw = partial(draw_prompts, positive=count, negative=count, kind=kind) if count else None
                for found in _sample_scores(ensemble, group, k, seed, draw, stored):
                    task = found.sample.task if group.label is None else group.name
                    names = (group.name, found.sample.subject, found.name)
                    surface = (found.hd95, found.surface_dice)
                    scores.append(Score(*names, len(group.samples), k, count, seed, found.dice, task, *surface))
                bar.update()
    return scores


def divide(group: Group, set_size: int | None, seed: int) -> list[tuple[Group, int]]:
    """Divides a group, in random order, into sets of equal size.

    Args:
        group: the group.
        set_size: K; None: the whole group. If the group has fewer samples, it is one set.
        seed: of the order.

    Returns:
        The sets, each with the number of samples at its end that count. The last set may be filled up to K with samples
        from the start of the group, which were counted in other sets.
    """
    order = random_of(seed, "order", group.name).permutation(len(group.samples))
    samples = [group.samples[i] for i in order]
    k = min(set_size or len(samples), len(samples))
    sets = []
    for first in range(0, len(samples), k):
        counted = samples[first : first + k]
        sets.append((replace(group, samples=(*samples[: k - len(counted)], *counted)), len(counted)))
    return sets


def _sample_scores(
    ensemble: Ensemble,
    group: Group,
    set_size: int | None,
    seed: int,
    prompts: PromptMaker | None,
    stored: StoredTruth | None,
) -> Iterator[SampleScore]:
    """The metrics of each sample of the group, or of each image and volume."""
    classes = max(2, ensemble.config.classes)
    predicted: dict[str, Tensor] = {}
    for samples, probabilities, masks in _predictions(ensemble, group, set_size, seed, prompts):
        if stored is None:
            dice = dice_scores(probabilities.argmax(1), masks, classes).tolist()
            for sample, values in zip(samples, dice, strict=True):
                yield SampleScore(sample, sample.name, tuple(values))
        else:
            for sample, found in zip(samples, probabilities, strict=True):
                predicted[sample.name] = stored.predicted(sample, found)
    if stored is not None:
        yield from stored.scores(group, predicted)


def _predictions(
    ensemble: Ensemble, group: Group, set_size: int | None, seed: int, prompts: PromptMaker | None
) -> Iterator[tuple[list[Sample], Tensor, Tensor]]:
    """Samples of the group, each once, with their probabilities [n,classes,H,W] and masks [n,H,W]."""
    sets = divide(group, set_size, seed)
    sets_per_batch = max(1, MAX_IMAGES_PER_BATCH // len(sets[0][0].samples))
    for first in range(0, len(sets), sets_per_batch):
        part = sets[first : first + sets_per_batch]
        batch = collate(
            [members for members, _ in part], prompts=prompts, seeds=[seed_of(seed, group.name)] * len(part)
        )
        assert batch.masks is not None
        samples: list[Sample] = []
        positions: list[int] = []
        end = 0
        for members, counted in part:
            end += len(members.samples)
            samples += members.samples[-counted:]
            positions += range(end - counted, end)
        yield samples, ensemble.probabilities(batch).cpu()[positions], batch.masks[positions]


def mean_scores(scores: Sequence[Score], unit: Unit, metric: Metric = "dice") -> dict[tuple[str, str], float]:
    """Mean Dice, or another metric, of each sample (over seeds), or of each subject or group (over seeds and samples).

    Scores without a structure in the truth are left out.

    Args:
        scores: under one condition, for any seeds.
        unit: "sample", "subject" or "group".
        metric: one that was measured.

    Returns:
        The mean for each (group, name of the sample, subject or group).
    """
    values: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        mean = score.mean_of(metric)
        if not math.isnan(mean):
            values.setdefault((score.group, getattr(score, unit)), []).append(mean)
    return {key: float(np.mean(found)) for key, found in values.items()}

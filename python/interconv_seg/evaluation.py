"""Evaluation: Dice of each sample, by set size and number of prompts (section 4 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from tqdm import tqdm

from .data import Group, Sample, collate
from .data.sets import PromptMaker
from .inference import Ensemble
from .metrics import dice_scores
from .prompts import PromptKind, draw_prompts
from .seeding import random_of, seed_of

Unit: TypeAlias = Literal["sample", "subject"]
MAX_IMAGES_PER_BATCH = 64  # in one call of a network, unless a single set has more


@dataclass(frozen=True)
class Score:
    """Dice of one sample under one condition.

    Attributes:
        group: the name of its group.
        subject: the name of its subject.
        sample: its name.
        scans: the number of images in the group.
        set_size: K of the sets it was segmented in; None: the whole group.
        prompts: the number of positive prompts on each image, and of negative ones; 0 in automatic mode.
        seed: of the prompts and of the composition of the sets.
        dice: of each structure (`dice_scores`); NaN if the truth does not have it.
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
        """The mean over the structures that the truth has; NaN if it has none."""
        present = [dice for dice in self.dice if not math.isnan(dice)]
        return sum(present) / len(present) if present else math.nan


def evaluate(
    ensemble: Ensemble,
    groups: Sequence[Group],
    set_sizes: Sequence[int | None],
    prompts: Sequence[int] = (0,),
    seeds: Sequence[int] = (0,),
    kind: PromptKind = "mixed",
) -> list[Score]:
    """Dice of every sample for each set size, number of prompts and seed.

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

    Returns:
        A score for each sample and condition.
    """
    scores = []
    conditions = [(k, count, seed) for seed in seeds for count in prompts for k in set_sizes]
    with tqdm(total=len(conditions) * len(groups), desc="evaluating", unit="group", disable=None, leave=False) as bar:
        for group in groups:
            for k, count, seed in conditions:
                draw = partial(draw_prompts, positive=count, negative=count, kind=kind) if count else None
                scores += [
                    Score(group.name, sample.subject, sample.name, len(group.samples), k, count, seed, tuple(dice))
                    for sample, dice in _sample_scores(ensemble, group, k, seed, draw)
                ]
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
    ensemble: Ensemble, group: Group, set_size: int | None, seed: int, prompts: PromptMaker | None
) -> Iterator[tuple[Sample, list[float]]]:
    """Each sample of the group with the Dice of each structure."""
    classes = max(2, ensemble.config.classes)
    sets = divide(group, set_size, seed)
    sets_per_batch = max(1, MAX_IMAGES_PER_BATCH // len(sets[0][0].samples))
    for first in range(0, len(sets), sets_per_batch):
        part = sets[first : first + sets_per_batch]
        batch = collate(
            [members for members, _ in part], prompts=prompts, seeds=[seed_of(seed, group.name)] * len(part)
        )
        assert batch.masks is not None
        predicted = ensemble.probabilities(batch).argmax(1).cpu()
        dice = dice_scores(predicted, batch.masks, classes).tolist()
        end = 0
        for members, counted in part:
            end += len(members.samples)
            yield from zip(members.samples[-counted:], dice[end - counted : end], strict=True)


def mean_dice(scores: Sequence[Score], unit: Unit) -> dict[tuple[str, str], float]:
    """Mean Dice of each sample (over seeds) or of each subject (over seeds and samples).

    Scores without a structure in the truth are left out.

    Args:
        scores: under one condition, for any seeds.
        unit: "sample" or "subject".

    Returns:
        The mean for each (group, name of the sample or subject).
    """
    values: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        if not math.isnan(score.mean):
            values.setdefault((score.group, getattr(score, unit)), []).append(score.mean)
    return {key: float(np.mean(found)) for key, found in values.items()}

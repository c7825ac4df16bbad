"""Evaluation: Dice of each sample, by set size and number of prompts (section 4 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .config import Config
from .corrections import correction_rounds
from .data import Batch, Group, Sample, collate
from .data.sets import PromptMaker
from .inference import Ensemble
from .metrics import dice_scores
from .prompts import PromptKind, draw_prompts
from .scribbles import ScribbleKind
from .seeding import random_of, seed_of

Unit: TypeAlias = Literal["sample", "subject"]
Recorded: TypeAlias = Mapping[str, Mapping[str, Tensor]]
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
        round: 1 with the prompts that `prompts` counts; then with corrections of one more prediction each.
    """

    group: str
    subject: str
    sample: str
    scans: int
    set_size: int | None
    prompts: int
    seed: int
    dice: tuple[float, ...]
    round: int = 1

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
    *,
    scribbles: ScribbleKind = "stroke",
    boxes: bool = False,
    rounds: int = 1,
    corrections: int = 1,
    recorded: Recorded | None = None,
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
        scribbles: as in `draw_prompts`.
        boxes: each image has the smallest box around the label, too. The networks must take boxes.
        rounds: predictions of each sample: after each but the last, images with prompts get corrections
            (`add_corrections`), and are segmented again.
        corrections: prompts that are added to an image in each further round.
        recorded: prompts that users drew, instead of simulated ones: name of the group -> name of the sample ->
            prompts as in `Batch.prompts`, one image each; samples that are not listed have none. `prompts` is then
            (0,).

    Returns:
        A score for each sample, condition and round.

    Raises:
        ValueError: there are boxes or several rounds, and the networks do not take them.
    """
    config = ensemble.config
    if boxes and not config.boxes:
        raise ValueError("boxes: expected none, the network was trained without (--boxes of interconv train)")
    if rounds > 1 and config.mode == "automatic":
        raise ValueError(f"rounds = {rounds}: expected 1 in automatic mode, which has no prompts to correct")
    scores = []
    conditions = [(k, count, seed) for seed in seeds for count in prompts for k in set_sizes]
    correct = partial(correction_rounds, rounds=rounds, number=corrections, kind=kind, scribbles=scribbles)
    with tqdm(total=len(conditions) * len(groups), desc="evaluating", unit="group", disable=None, leave=False) as bar:
        for group in groups:
            for k, count, seed in conditions:
                draw = prompt_maker(config, count, kind, scribbles, boxes)
                found = None if recorded is None else recorded[group.name]
                scores += [
                    Score(group.name, sample.subject, sample.name, len(group.samples), k, count, seed, dice, number)
                    for sample, dice, number in _sample_scores(ensemble, group, k, seed, draw, found, correct)
                ]
                bar.update()
    return scores


def prompt_maker(
    config: Config, count: int, kind: PromptKind = "mixed", scribbles: ScribbleKind = "stroke", boxes: bool = False
) -> PromptMaker | None:
    """Makes the simulated prompts of an evaluation; None without prompts.

    Args:
        config: of the networks.
        count: the number of positive prompts, and of negative ones.
        kind: as in `evaluate`.
        scribbles: as in `evaluate`.
        boxes: as in `evaluate`.
    """
    box_probability = float(boxes) if config.boxes else None
    draw = partial(draw_prompts, kind=kind, scribbles=scribbles, boxes=box_probability, jitter=0)
    return partial(draw, positive=count, negative=count) if count else None


def with_recorded(batch: Batch, recorded: Mapping[str, Tensor], config: Config) -> Batch:
    """The batch with prompts that users drew.

    Args:
        batch: of one group.
        recorded: the prompts of each sample, by name; the others have none.
        config: of the networks.
    """
    none = torch.zeros(config.prompt_channels, *batch.images.shape[2:])
    return replace(batch, prompts=torch.stack([recorded.get(name, none) for name in batch.names]))


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
    draw: PromptMaker | None,
    recorded: Mapping[str, Tensor] | None,
    correct: Callable[..., Iterator[Tensor]],
) -> Iterator[tuple[Sample, tuple[float, ...], int]]:
    """Each sample of the group with the Dice of each structure and the round."""
    config = ensemble.config

    def predict(batch: Batch) -> tuple[Tensor, Tensor]:
        predicted = ensemble.probabilities(batch).argmax(1).cpu()
        return predicted, predicted > 0

    sets = divide(group, set_size, seed)
    sets_per_batch = max(1, MAX_IMAGES_PER_BATCH // len(sets[0][0].samples))
    for first in range(0, len(sets), sets_per_batch):
        part = sets[first : first + sets_per_batch]
        batch = collate([members for members, _ in part], prompts=draw, seeds=[seed_of(seed, group.name)] * len(part))
        masks = batch.masks
        assert masks is not None
        if recorded is not None:
            batch = with_recorded(batch, recorded, config)
        seeds = [seed_of(seed, group.name, name) for name in batch.names]
        for number, predicted in enumerate(correct(batch, predict, seeds=seeds), start=1):
            dice = dice_scores(predicted, masks, max(2, config.classes)).tolist()
            end = 0
            for members, counted in part:
                end += len(members.samples)
                for sample, values in zip(members.samples[-counted:], dice[end - counted : end], strict=True):
                    yield sample, tuple(values), number


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

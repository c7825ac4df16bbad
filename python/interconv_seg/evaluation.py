"""Evaluation: the metrics of each sample, by set size and number of prompts (section 4 of the paper)."""

from __future__ import annotations

import math
from collections import defaultdict
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
from .stored_truth import SampleScore, StoredTruth

Unit: TypeAlias = Literal["sample", "subject", "group"]
Metric: TypeAlias = Literal["dice", "hd95", "surface_dice"]
Recorded: TypeAlias = Mapping[str, Mapping[str, Tensor]]
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
    task: str = ""
    hd95: tuple[float, ...] | None = None
    surface_dice: tuple[float, ...] | None = None
    round: int = 1

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
    *,
    scribbles: ScribbleKind = "stroke",
    boxes: bool = False,
    rounds: int = 1,
    corrections: int = 1,
    recorded: Recorded | None = None,
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
        scribbles: as in `draw_prompts`.
        boxes: each image has the smallest box around the label, too. The networks must take boxes.
        rounds: predictions of each sample: after each but the last, images with prompts get corrections
            (`add_corrections`), and are segmented again.
        corrections: prompts that are added to an image in each further round.
        recorded: prompts that users drew, instead of simulated ones: name of the group -> name of the sample ->
            prompts as in `Batch.prompts`, one image each; samples that are not listed have none. `prompts` is then
            (0,).

        stored: the masks as stored, to measure there, volume by volume and with surface metrics. None: Dice of each
            sample at the size that the networks see.

    Returns:
        A score for each sample (with `stored`: image or volume), condition and round.

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
                drawn = None if recorded is None else recorded[group.name]
                for found, number in _sample_scores(ensemble, group, k, seed, draw, drawn, correct, stored):
                    task = found.sample.task if group.label is None else group.name
                    names = (group.name, found.sample.subject, found.name)
                    surface = (found.hd95, found.surface_dice)
                    scores.append(Score(*names, len(group.samples), k, count, seed, found.dice, task, *surface, number))
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
    stored: StoredTruth | None,
) -> Iterator[tuple[SampleScore, int]]:
    """The metrics of each sample of the group, or of each image and volume, and the round."""
    classes = max(2, ensemble.config.classes)
    volumes: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)  # by round
    for number, samples, probabilities, masks in _predictions(ensemble, group, set_size, seed, draw, recorded, correct):
        if stored is None:
            dice = dice_scores(probabilities.argmax(1), masks, classes).tolist()
            for sample, values in zip(samples, dice, strict=True):
                yield SampleScore(sample, sample.name, tuple(values)), number
        else:
            for sample, found in zip(samples, probabilities, strict=True):
                volumes[number][sample.name] = stored.predicted(sample, found)
    for number, predicted in volumes.items():
        assert stored is not None
        yield from ((score, number) for score in stored.scores(group, predicted))


def _predictions(
    ensemble: Ensemble,
    group: Group,
    set_size: int | None,
    seed: int,
    draw: PromptMaker | None,
    recorded: Mapping[str, Tensor] | None,
    correct: Callable[..., Iterator[Tensor]],
) -> Iterator[tuple[int, list[Sample], Tensor, Tensor]]:
    """(round, samples, their probabilities [n,classes,H,W] and masks [n,H,W]): each sample once in each round."""

    def predict(batch: Batch) -> tuple[Tensor, Tensor]:
        probabilities = ensemble.probabilities(batch).cpu()
        return probabilities, probabilities.argmax(1) > 0

    sets = divide(group, set_size, seed)
    sets_per_batch = max(1, MAX_IMAGES_PER_BATCH // len(sets[0][0].samples))
    for first in range(0, len(sets), sets_per_batch):
        part = sets[first : first + sets_per_batch]
        batch = collate([members for members, _ in part], prompts=draw, seeds=[seed_of(seed, group.name)] * len(part))
        masks = batch.masks
        assert masks is not None
        if recorded is not None:
            batch = with_recorded(batch, recorded, ensemble.config)
        samples: list[Sample] = []
        positions: list[int] = []
        end = 0
        for members, counted in part:
            end += len(members.samples)
            samples += members.samples[-counted:]
            positions += range(end - counted, end)
        seeds = [seed_of(seed, group.name, name) for name in batch.names]
        for number, probabilities in enumerate(correct(batch, predict, seeds=seeds), start=1):
            yield number, samples, probabilities[positions], masks[positions]


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

"""From data on disk to the sets that a config trains and is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from .data import (
    Augmentation,
    Batch,
    Collection,
    DataError,
    Group,
    Sample,
    SetBatches,
    by_subject,
    by_task,
    collate,
    geometry,
    intensity,
    read,
)
from .prompts import draw_prompts
from .runs import Config
from .seeding import random_of, seed_of

Part = Literal["train", "validation", "test"]
LEAST = 8  # images of a task in evaluation (paper, section 4.1)


def split(samples: Sequence[Sample], part: Part) -> list[Sample]:
    """The samples of 60 %, 20 % and 20 % of the subjects (paper, appendix), drawn once and for all by their names.

    Raises:
        DataError: fewer than three subjects.
    """
    subjects = sorted({sample.subject for sample in samples})
    count = len(subjects)
    if count < 3:
        raise DataError(f"{count} subjects ({', '.join(subjects)}), expected at least 3 to split (or data of its own)")
    fifth = max(1, round(count / 5))
    order = [subjects[i] for i in random_of("split", *subjects).permutation(count)]
    bounds = {"test": (0, fifth), "validation": (fifth, 2 * fifth), "train": (2 * fifth, count)}[part]
    chosen = set(order[slice(*bounds)])
    return [sample for sample in samples if sample.subject in chosen]


def labels_of(paths: Sequence[str], axis: int) -> dict[int, str]:
    """The labels that all data at `paths` have in common.

    Raises:
        DataError: there are none, or they differ.
    """
    labels: dict[int, str] = {}
    for path in paths:
        found = dict(read(path, axis).labels)
        if not found or (labels and found != labels):
            raise DataError(f"{path}: labels {found or 'none'}, expected {labels or 'masks that hold some'}")
        labels = found
    return labels


def load_groups(config: Config, paths: Sequence[str], part: Part | None = None, least: int = LEAST) -> list[Group]:
    """The groups that sets are drawn from: tasks in interactive mode, subjects in automatic mode.

    Args:
        paths: of the data sets. part: of their subjects (`split`); None: all.
        least: images that a task must have (interactive mode).

    Raises:
        DataError: data that cannot be used, two data sets of one name, values in masks that are none of the config's
            labels. ValueError: no group is left.
    """
    groups: list[Group] = []
    for path in paths:
        collection = read(path, config.axis)
        samples = collection.load(config.size, config.channels)
        if part is not None:
            samples = split(samples, part)
        if config.mode == "interactive":
            groups += by_task(samples, collection.labels, least)
        else:
            groups += by_subject(to_classes(samples, config, collection))
    twins = len(groups) - len({group.name for group in groups})
    if twins:
        raise DataError(
            f"{', '.join(paths)}: {twins} groups have another's name, expected data sets of different names"
        )
    if not groups:
        raise ValueError(f"{', '.join(paths)}: no task has {least} images with its label, expected at least one")
    return groups


def to_classes(samples: Sequence[Sample], config: Config, collection: Collection) -> list[Sample]:
    """The samples with class indices 0, 1, 2, ... in place of the values that are the config's labels.

    Raises:
        DataError: a mask holds another value, or is missing.
    """
    values = torch.tensor([0, *sorted(config.labels)])
    done = []
    for sample in samples:
        if sample.mask is None:
            raise DataError(f"{collection.name}/{sample.name}: no mask, expected one")
        classes = torch.searchsorted(values, sample.mask.long()).clamp(max=len(values) - 1)
        wrong = values[classes] != sample.mask
        if wrong.any():
            raise DataError(
                f"{collection.name}/{sample.name}: the mask holds {sample.mask[wrong][0]}, expected"
                f" {', '.join(map(str, values.tolist()))}, the labels of the run"
            )
        done.append(replace(sample, mask=classes.to(sample.mask.dtype)))
    return done


def training_batches(config: Config, groups: Sequence[Group]) -> SetBatches:
    """Batch `step` of the training is `training_batches(...)[step]`.

    The scans of a subject are aligned with each other, so in automatic mode geometry belongs to the set; the images of
    a task are not.
    """
    transform = None
    if config.augment:
        aligned = config.mode == "automatic"
        transform = Augmentation(geometry() if aligned else [], intensity() if aligned else geometry() + intensity())
    prompts = draw_prompts if config.mode == "interactive" else None
    return SetBatches(groups, config.sets, config.set_sizes, transform, prompts, seed_of(config.seed, "training"))


def validation_batches(config: Config, groups: Sequence[Group]) -> list[Batch]:
    """The same for every validation: each image once, in sets of the most images that training has together, without
    augmentation; prompts (interactive mode) as in training, drawn once."""
    prompts = draw_prompts if config.mode == "interactive" else None
    parts = [
        part
        for group in groups
        for part in (group.parts(config.set_sizes[1]) if config.set_sizes is not None else [group])
    ]
    return [collate(parts[first : first + config.sets], prompts=prompts) for first in range(0, len(parts), config.sets)]

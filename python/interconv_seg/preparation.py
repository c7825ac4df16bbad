"""From data on disk to the sets that a run is trained and evaluated on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from interconv_kernels._files import write_text

from .checkpoints import digest
from .config import Config
from .data import (
    AUGMENTATIONS,
    Batch,
    Collection,
    DataError,
    Group,
    Part,
    Sample,
    SetBatches,
    Split,
    TensorStore,
    collate,
    group_samples,
    prompt_files,
    read,
    read_prompts,
    select_slices,
)
from .data.augmentation import in_turn
from .data.files import IGNORED
from .data.nifti import Axis
from .data.prompt_files import resize_prompts
from .data.set_augmentation import SET_AUGMENTATIONS
from .data.sets import PromptMaker, Transform
from .data.synthetic import PREFIX, is_synthetic
from .prompts import draw_prompts
from .seeding import random_of, seed_of

FEW_POSITIVE, FEW_NEGATIVE = (1, 2), (0, 2)  # prompts of an image in a batch with few
MIN_TASK_IMAGES = 8  # images of a task in evaluation (section 4.1)


def labels_of(paths: Sequence[str], axis: Axis = "axial") -> dict[int, str]:
    """The labels of data sets, which must be the same in all.

    Args:
        paths: of the data sets, as in `data.read`.
        axis: as in `data.read`.

    Returns:
        The name of each class index, without the background.

    Raises:
        DataError: a data set has no labels, or they differ.
    """
    labels: dict[int, str] = {}
    for path in paths:
        found = dict(read(path, axis).labels)
        if not found or (labels and found != labels):
            raise DataError(f"{path}: labels {found or 'none'}, expected {labels or 'masks with labels'}")
        labels = found
    return labels


def read_data(config: Config, paths: Sequence[str]) -> list[Collection]:
    """Reads which images there are, as a run does.

    Args:
        config: says how to read them.
        paths: of the data sets, as in `data.read`.

    Raises:
        DataError: as in `data.read` and `data.select_slices`.
    """
    if config.mode == "automatic" and any(map(is_synthetic, paths)):
        raise DataError(f"{PREFIX}...: each task has labels of its own, expected interactive mode")
    return [
        read(path) if is_synthetic(path) else select_slices(read(path, config.axis, config.group_regex), config.slices)
        for path in paths
    ]


def check_disjoint(training: Sequence[Collection], validation: Sequence[Collection]) -> None:
    """Checks that no image is both for training and for validation.

    Args:
        training: the data sets to train on.
        validation: those to validate on.

    Raises:
        DataError: an image file is, also if its path leads over a link.
    """
    files = [
        {file.resolve() for collection in collections for scan in collection.scans for file in scan.files}
        for collections in (training, validation)
    ]
    if common := sorted(files[0] & files[1]):
        raise DataError(
            f"{common[0]}: is among the data for training and for validation ({len(common)} files are), expected"
            " different images"
        )


def load_groups(
    config: Config,
    paths: Sequence[str],
    part: Part | None = None,
    min_images: int = MIN_TASK_IMAGES,
    split: Split | None = None,
    store: TensorStore | None = None,
) -> list[Group]:
    """Reads and loads data sets: `groups_of` of `read_data`.

    Args:
        config: as there.
        paths: of the data sets, as in `data.read`.
        part: as in `groups_of`.
        min_images: as in `groups_of`.
        split: as in `groups_of`.
        store: as in `groups_of`.

    Raises:
        DataError: as there.
        ValueError: there is no group.
    """
    return groups_of(config, read_data(config, paths), part, min_images, split, store)


def groups_of(
    config: Config,
    collections: Sequence[Collection],
    part: Part | None = None,
    min_images: int = MIN_TASK_IMAGES,
    split: Split | None = None,
    store: TensorStore | None = None,
) -> list[Group]:
    """Loads data sets and groups their samples by the rule of a run, in interactive mode for each label on its own.

    Args:
        config: of the run. Class indices follow its labels.
        collections: the data sets.
        part: of their subjects; None: all.
        min_images: groups with fewer images are left out (interactive mode).
        split: the subjects of each part; None, or for a data set that it does not have: `Split.of`.
        store: keeps the images and masks. Default: a new one.

    Raises:
        DataError: data that cannot be used, two data sets of the same name, or masks with values that are not among the
            labels of `config`.
        ValueError: there is no group.
    """
    store = TensorStore() if store is None else store
    groups: list[Group] = []
    for collection in collections:
        if part is not None:
            known = split is not None and collection.name in split.parts
            collection = (split if split is not None and known else Split.of([collection])).select(collection, part)
        read = collection.samples(config.size, config.channels)
        if config.mode == "interactive":
            samples = list(read) if collection.in_memory else [store.keep_sample(sample) for sample in read]
            groups += group_samples(samples, config.rule, collection.labels, min_images, config.one_per_subject)
        else:
            samples = [store.keep_sample(sample) for sample in to_classes(read, config, collection)]
            groups += [group for group in group_samples(samples, config.rule) if _is_labelled(group)]
    names = ", ".join(collection.name for collection in collections)
    repeated = len(groups) - len({group.name for group in groups})
    if repeated:
        raise DataError(f"{names}: {repeated} groups have the name of another, expected unique names")
    if not groups:
        raise ValueError(f"{names}: no task has {min_images} images with its label, expected at least one")
    return groups


def recorded_prompts(
    config: Config, collections: Sequence[Collection], groups: Sequence[Group], folder: Path
) -> tuple[list[Group], dict[str, dict[str, Tensor]]]:
    """Reads the prompts that users drew for labelled images, to evaluate on them.

    Args:
        config: of a run in interactive mode.
        collections: the data sets.
        groups: of them, of one label each.
        folder: as in `read_prompts`. If a data set has several labels, it holds a folder for each, named as the label.

    Returns:
        The groups with prompts; and for each, by name, the prompts of its samples, by name, at the size of the images
        of the run.

    Raises:
        DataError: as in `read_prompts`, two images have one file, or no group has prompts.
    """
    recorded: dict[str, dict[str, Tensor]] = {}
    cases = [scan.name for collection in collections for scan in collection.scans]
    if repeated := sorted({case for case in cases if cases.count(case) > 1}):
        raise DataError(f"{folder}: the prompts of {repeated[0]} may be of two data sets, expected one at a time")
    for collection in collections:
        for value, label in collection.labels.items():
            place = folder / label if len(collection.labels) > 1 else folder
            if not place.is_dir():
                continue
            prompt_files(place, collection.scans)  # refuses files that are named otherwise
            found = {scan.name: read_prompts(place, scan, config.boxes > 0) for scan in collection.scans}
            for group in groups:
                sizes = {sample.name: (sample.image.shape[1], sample.image.shape[2]) for sample in group.samples}
                if group.label == value and sizes.keys() & found.keys():
                    recorded[group.name] = {
                        name: resize_prompts(drawn, sizes[name])
                        for name, drawn in found.items()
                        if drawn is not None and name in sizes
                    }
    recorded = {name: drawn for name, drawn in recorded.items() if drawn}
    if not recorded:
        expected = ", ".join(sorted({label for c in collections for label in c.labels.values()}))
        raise DataError(f"{folder}: no prompts for these images, expected files, or folders of them named {expected}")
    return [group for group in groups if group.name in recorded], recorded


def check_unchanged(folder: Path, groups: Sequence[Group]) -> None:
    """Checks that the data of a run are those that it began with, or notes them in data.json at its beginning.

    Synthetic tasks are not noted: the config says all about them.

    Args:
        folder: of the run.
        groups: all that were loaded.

    Raises:
        DataError: images were added, removed or changed.
    """
    found = {
        f"{g.name}/{s.name}": digest([s.image, s.mask])[:16]
        for g in groups
        if not is_synthetic(g.name)
        for s in g.samples
    }
    file = folder / "data.json"
    if not file.exists():
        write_text(file, json.dumps(found, indent=0) + "\n")
        return
    try:
        known: dict[str, str] = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: cannot be used ({error})") from error
    changed = {
        "new": sorted(found.keys() - known.keys()),
        "missing": sorted(known.keys() - found.keys()),
        "changed": sorted(name for name in found.keys() & known.keys() if found[name] != known[name]),
    }
    if any(changed.values()):
        parts = [f"{len(names)} {what}, such as {names[0]}" for what, names in changed.items() if names]
        raise DataError(
            f"{folder}: its data are not those it began with ({'; '.join(parts)}), expected the same (--fine-tune"
            " starts a new run from its weights)"
        )


def to_classes(samples: Iterable[Sample], config: Config, collection: Collection) -> Iterator[Sample]:
    """Replaces the values in masks, which are the labels of `config`, by class indices 0, 1, 2, ...

    A sample without a mask gets one that is IGNORED: it takes part in its set and is not scored.

    Args:
        samples: some with masks.
        config: its labels in ascending order are the classes.
        collection: of the samples, for messages.

    Yields:
        The samples.

    Raises:
        DataError: a mask holds another value, or no sample has a mask.
    """
    values = torch.tensor([IGNORED, 0, *sorted(config.labels)])
    has_mask = False
    for sample in samples:
        has_mask |= sample.mask is not None
        mask = torch.full(sample.image.shape[1:], IGNORED) if sample.mask is None else sample.mask
        found = torch.searchsorted(values, mask.long()).clamp(max=len(values) - 1)
        wrong = values[found] != mask
        if wrong.any():
            raise DataError(
                f"{collection.name}/{sample.name}: the mask holds {mask[wrong][0]}, expected"
                f" {', '.join(map(str, values[1:].tolist()))}, the labels of the run"
            )
        yield replace(sample, mask=(found - 1).to(torch.int16))
    if not has_mask:
        raise DataError(f"{collection.name}: no image has a mask, expected at least one")


def _is_labelled(group: Group) -> bool:
    """Whether the class of any pixel is known."""
    return any(sample.mask is not None and bool((sample.mask != IGNORED).any()) for sample in group.samples)


def prompts_of(config: Config) -> PromptMaker | None:
    """Makes the prompts of a training; None in automatic mode.

    Args:
        config: of the run.
    """
    if config.mode == "automatic":
        return None
    return partial(draw_prompts, kind=config.kind, scribbles=config.scribbles, boxes=config.boxes or None)


def training_batches(config: Config, groups: Sequence[Group]) -> SetBatches:
    """The batches of a training: `training_batches(config, groups)[step]`.

    The scans of a subject are aligned with each other, so in automatic mode the random geometry is the same for a whole
    set. The images of a task are not aligned.

    Args:
        config: of the run.
        groups: to sample sets from.
    """
    transforms: list[Transform] = []
    of_set = replace(AUGMENTATIONS[config.set_augmentation], shared_geometry=True, shared_intensities=True)
    if of_set.changes_anything:
        transforms.append(of_set)
    if config.augmentation in SET_AUGMENTATIONS:
        transforms.append(SET_AUGMENTATIONS[config.augmentation])
    elif config.augmentation != "none":
        transforms.append(replace(AUGMENTATIONS[config.augmentation], shared_geometry=config.mode == "automatic"))
    return SetBatches(
        groups,
        config.sets_per_batch,
        config.set_sizes,
        partial(in_turn, transforms) if transforms else None,
        partial(_training_prompts, config) if config.mode == "interactive" else None,
        seed_of(config.seed, "training"),
        config.prompted == "some",
        config.sampling,
        config.weights,
        config.images_per_batch,
    )


def _training_prompts(config: Config, masks: Tensor, seeds: Sequence[int]) -> Tensor:
    draw = partial(draw_prompts, kind=config.kind, scribbles=config.scribbles, boxes=config.boxes or None)
    if random_of("few prompts", seeds[0]).random() < config.few_prompts:
        return draw(masks, seeds, FEW_POSITIVE, FEW_NEGATIVE)
    return draw(masks, seeds)


class _ValidationBatches(Sequence[Batch]):
    """As `validation_batches` says. A batch is packed when it is used."""

    def __init__(self, config: Config, groups: Sequence[Group]):
        self._draw = prompts_of(config)
        self._some = config.prompted == "some"
        sets = list(groups)
        if config.set_sizes is not None:
            sets = [part for group in groups for part in group.parts(config.set_sizes[1])]
        starts = range(0, len(sets), config.sets_per_batch)
        self._parts = [sets[start : start + config.sets_per_batch] for start in starts]
        self._prompts: dict[int, Tensor] = {}  # sparse: most pixels have none

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        part = self._parts[index]
        if self._draw is None:
            return collate(part)
        if index in self._prompts:
            return replace(collate(part), prompts=self._prompts[index].to_dense())
        batch = collate(part, prompts=self._draw, prompt_some=self._some)
        assert batch.prompts is not None
        self._prompts[index] = batch.prompts.to_sparse()
        return batch


def validation_batches(config: Config, groups: Sequence[Group]) -> Sequence[Batch]:
    """The batches of every validation: each image once, in sets of the largest size of training.

    There is no augmentation. In interactive mode the prompts are sampled once, with the distribution of training.

    Args:
        config: of the run.
        groups: of the validation data.
    """
    return _ValidationBatches(config, groups)

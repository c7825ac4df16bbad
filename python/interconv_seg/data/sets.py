"""Sets: which samples may be together, which are drawn for a step, and the packed batch they become."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

import interconv_kernels as ik

from ..seeding import random_of, seed_of
from .files import DataError
from .scans import Sample

# images [K, C, H, W], masks [K, H, W] or None, seed -> both, transformed; called for one set at a time
SetTransform = Callable[[Tensor, "Tensor | None", int], "tuple[Tensor, Tensor | None]"]
# masks bool [N, H, W], a seed for each -> prompts [N, 2, H, W]
PromptMaker = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True, eq=False)
class Group:
    """Samples that a set is drawn from: the scans of one subject, or the images of one task.

    Attributes:
        name: unique among groups.
        samples: at least one.
        label: the class that the task is about: masks become binary, 1 where it is. None: masks stay as they are.
    """

    name: str
    samples: tuple[Sample, ...]
    label: int | None = None

    def parts(self, most: int) -> list[Group]:
        """The group as sets of `most` consecutive samples, the last with what is left; same name and label."""
        starts = range(0, len(self.samples), most)
        return [replace(self, samples=self.samples[start : start + most]) for start in starts]


def by_subject(samples: Iterable[Sample]) -> list[Group]:
    """One group for each subject of each task, with all its scans (paper, section 4.2)."""
    return [Group("/".join(name), scans) for name, scans in _grouped(samples, lambda s: (s.task, s.subject))]


def by_task(
    samples: Iterable[Sample], labels: Mapping[int, str], least: int = 8, one_per_subject: bool = False
) -> list[Group]:
    """One group for each task, that is dataset x modality x axis x label, each label on its own (paper, section 4.1).

    It holds the samples whose mask has the label somewhere; tasks with fewer than `least` of them are left out, as in
    the paper's evaluation. With `one_per_subject` only that sample of each subject is kept where the label's area is
    largest (the paper's choice for the slices of a volume, appendix).
    """
    groups = []
    for (task,), scans in _grouped(samples, lambda s: (s.task,)):
        for label, name in labels.items():
            areas = {s: int((s.mask == label).sum()) for s in scans if s.mask is not None}
            labelled = [s for s, area in areas.items() if area > 0]
            if one_per_subject:
                subjects = _grouped(labelled, lambda s: (s.subject,))
                labelled = [max(slices, key=areas.__getitem__) for _, slices in subjects]
            if len(labelled) >= max(least, 1):
                groups.append(Group(f"{task}/{name}", tuple(labelled), label))
    return groups


@dataclass(frozen=True, eq=False)
class Batch:
    """Sets side by side, packed.

    Attributes:
        images: float32 [N, C, H, W] in [0, 1].
        masks: int64 [N, H, W] of class indices, or None.
        prompts: float32 [N, 2, H, W], see `draw_prompts`, or None.
        sets: which samples belong together.
        names: of the N samples. groups: of the B sets.
    """

    images: Tensor
    masks: Tensor | None
    prompts: Tensor | None
    sets: ik.Sets
    names: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def inputs(self) -> Tensor:
        """What a network takes: the images, with the prompts as two further channels if there are any."""
        return self.images if self.prompts is None else torch.cat([self.images, self.prompts], dim=1)

    def split(self, parts: int) -> list[Batch]:
        """The batch as at most `parts` smaller ones of consecutive whole sets, about as many sets in each."""
        lengths = self.sets.lengths
        per_part = -(-len(lengths) // parts)
        done = []
        for first in range(0, len(lengths), per_part):
            own = lengths[first : first + per_part]
            start = sum(lengths[:first])
            samples = slice(start, start + sum(own))
            done.append(
                Batch(
                    self.images[samples],
                    None if self.masks is None else self.masks[samples],
                    None if self.prompts is None else self.prompts[samples],
                    ik.Sets.from_lengths(own, self.images.device),
                    self.names[samples],
                    self.groups[first : first + per_part],
                )
            )
        return done

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        images, masks, prompts = (
            None if tensor is None else tensor.to(device, non_blocking=non_blocking)
            for tensor in (self.images, self.masks, self.prompts)
        )
        assert images is not None
        return replace(self, images=images, masks=masks, prompts=prompts, sets=self.sets.to(device, non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        images, masks, prompts = (
            None if tensor is None else tensor.pin_memory() for tensor in (self.images, self.masks, self.prompts)
        )
        assert images is not None
        return replace(self, images=images, masks=masks, prompts=prompts)


def collate(
    groups: Sequence[Group],
    transform: SetTransform | None = None,
    prompts: PromptMaker | None = None,
    seeds: Sequence[int] | None = None,
) -> Batch:
    """A batch whose sets are whole groups, of any sizes.

    Args:
        groups: at least one. All samples have images of one shape (`Scan.load` resizes); all have masks, or none has.
        transform: applied to each set.
        prompts: makes prompts for what the masks hold above 0, such as `draw_prompts`.
        seeds: one for each set, for `transform` and `prompts`. A sample's prompts depend on its set's seed and its own
            name alone: neither on its place nor on the rest of its set. Default: one made of the group's name.

    Raises:
        DataError: shapes differ, some masks are missing, or prompts are wanted and there are none; with names.
    """
    if seeds is None:
        seeds = [seed_of(group.name) for group in groups]
    samples = [sample for group in groups for sample in group.samples]
    _check(samples, masks_needed=prompts is not None)
    images, masks = [], []
    for group, seed in zip(groups, seeds, strict=True):
        image = torch.stack([sample.image for sample in group.samples])
        mask = _masks(group)
        if transform is not None:
            image, mask = transform(image, mask, seed)
        images.append(image)
        masks.append(mask)
    packed = torch.cat([mask.long() for mask in masks if mask is not None]) if masks[0] is not None else None
    drawn = None
    if prompts is not None and packed is not None:
        own = [seed_of(seed, s.name) for group, seed in zip(groups, seeds, strict=True) for s in group.samples]
        drawn = prompts(packed > 0, own)
    return Batch(
        torch.cat(images),
        packed,
        drawn,
        ik.Sets.from_lengths([len(group.samples) for group in groups]),
        tuple(sample.name for sample in samples),
        tuple(group.name for group in groups),
    )


class SetBatches(Dataset[Batch]):
    """Random batches without end: batch `step` is a pure function of (seed, step), so a resumed run goes on with the
    bits it would have had. With workers:

        DataLoader(batches, batch_size=None, sampler=range(first_step, last_step), num_workers=4)

    Args:
        groups: drawn from evenly and independently, whatever their sizes.
        sets: B, the sets in a batch (the paper has 8).
        sizes: (least, most): one K is drawn evenly from it for a batch (paper, section 4.1: 1 to 8), and each set is K
            different samples of its group, or all where it has fewer. None: a set is the whole group, in random order
            (section 4.2: all scans of a subject).
        transform, prompts: see `collate`.
        seed: of everything that is random here.

    Raises:
        ValueError: no groups, or sizes that are none.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        sets: int = 8,
        sizes: tuple[int, int] | None = (1, 8),
        transform: SetTransform | None = None,
        prompts: PromptMaker | None = None,
        seed: int = 0,
    ):
        if not groups:
            raise ValueError("no groups to draw sets from (tasks may all have had too few images)")
        if sets < 1:
            raise ValueError(f"sets = {sets}: expected at least 1")
        if sizes is not None and not 1 <= sizes[0] <= sizes[1]:
            raise ValueError(f"sizes = {sizes}: expected (least, most) with 1 <= least <= most")
        self.groups, self.sets, self.sizes = tuple(groups), sets, sizes
        self.transform, self.prompts, self.seed = transform, prompts, seed

    def __getitem__(self, step: int) -> Batch:
        random = random_of(self.seed, "batch", step)
        size = None if self.sizes is None else int(random.integers(self.sizes[0], self.sizes[1] + 1))
        drawn = []
        for _ in range(self.sets):
            group = self.groups[random.integers(len(self.groups))]
            order = random.permutation(len(group.samples))[:size]
            drawn.append(replace(group, samples=tuple(group.samples[i] for i in order)))
        seeds = [seed_of(self.seed, "set", step, b) for b in range(self.sets)]
        return collate(drawn, self.transform, self.prompts, seeds)


def _grouped(
    samples: Iterable[Sample], key: Callable[[Sample], tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], tuple[Sample, ...]]]:
    """(key, samples) in the order of first appearance."""
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    for name, members in groups.items():
        yield name, tuple(members)


def _masks(group: Group) -> Tensor | None:
    masks = [sample.mask for sample in group.samples if sample.mask is not None]
    if not masks:
        return None
    stacked = torch.stack(masks)
    return stacked if group.label is None else (stacked == group.label).to(stacked.dtype)


def _check(samples: Sequence[Sample], masks_needed: bool) -> None:
    if not samples:
        raise ValueError("no samples: expected at least one set with one")
    first = samples[0]
    for sample in samples:
        if sample.image.shape != first.image.shape:
            raise DataError(
                f"{sample.name}: image of shape {tuple(sample.image.shape)}, expected {tuple(first.image.shape)} as"
                f" {first.name} in the same batch (give a size to load them with)"
            )
        if (sample.mask is None) != (first.mask is None) or (masks_needed and sample.mask is None):
            raise DataError(f"{(sample if sample.mask is None else first).name}: no mask, expected one")

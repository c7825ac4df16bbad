"""Sets: which samples may form a set, the sets that are sampled for a step, and the packed batch of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import interconv_kernels as ik

from ..seeding import random_of, seed_of
from .errors import DataError
from .files import IGNORED
from .sampling import Sampling, group_probabilities
from .scans import Sample

SetRule: TypeAlias = Literal["subject", "task", "all"]
# (images [N,C,H,W], masks [N,H,W] or None, samples of each set, seed of each set) -> (images, masks)
Transform: TypeAlias = Callable[[Tensor, Tensor | None, Sequence[int], Sequence[int]], tuple[Tensor, Tensor | None]]
# (masks bool [N,H,W], one seed per mask) -> prompts [N,2,H,W]
PromptMaker: TypeAlias = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True, eq=False)
class Group:
    """Samples that sets are drawn from: the scans of one subject, or the images of one task.

    Attributes:
        name: unique among groups.
        samples: at least one.
        label: the class of the task: masks become binary, 1 where the class is. None: masks stay as they are.
    """

    name: str
    samples: tuple[Sample, ...]
    label: int | None = None

    def parts(self, max_samples: int) -> list[Group]:
        """Divides the group into parts of consecutive samples, with the same name and label.

        Args:
            max_samples: the samples in each part; the last part may have fewer.
        """
        starts = range(0, len(self.samples), max_samples)
        return [replace(self, samples=self.samples[start : start + max_samples]) for start in starts]

    def masks(self) -> Tensor | None:
        """The masks of the samples, int16 [K,H,W], binary if the group has a label; None if no sample has a mask."""
        masks = [sample.mask for sample in self.samples if sample.mask is not None]
        if not masks:
            return None
        stacked = torch.stack(masks)
        if self.label is None:
            return stacked
        return (stacked == self.label).to(stacked.dtype).masked_fill(stacked == IGNORED, IGNORED)


def group_samples(
    samples: Iterable[Sample],
    rule: SetRule,
    labels: Mapping[int, str] | None = None,
    min_images: int = 1,
    one_per_subject: bool = False,
) -> list[Group]:
    """Groups samples that may form a set.

    Args:
        samples: of any tasks.
        rule: "subject", the samples of each subject of each task (section 4.2: all scans of a subject); "task", those
            of each data set, modality and axis (section 4.1); "all", those of each data set.
        labels: the name of each class index, without the background: a binary group for each label (section 4.1), of
            the samples whose masks contain it. None: groups of all classes.
        min_images: groups with fewer samples are left out (8 in the paper's evaluation of tasks).
        one_per_subject: with labels, keep only one sample of each subject, that with the largest area of the label (the
            paper's choice among the slices of a volume, appendix).
    """
    keys: dict[SetRule, Callable[[Sample], tuple[str, ...]]] = {
        "subject": lambda sample: (sample.task, sample.subject),
        "task": lambda sample: (sample.task,),
        "all": lambda sample: (sample.task.split("/")[0],),
    }
    groups = []
    for key, members in _grouped(samples, keys[rule]):
        name = "/".join(key)
        if labels is None:
            groups.append(Group(name, members))
            continue
        for label, label_name in labels.items():
            areas = {s: int((s.mask == label).sum()) for s in members if s.mask is not None}
            labelled = [s for s, area in areas.items() if area > 0]
            if one_per_subject:
                subjects = _grouped(labelled, lambda s: (s.task, s.subject))
                labelled = [max(slices, key=areas.__getitem__) for _, slices in subjects]
            groups.append(Group(f"{name}/{label_name}", tuple(labelled), label))
    return [group for group in groups if len(group.samples) >= max(min_images, 1)]


@dataclass(frozen=True, eq=False)
class Batch:
    """A packed batch of B sets with N samples.

    Attributes:
        images: float32 [N,C,H,W] in [0, 1].
        masks: class indices, int64 [N,H,W], IGNORED where the class is not known; or None.
        prompts: float32 [N,2,H,W], see `draw_prompts`, or None.
        sets: the sets of the samples.
        names: the names of the N samples.
        groups: the names of the groups of the B sets.
    """

    images: Tensor
    masks: Tensor | None
    prompts: Tensor | None
    sets: ik.Sets
    names: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def inputs(self) -> Tensor:
        """The input of a network: the images, with the prompts, if any, as two further channels."""
        return self.images if self.prompts is None else torch.cat([self.images, self.prompts], dim=1)

    def split(self, parts: int) -> list[Batch]:
        """Divides the batch into smaller ones of consecutive whole sets.

        Args:
            parts: the maximum number of batches; each has about the same number of sets.
        """
        per_part = -(-len(self.sets) // parts)
        batches, first, start = [], 0, 0
        for sets in self.sets.split(per_part):
            samples = slice(start, start + sets.num_samples)
            batches.append(
                Batch(
                    self.images[samples],
                    None if self.masks is None else self.masks[samples],
                    None if self.prompts is None else self.prompts[samples],
                    sets,
                    self.names[samples],
                    self.groups[first : first + len(sets)],
                )
            )
            first, start = first + len(sets), samples.stop
        return batches

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on another device.

        Args:
            device: the device.
            non_blocking: as in `torch.Tensor.to`.
        """
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        return replace(moved, sets=self.sets.to(device, non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (torch's DataLoader calls this)."""
        return replace(self._map(Tensor.pin_memory), sets=self.sets.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        masks, prompts = (None if x is None else function(x) for x in (self.masks, self.prompts))
        return replace(self, images=function(self.images), masks=masks, prompts=prompts)


def collate(
    groups: Sequence[Group],
    transform: Transform | None = None,
    prompts: PromptMaker | None = None,
    seeds: Sequence[int] | None = None,
    prompt_some: bool = False,
) -> Batch:
    """Packs whole groups as the sets of a batch.

    Args:
        groups: at least one, of any sizes. The images of all samples have one shape (`Scan.load` resizes); either all
            samples have masks or none has.
        transform: applied to the whole batch, such as an `Augmentation`.
        prompts: makes prompts for the pixels whose class is above 0, such as `draw_prompts`.
        seeds: one for each set, for `transform` and `prompts`. The prompts of a sample depend only on the seed of its
            set and on its name: not on its position, nor on the other samples. Default: seeds of the groups' names.
        prompt_some: only n images of each set keep their prompts, n uniform in 1 ... K, so that a network learns to
            follow the prompts of other images.

    Returns:
        The batch, on the CPU.

    Raises:
        DataError: the shapes differ, some masks are missing, or prompts are wanted and there are no masks.
        ValueError: no samples.
    """
    if seeds is None:
        seeds = [seed_of(group.name) for group in groups]
    samples = [sample for group in groups for sample in group.samples]
    _check(samples, masks_needed=prompts is not None)
    images = torch.stack([s.image if s.image.is_floating_point() else s.image / 255 for s in samples])
    masks = None if samples[0].mask is None else torch.cat([found for g in groups if (found := g.masks()) is not None])
    lengths = [len(group.samples) for group in groups]
    if transform is not None:
        images, masks = transform(images, masks, lengths, seeds)
    packed_masks = None if masks is None else masks.long()
    drawn = None
    if prompts is not None and packed_masks is not None:
        sample_seeds = [seed_of(seed, s.name) for group, seed in zip(groups, seeds, strict=True) for s in group.samples]
        drawn = prompts(packed_masks > 0, sample_seeds)
        if prompt_some:
            drawn *= _prompted(lengths, seeds)[:, None, None, None]
    return Batch(
        images,
        packed_masks,
        drawn,
        ik.Sets.from_lengths(lengths),
        tuple(sample.name for sample in samples),
        tuple(group.name for group in groups),
    )


class SetBatches(Dataset[Batch]):
    """Endless random batches: batch `step` is a pure function of (seed, step), so a resumed run gets the same batches.

    With workers: `DataLoader(batches, batch_size=None, sampler=range(first_step, last_step), num_workers=4)`.

    Args:
        groups: sampled independently, whatever their sizes.
        sets_per_batch: B (8 in the paper).
        set_sizes: (min, max). One K is sampled uniformly from this range for each batch (section 4.1: 1 to 8), and each
            set is K different samples of its group, or all if it has fewer. None: a set is the whole group, in random
            order (section 4.2: all scans of a subject).
        transform: as in `collate`.
        prompts: as in `collate`.
        seed: of all random choices.
        prompt_some: as in `collate`.
        sampling: "hierarchical", first the data set, then each further part of the task (modality, axis), and last the
            group (the label or the subject), as in ScribblePrompt; or "even", each group alike.
        weights: for hierarchical sampling, the weight of a data set, or of a part of it: "heart", "heart/mr". Among
            alternatives, each is sampled in proportion to its weight. Default: 1.
        images_per_batch: instead of `sets_per_batch`: sets are sampled, each with a K of its own, until the batch has
            this number of images; the last set is shortened to fit.

    Raises:
        ValueError: no groups, numbers that are out of range, or a weight of what no group is in.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        sets_per_batch: int = 8,
        set_sizes: tuple[int, int] | None = (1, 8),
        transform: Transform | None = None,
        prompts: PromptMaker | None = None,
        seed: int = 0,
        prompt_some: bool = False,
        sampling: Sampling = "even",
        weights: Mapping[str, float] | None = None,
        images_per_batch: int | None = None,
    ):
        if not groups:
            raise ValueError("no groups: expected at least one (all tasks may have had too few images)")
        if sets_per_batch < 1:
            raise ValueError(f"sets_per_batch = {sets_per_batch}: expected at least 1")
        if images_per_batch is not None and images_per_batch < 1:
            raise ValueError(f"images_per_batch = {images_per_batch}: expected at least 1")
        if set_sizes is not None and not 1 <= set_sizes[0] <= set_sizes[1]:
            raise ValueError(f"set_sizes = {set_sizes}: expected (min, max) with 1 <= min <= max")
        self.groups, self.sets_per_batch, self.set_sizes = tuple(groups), sets_per_batch, set_sizes
        self.transform, self.prompts, self.seed, self.prompt_some = transform, prompts, seed, prompt_some
        self.probabilities = group_probabilities(self.groups, sampling, weights or {})
        self.images_per_batch = images_per_batch

    def __getitem__(self, step: int) -> Batch:
        random = random_of(self.seed, "batch", step)
        drawn: list[Group] = []
        size, left = self._set_size(random), self.images_per_batch
        while len(drawn) < self.sets_per_batch if left is None else left > 0:
            group = self.groups[random.choice(len(self.groups), p=self.probabilities)]
            if left is not None:
                size = min(left, self._set_size(random) or left)
            order = random.permutation(len(group.samples))[:size]
            drawn.append(replace(group, samples=tuple(group.samples[i] for i in order)))
            left = None if left is None else left - len(order)
        seeds = [seed_of(self.seed, "set", step, b) for b in range(len(drawn))]
        return collate(drawn, self.transform, self.prompts, seeds, self.prompt_some)

    def _set_size(self, random: np.random.Generator) -> int | None:
        return None if self.set_sizes is None else int(random.integers(self.set_sizes[0], self.set_sizes[1] + 1))


def _prompted(lengths: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Which samples keep their prompts: float32 [N], 1 for n random samples of each set, n uniform in 1 ... K."""
    kept = []
    for length, seed in zip(lengths, seeds, strict=True):
        random = random_of(seed, "prompted")
        number = int(random.integers(1, length + 1))
        kept.append(torch.from_numpy(random.permutation(length) < number))
    return torch.cat(kept).float()


def _grouped(
    samples: Iterable[Sample], key: Callable[[Sample], tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], tuple[Sample, ...]]]:
    """(key, samples), keys in order of first appearance."""
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    for name, members in groups.items():
        yield name, tuple(members)


def _check(samples: Sequence[Sample], masks_needed: bool) -> None:
    if not samples:
        raise ValueError("no samples: expected at least one set with at least one")
    first = samples[0]
    for sample in samples:
        if sample.image.shape != first.image.shape:
            raise DataError(
                f"{sample.name}: image of shape {tuple(sample.image.shape)}, expected {tuple(first.image.shape)} as"
                f" {first.name} in the same batch (give a size to load them with)"
            )
        if (sample.mask is None) != (first.mask is None) or (masks_needed and sample.mask is None):
            raise DataError(f"{(sample if sample.mask is None else first).name}: no mask, expected one")

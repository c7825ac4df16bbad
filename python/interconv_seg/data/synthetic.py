"""Synthetic tasks as a data set: random label maps and images of them, drawn from a seed and kept in memory.

Each task is a template of structures (`synthetic_shapes`) with a look of its own (`synthetic_images`); its subjects are
deformations of the template. The idea is that of SynthSeg (Billot et al., 2023), of UniverSeg's synthetic tasks (Butoi
et al., 2023) and of AnyStar (Dey et al., 2024). No image is taken from anywhere, so there is no licence to heed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checkpoints import load_checkpoint, save_checkpoint
from ..seeding import seed_of
from .errors import DataError
from .scans import Collection, Sample, Scan
from .synthetic_images import random_images
from .synthetic_random import Random
from .synthetic_shapes import LABELS, random_geometry, random_labels

PREFIX = "synthetic:"
VERSION = 1  # a change of the drawing makes it another data set
DRAWN = 64  # tasks that are drawn at once
AREA = (0.03, 0.35)  # of targets, as a part of the image, on average over the subjects
LEAST_AREA = 0.01  # in a subject; else the structure counts as absent there
PRESENT = 0.8  # the part of the subjects in which a target must be
LIMITS = {"tasks": (1, 10**6), "size": (16, 1024), "subjects": (2, 1000), "seed": (0, 2**31 - 1)}


@dataclass(frozen=True)
class SyntheticTasks:
    """What `synthetic:tasks=1000,size=64,subjects=10,seed=0,file=PATH` says; each part may be left out.

    Attributes:
        tasks: the number of tasks. The first ones do not change with it.
        size: side of the images in pixels.
        subjects: images of each task.
        seed: of everything.
        file: keeps the images: they are drawn if it does not exist, else read from it. Runs that read the same file
            share its memory. None: drawn at each start.

    Raises:
        DataError: a number is out of range.
    """

    tasks: int = 1000
    size: int = 64
    subjects: int = 10
    seed: int = 0
    file: Path | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise DataError(f"{PREFIX}{name}={getattr(self, name)}: expected from {low} to {high}")

    @classmethod
    def parse(cls, text: str) -> SyntheticTasks:
        """Reads the text form.

        Args:
            text: begins with `PREFIX`.

        Raises:
            DataError: a part is not NAME=VALUE with such a name, or a value is out of range.
        """
        values: dict[str, int | Path] = {}
        for part in filter(None, text.removeprefix(PREFIX).split(",")):
            name, _, value = part.partition("=")
            if name == "file" and value:
                values[name] = Path(value)
            elif name in LIMITS and value.isdecimal():
                values[name] = int(value)
            else:
                names = ", ".join(f"{name}=N" for name in LIMITS)
                raise DataError(f"{text}: {part!r}, expected {names} or file=PATH, separated by commas")
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The text form, complete, with the whole path of the file."""
        parts = [f"{name}={getattr(self, name)}" for name in LIMITS]
        return PREFIX + ",".join([*parts, *([] if self.file is None else [f"file={self.file.resolve()}"])])

    def read(self) -> Collection:
        """Draws the tasks, or reads them from the file, which is written if it does not exist.

        Returns:
            A collection whose masks hold the targets of their task, 1, 2, ...; 0 is everything else. Each task is a
            task of its own, so the rule "task" gives a group for each target of each task.

        Raises:
            DataError: the file cannot be used, or holds other tasks.
        """
        name = f"{PREFIX}seed={self.seed}"
        images, masks = self._pool()
        scans, samples = [], {}
        for i in range(self.tasks):
            for j in range(self.subjects):
                case = f"{i:06d}/{j:03d}"
                image, mask = images[i, j][None], masks[i, j]
                readers = partial(Tensor.numpy, image), partial(_int16, mask)
                scans.append(Scan(case, None, case, f"{name}/{i:06d}", (Path(name, case),), readers[:1], readers[1]))
                samples[case] = Sample(case, case, f"{name}/{i:06d}", image, mask, (self.size, self.size))
        labels = {value: f"target{value}" for value in range(1, int(masks.max()) + 1)}
        return PoolCollection(name, tuple(scans), labels, samples)

    def _pool(self) -> tuple[Tensor, Tensor]:
        """Images uint8 and masks int8, [tasks,subjects,size,size]."""
        about = {"version": VERSION, **{name: getattr(self, name) for name in LIMITS}}
        if self.file is None:
            return draw_tasks(self.tasks, self.subjects, self.size, self.seed)
        if not self.file.exists():
            images, masks = draw_tasks(self.tasks, self.subjects, self.size, self.seed)
            save_checkpoint(self.file, {"about": about, "images": images, "masks": masks})
        try:
            pool = load_checkpoint(self.file, "cpu", mapped=True)
            found = pool["about"]
        except (ValueError, KeyError) as error:
            raise DataError(f"{self.file}: cannot be used as synthetic tasks ({error})") from error
        if found != about:
            raise DataError(f"{self.file}: holds synthetic tasks of {found}, expected {about} (or another file)")
        return pool["images"], pool["masks"]


@dataclass(frozen=True)
class PoolCollection(Collection):
    """Scans whose images are in memory, with 8 bits.

    Attributes:
        pool: the sample of each case. The images are uint8, which stand for image / 255.
    """

    pool: Mapping[str, Sample]
    in_memory = True

    def samples(self, size: tuple[int, int] | None = None, channels: int | None = None) -> Iterator[Sample]:
        """The samples, as they are in memory.

        Args:
            size: None or the size that they have.
            channels: None or 1.

        Raises:
            DataError: another size, or several channels, are wanted.
        """
        samples = [self.pool[scan.case] for scan in self.scans]
        stored = samples[0].stored_size
        if size not in (None, stored) or channels not in (None, 1):
            raise DataError(
                f"{self.name}: images of {stored[0]}x{stored[1]} pixels with 1 channel, expected the size and the"
                f" channels of the run, {size} and {channels} (synthetic:size=...)"
            )
        return iter(samples)


def draw_tasks(tasks: int, subjects: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws tasks that have at least one target.

    Targets have a mean area within AREA, and are in most of the subjects.

    Args:
        tasks: how many.
        subjects: images of each.
        size: side of the images.
        seed: of all tasks. With the same seed, subjects and size, more tasks begin with the same ones.

    Returns:
        Images uint8 and masks int8, [tasks,subjects,size,size].
    """
    images = torch.empty(tasks, subjects, size, size, dtype=torch.uint8)
    masks = torch.empty(tasks, subjects, size, size, dtype=torch.int8)
    done, chunk = 0, 0
    while done < tasks:
        random = Random(seed_of("synthetic", VERSION, seed, chunk))
        geometry = random_geometry(random, DRAWN, subjects, size)
        labels, has_background = random_labels(random, geometry)
        drawn = random_images(random, labels, geometry.strength, LABELS)
        found, useful = _targets(labels, has_background)
        kept = useful.nonzero()[: tasks - done, 0]
        images[done : done + len(kept)] = (drawn[kept] * 255).round().to(torch.uint8)
        masks[done : done + len(kept)] = found[kept]
        done, chunk = done + len(kept), chunk + 1
    return images, masks


def _targets(labels: Tensor, has_background: Tensor) -> tuple[Tensor, Tensor]:
    """Masks int8 [T,M,S,S] of the targets of each task, 1, 2, ...; and which tasks have any, bool [T]."""
    tasks, subjects, size = labels.shape[:3]
    image = torch.arange(tasks * subjects).view(tasks, subjects, 1, 1)
    counts = torch.bincount((image * LABELS + labels).flatten(), minlength=tasks * subjects * LABELS)
    area = counts.view(tasks, subjects, LABELS) / size**2
    present = area >= LEAST_AREA
    mean = area.mean(1)
    is_target = (mean >= AREA[0]) & (mean <= AREA[1]) & (present.float().mean(1) >= PRESENT)
    is_target[:, 0] &= ~has_background
    number = is_target.cumsum(1) * is_target  # 1, 2, ... in order of the labels
    table = (number[:, None] * present).to(torch.int8)  # [T,M,LABELS]
    return table.gather(2, labels.flatten(2)).view_as(labels), is_target.any(1)


def _int16(mask: Tensor) -> np.ndarray:
    return mask.to(torch.int16).numpy()


def is_synthetic(path: Path | str) -> bool:
    """Whether a data path stands for synthetic tasks."""
    return str(path).startswith(PREFIX)


def absolute(path: str) -> str:
    """A data path that means the same in every working directory.

    Args:
        path: as in `read`.

    Raises:
        DataError: it begins with `PREFIX` and cannot be used.
    """
    return str(SyntheticTasks.parse(path)) if is_synthetic(path) else str(Path(path).resolve())

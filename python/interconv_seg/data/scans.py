"""Scans: 2-D images in files, with or without a mask, and their conversion to tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import ClassVar, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .errors import DataError
from .nifti import Axis

Item = TypeVar("Item")
CLIPPED_PERCENT = 0.5  # of the pixels at each end of the intensities
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's conversion to grey


@dataclass(frozen=True, eq=False)
class Sample:
    """A scan in memory.

    Attributes:
        name: of its `Scan`.
        subject: of its `Scan`.
        task: of its `Scan`.
        image: float32 [C,H,W] in [0, 1]; or uint8, which stands for image / 255 and takes less memory.
        mask: class indices, int16 or int8 [H,W], or None.
        stored_size: (H, W) of the image in its file, before it was resized.
    """

    name: str
    subject: str
    task: str
    image: Tensor
    mask: Tensor | None
    stored_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Scan:
    """A 2-D image in a file. Nothing is read before `load`.

    Attributes:
        case: the name of its file without the ending, unique in its collection: a relative path without "..", by which
            outputs are named.
        index: the slice, if the file is a volume; else None.
        subject: the name that all scans of a subject share (for a volume: its slices; with a sets.csv: its set).
        task: dataset, modality and axis; with a label this names a task (section 4.1).
        files: all that it is read from; the first is the image, or its first channel.
        image_readers: read the image files, one function for each: real numbers [c,H,W] as stored.
        mask_reader: reads the mask, int16 [H,W]; None if there is no mask.
        axis: the anatomical plane of the slice.
    """

    case: str
    index: int | None
    subject: str
    task: str
    files: tuple[Path, ...]
    image_readers: tuple[Callable[[], np.ndarray], ...]
    mask_reader: Callable[[], np.ndarray] | None
    axis: Axis = "axial"

    @property
    def source(self) -> Path:
        """The file of the image, or of its first channel."""
        return self.files[0]

    @property
    def name(self) -> str:
        """Unique in its collection."""
        return self.case if self.index is None else f"{self.case}/{self.index:03d}"

    def load(self, size: tuple[int, int] | None = None, channels: int | None = None) -> Sample:
        """Reads the scan. The intensities of each file are mapped to [0, 1] by `unit_range`.

        Args:
            size: (H, W) to resize to, regardless of the aspect ratio (the paper's appendix: 128 x 128). The image is
                interpolated bilinearly with antialiasing, the mask to the nearest pixel. None: no resizing.
            channels: the number of channels to return. 1 converts colour to grey; else the scan must have as many.

        Returns:
            The sample.

        Raises:
            DataError: a file is broken or is not such an image, or its channels or its mask do not fit.
        """
        image = self._load_image(channels)
        mask = None if self.mask_reader is None else torch.from_numpy(self.mask_reader())
        if mask is not None and mask.shape != image.shape[1:]:
            raise DataError(
                f"{self._where}: the image has {tuple(image.shape[1:])} pixels and its mask {tuple(mask.shape)},"
                " expected the same"
            )
        stored_size = (image.shape[1], image.shape[2])
        if size is not None and size != stored_size:
            image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
            if mask is not None:
                mask = F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].to(torch.int16)
        return Sample(self.name, self.subject, self.task, image, mask, stored_size)

    def _load_image(self, channels: int | None) -> Tensor:
        """float32 [C,H,W] in [0, 1], at the stored size."""
        parts = []
        for read in self.image_readers:
            values = read()
            try:
                parts.append(unit_range(torch.from_numpy(values.astype(np.float64))))
            except ValueError as error:
                raise DataError(f"{self._where}: {error}") from None
            if values.shape[1:] != parts[0].shape[1:]:
                raise DataError(
                    f"{self._where}: channels of {values.shape[1:]} and {tuple(parts[0].shape[1:])} pixels, expected"
                    " one size"
                )
        image = torch.cat(parts)
        if channels == 1 and len(self.image_readers) == 1 and len(image) == 3:
            image = torch.einsum("chw,c->hw", image, torch.tensor(LUMA))[None]
        if channels is not None and len(image) != channels:
            raise DataError(f"{self._where}: {len(image)} channels, expected {channels}")
        return image

    @property
    def _where(self) -> str:
        return str(self.source) if self.index is None else f"{self.source} (slice {self.index})"


@dataclass(frozen=True)
class Collection:
    """The scans of one dataset.

    Attributes:
        name: of the dataset.
        scans: in a fixed order; their names are unique.
        labels: the name of each class index but 0, the background.
        in_memory: whether the samples are there already, so that they need not be kept once more.
    """

    in_memory: ClassVar[bool] = False

    name: str
    scans: tuple[Scan, ...]
    labels: Mapping[int, str]

    def load(self, size: tuple[int, int] | None = None, channels: int | None = None) -> list[Sample]:
        """Loads every scan, so that a broken file is reported before work begins.

        Args:
            size: as in `Scan.load`.
            channels: as in `Scan.load`.

        Raises:
            DataError: as in `Scan.load`.
        """
        return list(self.samples(size, channels))

    def samples(self, size: tuple[int, int] | None = None, channels: int | None = None) -> Iterator[Sample]:
        """Loads one scan after the other, with a progress bar in a terminal.

        Args:
            size: as in `Scan.load`.
            channels: as in `Scan.load`.

        Raises:
            DataError: as in `Scan.load`.
        """
        for scan in progress(self.scans, f"reading {self.name}"):
            yield scan.load(size, channels)

    def sets(self, rule: Literal["subject", "task", "all"] = "subject") -> list[list[Scan]]:
        """The sets to segment, in order of their names.

        Args:
            rule: the scans of each subject, of each task, or all, as in `group_samples`.
        """
        if rule == "all":
            return [list(self.scans)]
        sets: dict[str, list[Scan]] = {}
        for scan in sorted(self.scans, key=lambda scan: getattr(scan, rule)):
            sets.setdefault(getattr(scan, rule), []).append(scan)
        return list(sets.values())


def progress(items: Sequence[Item], text: str) -> Iterator[Item]:
    """The items, with a progress bar on standard error if that is a terminal and the items take more than a second.

    Args:
        items: images, or scans.
        text: what is done.
    """
    yield from tqdm(items, desc=text, unit="image", disable=None, leave=False, delay=1)


def unit_range(values: Tensor) -> Tensor:
    """Maps intensities linearly to [0, 1] (the paper's appendix), robust to outliers.

    The 0.5th and 99.5th percentile are mapped to 0 and 1, and values beyond are clipped, so that a few hot pixels do
    not darken the rest. If the two are equal (few bright pixels on a constant background), the minimum and the maximum
    are used. A constant image becomes 0; NaN becomes 0, infinities become 0 and 1.

    Args:
        values: of any shape and real dtype.

    Returns:
        float32, of the same shape.

    Raises:
        ValueError: no value is finite.
    """
    finite = values[values.isfinite()].double()
    if finite.numel() == 0:
        raise ValueError("no pixel has a finite value")
    low, high = np.percentile(finite.numpy(), (CLIPPED_PERCENT, 100 - CLIPPED_PERCENT))
    if low == high:
        low, high = float(finite.min()), float(finite.max())
    scaled = (values.double() - low) / (high - low)  # 0 / 0 = NaN in a constant image
    return scaled.nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1).float()


def safe_name(name: str, where: Path) -> str:
    """A case for an image: its name as a relative path without "..".

    Args:
        name: of the image, perhaps a path.
        where: the file that lists it, for the message.

    Raises:
        DataError: nothing is left of the name, or it is not printable.
    """
    path = PureWindowsPath(name)  # takes both slashes as separators
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    if not parts or not all(part.isprintable() for part in parts):
        raise DataError(f"{where}: an image is named {name!r}, expected a printable name")
    return "/".join(parts)


def check_unique(scans: list[Scan], where: Path) -> None:
    """Checks that no name stands for two images, and that no image has two names (also over links).

    Args:
        scans: of a collection.
        where: the folder or file that they are from.

    Raises:
        DataError: one does.
    """
    names: set[str] = set()
    images: dict[tuple[Path, int | None], str] = {}
    for scan in scans:
        if scan.name in names:
            raise DataError(f"{where}: two images are named {scan.name}, expected unique names")
        names.add(scan.name)
        other = images.setdefault((scan.source.resolve(), scan.index), scan.name) if scan.source != where else scan.name
        if other != scan.name:
            raise DataError(f"{where}: {other} and {scan.name} are the same file, expected each image once")

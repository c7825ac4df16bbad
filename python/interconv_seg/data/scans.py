"""Scans: 2-D images in files, each with a mask or not, and how they become tensors that a network can take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .files import DataError, ending_of, is_nifti, slice_count, write_mask

CLIPPED = 0.5  # percent of an image's pixels that may lie below the intensity that becomes 0, or above that of 1
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: what grey of a colour Pillow means too


@dataclass(frozen=True, eq=False)
class Sample:
    """A scan in memory.

    Attributes:
        name, subject, task: of its `Scan`.
        image: float32 [C, H, W] in [0, 1].
        mask: int16 [H, W] of class indices, or None where there is none.
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
    """A 2-D image in a file, and where it belongs. Nothing is read before `load`.

    Attributes:
        case: the name of its file, unique in its collection.
        index, axis: where the file is a volume, which slice of it along which axis; else index is None.
        subject: scans of one subject have this in common (for a volume, its slices; with a sets.csv, its set).
        task: dataset, modality and axis; with a label this names a task (paper, section 4.1).
        source: the file, or the first of them where each channel has its own.
        pictures: give the channels as they are in the files, real numbers [c, H, W], one array for each file.
        truth: gives the mask, int16 [H, W]; None where there is none.
    """

    case: str
    index: int | None
    subject: str
    task: str
    source: Path
    pictures: tuple[Callable[[], np.ndarray], ...]
    truth: Callable[[], np.ndarray] | None
    axis: int = 2

    @property
    def name(self) -> str:
        """Unique in its collection."""
        return self.case if self.index is None else f"{self.case}/{self.index:03d}"

    def load(self, size: tuple[int, int] | None = None, channels: int | None = None) -> Sample:
        """Read it.

        Args:
            size: (H, W) to resize to, whatever the aspect ratio (paper, appendix: all images become 128 x 128): the
                image bilinearly, with the blur that shrinking needs; the mask to the nearest pixel. None: as it is.
            channels: how many to give. 1 makes colours grey; else the scan must have as many.

        Each file's intensities are brought to [0, 1] by `unit_range`.

        Raises:
            DataError: a file is broken or not such an image, its channels or its mask do not fit; with its name.
        """
        parts = []
        for picture in self.pictures:
            values = picture()
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
        if channels == 1 and len(self.pictures) == 1 and len(image) == 3:
            image = torch.einsum("chw,c->hw", image, torch.tensor(LUMA))[None]
        if channels is not None and len(image) != channels:
            raise DataError(f"{self._where}: {len(image)} channels, expected {channels}")
        mask = None if self.truth is None else torch.from_numpy(self.truth())
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

    @property
    def _where(self) -> str:
        return str(self.source) if self.index is None else f"{self.source} (slice {self.index})"


@dataclass(frozen=True)
class Collection:
    """The scans of one dataset.

    Attributes:
        name: of the dataset.
        scans: in a fixed order, names unique.
        labels: the name of each class index but 0, the background.
    """

    name: str
    scans: tuple[Scan, ...]
    labels: Mapping[int, str]

    def load(self, size: tuple[int, int] | None = None, channels: int | None = None) -> list[Sample]:
        """Every scan in memory, as `Scan.load`: what is wrong with any file is said before work begins."""
        return [scan.load(size, channels) for scan in self.scans]


def unit_range(values: Tensor) -> Tensor:
    """Intensities brought linearly to [0, 1] (paper, appendix), robustly.

    The 0.5th and 99.5th percentile become 0 and 1, and what lies beyond is clipped: a few hot pixels do not darken the
    rest. Where the two are equal, as for few bright pixels on an even ground, the least and the greatest value are
    used; an image of one value becomes 0. NaN becomes 0, an infinity the end it lies at.

    Raises:
        ValueError: no value is finite.
    """
    finite = values[values.isfinite()].double()
    if finite.numel() == 0:
        raise ValueError("no pixel has a finite value")
    low, high = np.percentile(finite.numpy(), (CLIPPED, 100 - CLIPPED))
    if low == high:
        low, high = float(finite.min()), float(finite.max())
    scaled = (values.double() - low) / (high - low)  # of a constant image 0 / 0: NaN
    return scaled.nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1).float()


def write_masks(folder: Path, scans: Iterable[Scan], masks: Iterable[Tensor]) -> list[Path]:
    """Write the segmentations of scans: one file for each file they came from, `folder`/<case>.

    NIfTI stays NIfTI, with its affine and header; slices become a volume again, where those that are not among `scans`
    are 0. All else becomes PNG. No file is ever half there.

    Args:
        masks: integers [H, W], each of its scan's own size in its file.

    Returns:
        The files written.
    """
    cases: dict[str, list[tuple[Scan, np.ndarray]]] = {}
    for scan, tensor in zip(scans, masks, strict=True):
        cases.setdefault(scan.case, []).append((scan, tensor.cpu().numpy()))
    written = []
    for case, slices in cases.items():
        first, mask = slices[0]
        nifti = is_nifti(first.source)
        if first.index is not None:
            volume = np.zeros((slice_count(first.source, first.axis) or 1, *mask.shape), mask.dtype)
            for scan, one in slices:
                volume[scan.index] = one
            mask = np.moveaxis(volume, 0, first.axis)
        path = folder / (case + (ending_of(first.source) if nifti else ".png"))
        write_mask(path, mask, like=first.source if nifti else None)
        written.append(path)
    return written

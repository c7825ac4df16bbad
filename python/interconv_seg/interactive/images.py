"""The images of a session: on the network's grid in memory, and as stored on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import nibabel as nib
import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor

from ..data import DataError, Scan, nifti, read
from ..data.files import ending_of, read_image
from ..data.nifti import Axis
from .operations import Size

ImageLike: TypeAlias = np.ndarray | Tensor
MAX_SIDE = 4096  # pixels
MAX_PIXELS = 64_000_000  # of one file, after decoding


@dataclass(frozen=True, eq=False)
class Picture:
    """One image.

    Attributes:
        scan: reads it.
        size: (h, w) as stored.
        image: float32 [C,H,W] in [0, 1] on the network's grid.
        truth: class indices int16 [H,W] on the network's grid, or None.
        digest: of the stored pixels.
    """

    scan: Scan
    size: Size
    image: Tensor
    truth: Tensor | None
    digest: str

    @property
    def name(self) -> str:
        return self.scan.name

    def plane(self) -> np.ndarray:
        """The image as stored, [c,h,w], uint8 or uint16. Other types are mapped linearly to 16 bits."""
        values = np.concatenate([reader() for reader in self.scan.image_readers])
        if values.dtype in (np.uint8, np.uint16):
            return values
        numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = numbers.min(), numbers.max()
        return np.round((numbers - low) * (65535 / (high - low) if high > low else 0)).astype(np.uint16)


def open_images(images: Path | str | Sequence[Scan] | Sequence[ImageLike]) -> tuple[list[Scan], Mapping[int, str]]:
    """Finds images.

    Args:
        images: a path as in `data.read`, scans, or arrays: grey [H,W], or colour [H,W,3].

    Returns:
        The scans, and the names of the labels that their masks hold.

    Raises:
        DataError: as in `data.read`.
        TypeError: an array is not such an image.
        ValueError: there are no images.
    """
    if isinstance(images, (str, Path)):
        collection = read(images)
        return list(collection.scans), collection.labels
    scans = [image if isinstance(image, Scan) else _scan(i, image) for i, image in enumerate(images)]
    if not scans:
        raise ValueError("no images: expected at least one")
    return scans, {}


def scans_of(file: Path, axis: Axis = "axial") -> list[Scan]:
    """The images in a file: one, or the slices of a NIfTI volume.

    Args:
        file: an image file as in `data.read_folder`.
        axis: the anatomical plane of the slices.

    Raises:
        DataError: it is no such file.
    """
    case = file.name[: -len(ending_of(file))]
    count = nifti.slice_count(file, axis) if nifti.is_nifti(file) else None
    indices = [None] if count is None else list(range(count))
    return [Scan(case, i, case, "images", (file,), (partial(read_image, file, i, axis),), None, axis) for i in indices]


def load(scan: Scan, grid: Size, channels: int | None) -> Picture:
    """Reads an image.

    Args:
        scan: of the image.
        grid: (H, W) of the network's input.
        channels: of the image; None: 1, grey.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    for file in scan.files:
        _check_header(file)
    values = [reader() for reader in scan.image_readers]
    shape = values[0].shape[1:]
    if max(shape) > MAX_SIDE:
        raise DataError(f"{scan.source}: {shape[0]} x {shape[1]} pixels, expected at most {MAX_SIDE} a side")
    digest = hashlib.sha256(repr(shape).encode())
    for plane in values:
        digest.update(np.ascontiguousarray(plane).tobytes())
    readers = tuple(_returning(plane) for plane in values)
    sample = replace(scan, image_readers=readers).load(grid, channels or 1)
    return Picture(scan, sample.stored_size, sample.image, sample.mask, digest.hexdigest()[:32])


def _check_header(file: Path) -> None:
    """Refuses a picture that would be huge after decoding, before it is decoded."""
    if not file.is_file() or file.suffix == ".npz":
        return
    try:
        if nifti.is_nifti(file):
            shape: tuple[int, ...] = nib.load(file).shape  # type: ignore[attr-defined]
        else:
            with PillowImage.open(file) as picture:
                shape = picture.size
    except Exception:  # the reader says what is wrong with it
        return
    if int(np.prod(np.array(shape, dtype=np.float64))) > MAX_PIXELS:
        raise DataError(f"{file}: {' x '.join(map(str, shape))} pixels, expected at most {MAX_PIXELS}")


def _scan(index: int, image: ImageLike) -> Scan:
    values = torch.as_tensor(image).numpy()
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3) or 0 in values.shape:
        raise TypeError(f"image {index}: shape {values.shape}, expected [H, W] or [H, W, 3]")
    planes = values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)
    name = f"image {index + 1}"
    return Scan(name, None, "images", "images", (Path(f"{name}.png"),), (_returning(planes),), None)


def _returning(values: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: values

"""One image file in, one array out; one mask out, one file in. NIfTI by nibabel, everything else by Pillow."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from ..atomic import replacing

NIFTI_ENDINGS = (".nii.gz", ".nii")
PICTURE_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
ENDINGS = NIFTI_ENDINGS + PICTURE_ENDINGS
LARGEST_LABEL = 32767  # masks are kept as int16


class DataError(ValueError):
    """A file or folder of images that cannot be used. The message starts with its name and says what was expected."""


def ending_of(path: Path) -> str:
    """The ending of an image's file name, one of ENDINGS.

    Raises:
        DataError: another ending.
    """
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[-len(ending) :]
    raise DataError(f"{path}: expected an image file ({', '.join(ENDINGS)})")


def is_nifti(path: Path) -> bool:
    """Whether the file's name is that of a NIfTI image."""
    return path.name.lower().endswith(NIFTI_ENDINGS)


def slice_count(path: Path, axis: int) -> int | None:
    """How many images the file holds along `axis` of its volume; None if it is a single 2-D image.

    Raises:
        DataError: it cannot be read.
    """
    if not is_nifti(path):
        return None
    shape = _shape(path, _load_nifti(path))
    return None if len(shape) == 2 else shape[axis]


def read_image(path: Path, index: int | None = None, axis: int = 2) -> np.ndarray:
    """One image [C, H, W] of real numbers as they are in the file.

    A NIfTI image has C = 1; H and W are its axes in the order of the file, without `axis` where it is a volume, of
    which slice `index` is taken. Of other files, grey ones (8 or 16 bits, or float) have C = 1, coloured ones C = 3
    (red, green, blue); an alpha channel is dropped.

    Raises:
        DataError: the file is missing, broken, empty, or not such an image.
    """
    if is_nifti(path):
        return _slice(path, index, axis)[None]
    picture = _picture(path, as_mask=False)
    return picture[None] if picture.ndim == 2 else np.moveaxis(picture, 2, 0)


def read_mask(path: Path, index: int | None = None, axis: int = 2) -> np.ndarray:
    """One mask, int16 [H, W] of class indices: axes and `index` as in `read_image`.

    A file that holds 0 and 255 alone is read as 0 and 1. A picture with a palette gives its indices.

    Raises:
        DataError: as `read_image`, and where a value is no integer from 0 to 32767.
    """
    if is_nifti(path):
        return as_mask(_slice(path, index, axis), str(path))
    mask = _picture(path, as_mask=True)
    if mask.ndim != 2:
        raise DataError(f"{path}: a coloured picture, expected a mask of one channel (grey or palette)")
    if mask.dtype == np.uint8 and mask.max() == 255 and np.isin(mask, (0, 255)).all():
        mask = mask // 255
    return as_mask(mask, str(path))


def as_mask(values: np.ndarray, where: str) -> np.ndarray:
    """`values` as int16 class indices.

    Raises:
        DataError: starting with `where`, if a value is no integer from 0 to 32767.
    """
    if values.dtype.kind not in "buif":
        raise DataError(f"{where}: values of dtype {values.dtype}, expected a mask of integers")
    wrong = ~((values >= 0) & (values <= LARGEST_LABEL))  # NaN too
    if values.dtype.kind == "f":
        wrong |= values != np.round(values)
    if wrong.any():
        raise DataError(
            f"{where}: the mask holds {values[wrong].flat[0]}, expected class indices (integers from 0 to"
            f" {LARGEST_LABEL})"
        )
    return values.astype(np.int16)


def write_mask(path: Path, mask: np.ndarray, like: Path | None = None) -> None:
    """Write class indices, whole or not at all: uint8 where they fit, else uint16.

    Args:
        path: a NIfTI file, or a picture that can hold it without loss (PNG, TIFF). Folders on the way are made.
        mask: integers [H, W], or [X, Y, Z] for NIfTI.
        like: the NIfTI image that was segmented: its affine and header are kept, and its shape where that has more axes
            of length 1.
    """
    mask = mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.uint16)
    with replacing(path) as partial:
        if is_nifti(path):
            source = _load_nifti(like) if like is not None else None
            header = source.header.copy() if source is not None else None
            if header is not None:
                header.set_data_dtype(mask.dtype)
                header.set_slope_inter(1, 0)
                mask = mask.reshape(header.get_data_shape())
            nib.save(nib.Nifti1Image(mask, source.affine if source is not None else np.eye(4), header), partial)
        else:
            Image.fromarray(mask).save(partial)


def _slice(path: Path, index: int | None, axis: int) -> np.ndarray:
    volume = _volume(path)
    if index is None:
        if volume.ndim != 2:
            raise DataError(f"{path}: shape {volume.shape}, expected a 2-D image")
        return volume
    if volume.ndim != 3 or index >= volume.shape[axis]:
        raise DataError(f"{path}: shape {volume.shape}, expected a volume with a slice {index} along axis {axis}")
    return volume.take(index, axis)


def _volume(path: Path) -> np.ndarray:
    """The values of a NIfTI file, shape as `_shape`."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return _read_volume(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)  # an image and its mask: all slices of a compressed volume for one reading
def _read_volume(path: Path, mtime_ns: int, size: int) -> np.ndarray:
    image = _load_nifti(path)
    shape = _shape(path, image)
    try:
        volume = np.array(np.asanyarray(image.dataobj))  # a copy: no map of a file that may go away
    except Exception as error:  # decoders of broken files raise anything
        raise _broken(path, "a NIfTI image", error) from error
    if volume.dtype.kind not in "buif":
        raise DataError(f"{path}: values of dtype {volume.dtype}, expected real numbers")
    return volume.reshape(shape)


def _shape(path: Path, image: Any) -> list[int]:
    """Of a 2-D image or a volume, without axes of length 1 at the end."""
    shape = list(image.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataError(f"{path}: shape {tuple(image.shape)}, expected a 2-D image or a 3-D volume")
    return shape


def _load_nifti(path: Path) -> Any:
    try:
        return nib.load(path)
    except Exception as error:
        raise _broken(path, "a NIfTI image", error) from error


def _picture(path: Path, as_mask: bool) -> np.ndarray:
    """[H, W] or, where coloured, [H, W, 3]."""
    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames != 1:
                raise DataError(f"{path}: {frames} pictures in one file, expected one")
            if picture.mode in ("LA", "La"):
                picture = picture.convert("L")
            elif picture.mode == "1":
                picture = picture.convert("L").point(lambda value: value // 255)
            elif not (picture.mode in ("L", "F", "I", "RGB") or picture.mode.startswith("I;16")):
                picture = picture if as_mask and picture.mode == "P" else picture.convert("RGB")
            values = np.array(picture)
    except DataError:
        raise
    except Exception as error:
        raise _broken(path, "an image", error) from error
    if values.size == 0 or values.dtype.kind not in "buif":
        raise DataError(f"{path}: {values.shape} values of dtype {values.dtype}, expected an image")
    return values


def _broken(path: Path, what: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file, expected {what}")
    said = str(error).replace(str(path), "the file").splitlines()
    return DataError(f"{path}: cannot be read as {what} ({said[0] if said else type(error).__name__})")

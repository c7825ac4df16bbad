"""Reading and writing one image or mask file: NIfTI with nibabel, all other formats with Pillow."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from interconv_kernels._files import replacing

NIFTI_ENDINGS = (".nii.gz", ".nii")
PICTURE_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
ENDINGS = NIFTI_ENDINGS + PICTURE_ENDINGS
MAX_LABEL = 32767  # masks are int16


class DataError(ValueError):
    """An image file or folder that cannot be used. The message starts with its name and says what was expected."""


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
    """Whether the file name is that of a NIfTI image."""
    return path.name.lower().endswith(NIFTI_ENDINGS)


def slice_count(path: Path, axis: int) -> int | None:
    """The number of slices of a volume along an axis.

    Args:
        path: an image file.
        axis: 0, 1 or 2.

    Returns:
        The number, or None if the file holds a single 2-D image.

    Raises:
        DataError: the file cannot be read.
    """
    if not is_nifti(path):
        return None
    shape = _shape(path, _load_nifti(path))
    return None if len(shape) == 2 else shape[axis]


def read_image(path: Path, index: int | None = None, axis: int = 2) -> np.ndarray:
    """Reads one image, with the values of the file.

    A NIfTI image has C = 1; H and W are its axes in the order of the file (of a volume: the axes other than `axis`).
    In other formats, grey images (8 or 16 bits, or float) have C = 1 and colour images C = 3 (red, green, blue); an
    alpha channel is dropped.

    Args:
        path: the file.
        index: the slice of a volume; None for a 2-D image.
        axis: along which the volume is sliced.

    Returns:
        Real numbers [C,H,W].

    Raises:
        DataError: the file is missing, broken or empty, or is not such an image.
    """
    if is_nifti(path):
        return _slice(path, index, axis)[None]
    picture = _picture(path, keep_palette=False)
    return picture[None] if picture.ndim == 2 else np.moveaxis(picture, 2, 0)


def read_mask(path: Path, index: int | None = None, axis: int = 2) -> np.ndarray:
    """Reads one mask.

    A file that only holds 0 and 255 is read as 0 and 1. A picture with a palette gives the indices of its palette.

    Args:
        path: the file.
        index: as in `read_image`.
        axis: as in `read_image`.

    Returns:
        Class indices, int16 [H,W].

    Raises:
        DataError: as in `read_image`; or a value is not an integer from 0 to 32767.
    """
    if is_nifti(path):
        return as_mask(_slice(path, index, axis), str(path))
    mask = _picture(path, keep_palette=True)
    if mask.ndim != 2:
        raise DataError(f"{path}: a colour picture, expected a mask of one channel (grey or palette)")
    if mask.dtype == np.uint8 and mask.max() == 255 and np.isin(mask, (0, 255)).all():
        mask = mask // 255
    return as_mask(mask, str(path))


def as_mask(values: np.ndarray, where: str) -> np.ndarray:
    """Converts an array to class indices.

    Args:
        values: integers, or floating point numbers with integer values.
        where: the name of the file, for the message.

    Returns:
        int16, of the same shape.

    Raises:
        DataError: a value is not an integer from 0 to 32767.
    """
    if values.dtype.kind not in "buif":
        raise DataError(f"{where}: values of dtype {values.dtype}, expected a mask of integers")
    wrong = ~((values >= 0) & (values <= MAX_LABEL))  # NaN too
    if values.dtype.kind == "f":
        wrong |= values != np.round(values)
    if wrong.any():
        raise DataError(
            f"{where}: the mask holds {values[wrong].flat[0]}, expected class indices (integers from 0 to {MAX_LABEL})"
        )
    return values.astype(np.int16)


def write_mask(path: Path, mask: np.ndarray, like: Path | None = None) -> None:
    """Writes class indices, as uint8 if they fit, else uint16. The file is written completely or not at all.

    Args:
        path: a NIfTI file, or a lossless picture format (PNG, TIFF). Missing folders are created.
        mask: integers [H,W], or [X,Y,Z] for NIfTI.
        like: the NIfTI image that was segmented. Its affine, header and shape (which may have more axes of length 1)
            are used.
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
    """The values of a NIfTI file, of shape `_shape`."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return _read_volume(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)  # an image and its mask: a compressed volume is read once for all its slices
def _read_volume(path: Path, mtime_ns: int, size: int) -> np.ndarray:
    image = _load_nifti(path)
    shape = _shape(path, image)
    try:
        volume = np.array(np.asanyarray(image.dataobj))  # a copy: not a memory map of a file that may be removed
    except Exception as error:  # decoders of broken files raise anything
        raise _broken(path, "a NIfTI image", error) from error
    if volume.dtype.kind not in "buif":
        raise DataError(f"{path}: values of dtype {volume.dtype}, expected real numbers")
    return volume.reshape(shape)


def _shape(path: Path, image: Any) -> list[int]:
    """The shape of a 2-D image or a volume, without axes of length 1 at the end."""
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


def _picture(path: Path, keep_palette: bool) -> np.ndarray:
    """[H,W], or [H,W,3] for colour."""
    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames != 1:
                raise DataError(f"{path}: {frames} pictures in one file, expected one")
            values = np.array(_converted(picture, keep_palette))
    except DataError:
        raise
    except Exception as error:
        raise _broken(path, "an image", error) from error
    if values.size == 0 or values.dtype.kind not in "buif":
        raise DataError(f"{path}: {values.shape} values of dtype {values.dtype}, expected an image")
    return values


def _converted(picture: Image.Image, keep_palette: bool) -> Image.Image:
    """The picture in a mode whose array is [H,W] or [H,W,3]."""
    if picture.mode in ("LA", "La"):
        return picture.convert("L")
    if picture.mode == "1":
        return picture.convert("L").point(lambda value: value // 255)
    if picture.mode in ("L", "F", "I", "RGB") or picture.mode.startswith("I;16"):
        return picture
    return picture if keep_palette and picture.mode == "P" else picture.convert("RGB")


def _broken(path: Path, expected: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file, expected {expected}")
    message = str(error).replace(str(path), "the file").splitlines()
    return DataError(f"{path}: cannot be read as {expected} ({message[0] if message else type(error).__name__})")

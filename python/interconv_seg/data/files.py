"""Reading and writing one image or mask file: NIfTI (`nifti.py`), all other formats with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from interconv_kernels._files import replacing

from . import nifti
from .errors import DataError, check_size, reading
from .nifti import Axis, is_nifti

JPEG_ENDINGS = (".jpg", ".jpeg")
ENDINGS = (*nifti.ENDINGS, ".png", ".tif", ".tiff", ".bmp", *JPEG_ENDINGS)
JPEG_ERROR = 16  # grey levels at the edges of a black and white mask
IGNORED = -1  # in masks: a pixel whose class is not known, which neither training nor evaluation counts
MAX_LABEL = 32767  # masks are int16


def ending_of(path: Path) -> str:
    """The ending of an image's file name, one of ENDINGS.

    Raises:
        DataError: another ending.
    """
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[-len(ending) :]
    raise DataError(f"{path}: expected an image file ({', '.join(ENDINGS)})")


def read_image(path: Path, index: int | None = None, axis: Axis = "axial") -> np.ndarray:
    """Reads one image, with the values of the file.

    A NIfTI image has C = 1; H and W are its axes in canonical orientation (of a volume: the axes other than `axis`).
    In other formats, grey images (8 or 16 bits, or float) have C = 1 and colour images C = 3 (red, green, blue); an
    alpha channel is dropped.

    Args:
        path: the file.
        index: the slice of a volume; None for a 2-D image.
        axis: the anatomical plane of the slice.

    Returns:
        Real numbers [C,H,W].

    Raises:
        DataError: the file is missing, broken or empty, or is not such an image.
    """
    if is_nifti(path):
        return nifti.read(path, index, axis)[None]
    picture = _picture(path, keep_palette=False)
    return picture[None] if picture.ndim == 2 else np.moveaxis(picture, 2, 0)


def read_mask(
    path: Path,
    index: int | None = None,
    axis: Axis = "axial",
    like: Path | None = None,
    ignore: int | None = None,
) -> np.ndarray:
    """Reads one mask.

    A file that only holds 0 and 255 is read as 0 and 1. A picture with a palette gives the indices of its palette. JPEG
    does not keep values, so only black and white masks can be read from it: what is within 16 of 0 or 255.

    Args:
        path: the file.
        index: as in `read_image`.
        axis: as in `read_image`.
        like: the image of the mask; a NIfTI mask that does not say where it lies, lies there.
        ignore: the value of pixels whose class is not known.

    Returns:
        Class indices, int16 [H,W], IGNORED for the value `ignore`.

    Raises:
        DataError: as in `read_image`; or a value is not an integer from 0 to 32767.
    """
    mask = nifti.read(path, index, axis, like) if is_nifti(path) else _mask_picture(path)
    classes = as_mask(mask, str(path))
    return classes if ignore is None else np.where(classes == ignore, np.int16(IGNORED), classes)


def _mask_picture(path: Path) -> np.ndarray:
    mask = _picture(path, keep_palette=True)
    if mask.ndim != 2:
        raise DataError(f"{path}: a colour picture, expected a mask of one channel (grey or palette)")
    if ending_of(path).lower() in JPEG_ENDINGS:
        mask = _black_or_white(mask, path)
    if mask.dtype == np.uint8 and mask.max() == 255 and np.isin(mask, (0, 255)).all():
        mask = mask // 255
    return mask


def _black_or_white(mask: np.ndarray, path: Path) -> np.ndarray:
    """The mask of a JPEG file, 0 and 255."""
    if ((mask > JPEG_ERROR) & (mask < 255 - JPEG_ERROR)).any():
        raise DataError(
            f"{path}: a JPEG mask with {len(np.unique(mask))} values, and JPEG does not keep them; expected black and"
            " white, or a PNG"
        )
    return np.where(mask > 127, np.uint8(255), np.uint8(0))


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
        path: a lossless picture format (PNG, TIFF), or a NIfTI file if `like` is given. Missing folders are created.
        mask: integers [H,W], or [X,Y,Z] for NIfTI, in canonical orientation.
        like: the NIfTI image that was segmented. Its orientation, affine, header and shape are used.
    """
    mask = mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.uint16)
    if like is not None:
        nifti.write(path, mask, like)
        return
    with replacing(path) as partial:
        Image.fromarray(mask).save(partial)


def _picture(path: Path, keep_palette: bool) -> np.ndarray:
    """[H,W], or [H,W,3] for colour."""
    with reading(path, "an image"), Image.open(path) as picture:
        check_size(path, picture.size)
        frames = getattr(picture, "n_frames", 1)
        if frames != 1:
            raise DataError(f"{path}: {frames} pictures in one file, expected one")
        values = np.array(_converted(picture, keep_palette))
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

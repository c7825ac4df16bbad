"""NIfTI images in canonical orientation (RAS): axis 0 runs from left to right, 1 to the front, 2 to the head.

Files store their axes in any order and direction. They are reoriented when they are read, and back when they are
written: so an image and its mask fit whatever their orientations are, and "axial" means axial. A mask that does not say
where it lies (no sform and no qform) lies where its image lies.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from interconv_kernels._files import replacing

from .errors import DataError, check_size, reading

Axis: TypeAlias = Literal["sagittal", "coronal", "axial"]
AXES: tuple[Axis, ...] = get_args(Axis)  # in canonical order: a sagittal slice is taken along axis 0
ENDINGS = (".nii.gz", ".nii")
GRID_TOLERANCE = 0.1  # of a voxel: how far two grids of one case may be apart anywhere


class Grid(NamedTuple):
    """Where the voxels of a file lie, in canonical orientation.

    Attributes:
        shape: of the volume; of a single 2-D image, one number is 1.
        affine: [4,4], from voxel indices to millimetres; None if the file does not say (no sform and no qform).
        spacing: the size of a voxel in millimetres.
        flat: the axis of length 1 if the file holds a single 2-D image, else None.
    """

    shape: tuple[int, ...]
    affine: np.ndarray | None
    spacing: tuple[float, ...]
    flat: int | None


def is_nifti(path: Path) -> bool:
    """Whether the file name is that of a NIfTI image."""
    return path.name.lower().endswith(ENDINGS)


def grid(path: Path, like: Path | None = None) -> Grid:
    """The grid of a file.

    Args:
        path: a NIfTI file.
        like: the file of the same case that says where `path` lies if it does not say so itself.

    Raises:
        DataError: the file cannot be read, is no image or volume, or its affine cannot be used.
    """
    image = _load(path)
    shape, orientation = _shape(path, image), _orientation(path, image, like)
    axes = orientation[:, 0].astype(int)
    canonical = np.empty(3, int)
    canonical[axes] = shape
    spacing = np.empty(3)
    spacing[axes] = nib.affines.voxel_sizes(image.affine)
    affine = image.affine @ inv_ornt_aff(orientation, shape) if _is_placed(image) else None
    flat = int(axes[2]) if _is_flat(image) else None
    return Grid(tuple(canonical.tolist()), affine, tuple(spacing.tolist()), flat)


def check_same_grid(path: Path, other: Path) -> None:
    """Checks that two files of one case (image and mask, or two channels) have the same voxels.

    Args:
        path: a NIfTI file.
        other: another. If it does not say where it lies, only the shapes are compared.

    Raises:
        DataError: their shapes differ, or a corner of one lies more than 0.1 voxels from that of the other.
    """
    first, second = grid(path), grid(other, like=path)
    if first.shape != second.shape or first.flat != second.flat:
        raise DataError(f"{other}: {_size(second)} voxels (in RAS order), expected {_size(first)} as {path} has")
    if first.affine is None or second.affine is None:
        return
    corners = np.array(np.meshgrid(*([0, n - 1] for n in first.shape), [1])).reshape(4, -1)
    shift = float(np.linalg.norm((first.affine - second.affine) @ corners, axis=0).max())
    if shift > GRID_TOLERANCE * min(first.spacing):
        first_mm, second_mm = ("x".join(f"{step:.3g}" for step in found.spacing) for found in (first, second))
        raise DataError(
            f"{other}: does not lie where {path} lies: their corners are up to {shift:.3g} mm apart (voxels of"
            f" {second_mm} and {first_mm} mm), expected at most {GRID_TOLERANCE} voxels"
        )


def slice_count(path: Path, axis: Axis) -> int | None:
    """The number of slices along an axis, or None if the file holds a single 2-D image.

    Args:
        path: a NIfTI file.
        axis: the anatomical plane of the slices.

    Raises:
        DataError: as in `grid`.
    """
    found = grid(path)
    return None if found.flat is not None else found.shape[AXES.index(axis)]


def read(path: Path, index: int | None, axis: Axis, like: Path | None = None) -> np.ndarray:
    """Reads a 2-D image, or a slice of a volume.

    Args:
        path: a NIfTI file.
        index: of the slice; None for a 2-D image.
        axis: the anatomical plane of the slice.
        like: as in `grid`.

    Returns:
        Real numbers [H,W], the other two canonical axes in order.

    Raises:
        DataError: the file is missing or broken, or is not such an image.
    """
    found, volume = grid(path, like), _volume(path, like)
    if index is None:
        if found.flat is None:
            raise DataError(f"{path}: shape {volume.shape}, expected a 2-D image")
        return volume.take(0, found.flat)
    along = AXES.index(axis)
    if found.flat is not None or index >= volume.shape[along]:
        raise DataError(f"{path}: shape {volume.shape}, expected a volume with {axis} slice {index}")
    return volume.take(index, along)


def write(path: Path, values: np.ndarray, like: Path, scale: float = 1.0) -> None:
    """Writes an image on the grid of another, in that file's orientation and with its affine and header.

    Args:
        path: the file, written completely or not at all.
        values: [H,W] for a 2-D image, else [X,Y,Z], in canonical orientation; a further axis may follow.
        like: the other file.
        scale: the factor that readers multiply the values by.

    Raises:
        DataError: `like` cannot be read.
    """
    source, found = _load(like), grid(like)
    if found.flat is not None:
        values = np.expand_dims(values, found.flat)
    back = ornt_transform(axcodes2ornt("RAS"), _orientation(like, source))
    header = source.header.copy()
    header.set_data_dtype(values.dtype)
    stored = apply_orientation(values, back)
    if values.ndim == 3:
        stored = stored.reshape(header.get_data_shape())
    image = type(source)(stored, source.affine, header)
    image.header.set_slope_inter(scale, 0)  # nibabel resets it in new images
    with replacing(path) as partial:
        nib.save(image, partial)


def _load(path: Path) -> Any:
    with reading(path, "a NIfTI image"):
        image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):  # Nifti2Image is one, too
        raise DataError(f"{path}: a {type(image).__name__}, expected a NIfTI image")
    return image


def _shape(path: Path, image: Any) -> tuple[int, int, int]:
    """The shape as stored, with three axes."""
    shape = list(image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    shape += [1] * (3 - len(shape))
    if len(shape) != 3 or len(image.shape) < 2 or 0 in shape:
        raise DataError(f"{path}: shape {tuple(image.shape)}, expected a 2-D image or a 3-D volume")
    return shape[0], shape[1], shape[2]


def _is_flat(image: Any) -> bool:
    """Whether the file holds one 2-D image: a single slice along its last axis."""
    return len(image.shape) == 2 or image.shape[2] == 1


def _is_placed(image: Any) -> bool:
    """Whether a file says where its voxels lie."""
    return int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0


def _orientation(path: Path, image: Any, like: Path | None = None) -> np.ndarray:
    if like is not None and not _is_placed(image):
        return _orientation(like, _load(like))
    orientation = io_orientation(image.affine) if np.isfinite(image.affine).all() else np.full((3, 2), np.nan)
    if np.isnan(orientation).any():
        raise DataError(f"{path}: its affine is {image.affine.tolist()}, expected one that can be inverted")
    return orientation


def _volume(path: Path, like: Path | None) -> np.ndarray:
    """The values of a file, with three axes in canonical orientation."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return _read_volume(path, like, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)  # an image and its mask: a compressed volume is read once for all its slices
def _read_volume(path: Path, like: Path | None, mtime_ns: int, size: int) -> np.ndarray:
    image = _load(path)
    shape = _shape(path, image)
    check_size(path, shape)
    with reading(path, "a NIfTI image"):
        values = np.array(np.asanyarray(image.dataobj))  # a copy: not a memory map of a file that may be removed
    if values.dtype.kind not in "buif":
        raise DataError(f"{path}: values of dtype {values.dtype}, expected real numbers")
    return apply_orientation(values.reshape(shape), _orientation(path, image, like))


def _size(found: Grid) -> str:
    return "x".join(map(str, found.shape)) + (" (a 2-D image)" if found.flat is not None else "")

"""DICOM series as NIfTI files, which everything else reads and writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from interconv_kernels._files import replacing, write_text

from .errors import DataError, check_size, reading
from .scans import progress

STEP_TOLERANCE = 0.1  # of the distance of slices
ORIENTATION_TOLERANCE = 1e-3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one series, ordered along their normal.

    Attributes:
        name: for files, of the patient and the number of the series.
        patient: its PatientID.
        slices: headers, in order.
        files: of the slices, in the same order.
    """

    name: str
    patient: str
    slices: tuple[Any, ...]
    files: tuple[Path, ...]


def convert_dicom(folder: Path, out: Path) -> list[Path]:
    """Writes each series of images in a folder as a NIfTI volume, and a sets.csv with a set for each patient.

    Intensities are those that the files define (RescaleSlope and RescaleIntercept), in float32.

    Args:
        folder: holds DICOM files, in subfolders too. Files without images, and other files, are passed over.
        out: a folder that holds none of the files yet.

    Returns:
        The volumes.

    Raises:
        DataError: there is no series, or one is not a stack of parallel slices at equal distances.
        ModuleNotFoundError: pydicom is not installed (extra "dicom").
    """
    found = find_series(folder)
    volumes = [out / f"{series.name}.nii.gz" for series in found]
    for file in (*volumes, out / "sets.csv"):
        if file.exists():
            raise DataError(f"{file}: exists, expected a new folder")
    grids = [affine_of(series) for series in found]  # so that nothing is written if one cannot be
    for series, file, affine in zip(found, volumes, grids, strict=True):
        with replacing(file) as partial:
            nib.save(nib.Nifti1Image(_values(series), affine), partial)
    rows = [f'"{series.patient}",{file.name}' for series, file in zip(found, volumes, strict=True)]
    write_text(out / "sets.csv", "\n".join(["set,image", *rows]) + "\n")
    return volumes


def find_series(folder: Path) -> list[Series]:
    """The series of images in a folder, in order of their names.

    Args:
        folder: as in `convert_dicom`.

    Raises:
        DataError: there is none, or a file has several frames or lacks what places it in space.
    """
    import pydicom

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected DICOM files")
    stacks: dict[str, list[tuple[Any, Path]]] = {}
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in progress(files, f"reading {folder.name}"):
        if not pydicom.misc.is_dicom(file):
            continue
        with reading(file, "a DICOM file"):
            header = pydicom.dcmread(file, stop_before_pixels=True)
        if "Rows" not in header:
            continue  # a report, a structure set, a directory
        needed = ("SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        missing = [name for name in needed if not header.get(name)]
        if missing or int(header.get("NumberOfFrames") or 1) != 1:
            what = f"no {missing[0]}" if missing else f"{header.NumberOfFrames} frames"
            raise DataError(f"{file}: {what}, expected one slice with its place in space")
        stacks.setdefault(str(header.SeriesInstanceUID), []).append((header, file))
    if not stacks:
        raise DataError(f"{folder}: no DICOM images in it")
    return sorted(_named(stacks.values()), key=lambda series: series.name)


def _named(stacks: Any) -> Iterator[Series]:
    taken: set[str] = set()
    for stack in stacks:
        stack.sort(key=lambda entry: float(_normal(entry[0]) @ _position(entry[0])))
        first = stack[0][0]
        patient = re.sub(r"[^\w.-]+", "_", str(first.get("PatientID") or "")).strip("._") or "patient"
        name = f"{patient}_{int(first.get('SeriesNumber') or 0):03d}"
        if name in taken:  # another study of the patient
            name += "_" + re.sub(r"\W", "", str(first.SeriesInstanceUID))[-8:]
        taken.add(name)
        yield Series(name, patient, tuple(header for header, _ in stack), tuple(file for _, file in stack))


def affine_of(series: Series) -> np.ndarray:
    """From voxel indices (column, row, slice) to millimetres in NIfTI's axes [4,4].

    Args:
        series: the series.

    Raises:
        DataError: its slices are not parallel, of one size and at equal distances.
    """
    first = series.slices[0]
    orientation, spacing = _numbers(first.ImageOrientationPatient), _numbers(first.PixelSpacing)
    for header, file in zip(series.slices, series.files, strict=True):
        shape = (header.Rows, header.Columns)
        if shape != (first.Rows, first.Columns) or not np.allclose(_numbers(header.PixelSpacing), spacing):
            raise DataError(f"{file}: {shape} pixels, expected the size and spacing of {series.files[0]}")
        if not np.allclose(_numbers(header.ImageOrientationPatient), orientation, atol=ORIENTATION_TOLERANCE):
            raise DataError(f"{file}: has another orientation than {series.files[0]}, expected parallel slices")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
    affine[:3, 2] = _normal(first) * float(first.get("SliceThickness") or 1)
    affine[:3, 3] = _position(first)
    if len(series.slices) > 1:
        steps = np.diff([_position(header) for header in series.slices], axis=0)
        lengths = steps @ _normal(first)
        if lengths.min() <= 0 or np.ptp(lengths) > STEP_TOLERANCE * lengths.mean():
            at = int(np.argmax(np.abs(lengths - np.median(lengths)))) + 1
            raise DataError(
                f"{series.files[at]}: lies {lengths[at - 1]:.3g} mm from the slice before it, expected"
                f" {np.median(lengths):.3g} as in the rest of its series"
            )
        affine[:3, 2] = steps.mean(0)
    return LPS_TO_RAS @ affine


def _values(series: Series) -> np.ndarray:
    import pydicom
    from pydicom.pixels import apply_rescale

    first = series.slices[0]
    check_size(series.files[0], (first.Columns, first.Rows, len(series.slices)))
    volume = np.empty((first.Columns, first.Rows, len(series.slices)), np.float32)
    for i, file in enumerate(progress(series.files, f"converting {series.name}")):
        with reading(file, "a DICOM image"):
            image = pydicom.dcmread(file)
            values = apply_rescale(image.pixel_array, image)
        if values.shape != (first.Rows, first.Columns):
            raise DataError(f"{file}: {values.shape} values, expected a grey image")
        volume[:, :, i] = values.T
    return volume


def _numbers(values: Any) -> np.ndarray:
    return np.array([float(value) for value in values])


def _position(header: Any) -> np.ndarray:
    return _numbers(header.ImagePositionPatient)


def _normal(header: Any) -> np.ndarray:
    orientation = _numbers(header.ImageOrientationPatient)
    return np.cross(orientation[:3], orientation[3:])

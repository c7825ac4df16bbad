"""Segmentations as files: named as the images, inside the folder that the user gave, and never over an input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from .errors import DataError
from .files import ending_of, write_mask
from .nifti import AXES, grid, is_nifti
from .scans import Scan


def mask_file(folder: Path, scan: Scan) -> Path:
    """The file of the mask of a scan: `folder`/<case>, NIfTI for NIfTI, else PNG.

    Args:
        folder: of the outputs.
        scan: of the image; all slices of a volume have one file.
    """
    return folder / (scan.case + (ending_of(scan.source) if is_nifti(scan.source) else ".png"))


def check_outputs(folder: Path, scans: Iterable[Scan], overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Checks that the masks of scans can be written without harm, before anything is.

    Args:
        folder: of the outputs.
        scans: the scans.
        overwrite: whether masks of an earlier call may be replaced.
        inputs: files that were read besides those of the scans.

    Raises:
        DataError: a file would lie outside `folder` (links are followed), is one of the inputs, or exists.
    """
    scans = list(scans)
    read = {file.resolve() for scan in scans for file in scan.files} | {file.resolve() for file in inputs}
    root = folder.resolve()
    for file in {mask_file(folder, scan): None for scan in scans}:
        target = file.resolve()
        if not target.is_relative_to(root):
            raise DataError(f"{file}: leads to {target}, expected a file inside {root}")
        if target in read:
            raise DataError(f"{file}: is one of the inputs, expected another folder for the masks")
        if target.is_dir() or (target.exists() and not overwrite):
            raise DataError(f"{file}: exists, expected a new folder (or --overwrite)")


def write_masks(folder: Path, scans: Sequence[Scan], masks: Iterable[Tensor], overwrite: bool = False) -> list[Path]:
    """Writes segmentations, one file for each image file, named as in `mask_file`.

    NIfTI images give NIfTI masks with the same orientation, affine and header; slices are joined to a volume, in which
    slices that are not among `scans` are 0. All other formats give PNG. Each file is written completely or not at all.

    Args:
        folder: created if needed.
        scans: the scans that were segmented.
        masks: integers [H,W], one for each scan, of the size that it has in its file.
        overwrite: as in `check_outputs`.

    Returns:
        The files.

    Raises:
        DataError: as in `check_outputs`.
    """
    check_outputs(folder, scans, overwrite)
    cases: dict[Path, list[tuple[Scan, np.ndarray]]] = {}
    for scan, tensor in zip(scans, masks, strict=True):
        cases.setdefault(mask_file(folder, scan), []).append((scan, tensor.cpu().numpy()))
    for file, slices in cases.items():
        first, mask = slices[0]
        if first.index is not None:
            volume = np.zeros(grid(first.source).shape, mask.dtype)
            along = np.moveaxis(volume, AXES.index(first.axis), 0)
            for scan, values in slices:
                along[scan.index] = values
            mask = volume
        write_mask(file, mask, like=first.source if is_nifti(first.source) else None)
    return list(cases)

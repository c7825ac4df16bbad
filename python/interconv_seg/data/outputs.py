"""Segmentations as files: named as the images, inside the folder that the user gave, and never over an input.

Beside the masks, a folder can hold maps of numbers from 0 to 1 in folders of their own: `probabilities` of the classes
and `uncertainty`. NIfTI and PNG store them as 16-bit integers, 65535 for 1 (NIfTI names the factor, so that readers get
0 to 1); .npz as float16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from interconv_kernels._files import replacing

from . import nifti
from .errors import DataError
from .files import ending_of, write_mask
from .nifti import AXES, grid, is_nifti
from .scans import Scan

MapKind: TypeAlias = Literal["probabilities", "uncertainty"]
MAPS: tuple[MapKind, ...] = get_args(MapKind)
FULL_SCALE = 65535  # the 16-bit integer that stands for 1


class Segmented(Protocol):
    """What is written of a scan, such as an `inference.Segmentation`."""

    @property
    def scan(self) -> Scan: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def probabilities(self) -> Tensor: ...
    @property
    def uncertainty(self) -> Tensor: ...


def mask_file(folder: Path, scan: Scan) -> Path:
    """The file of the mask of a scan: `folder`/<case>, NIfTI for NIfTI, else PNG.

    Args:
        folder: of the outputs.
        scan: of the image; all slices of a volume have one file.
    """
    return folder / (scan.case + (ending_of(scan.source) if is_nifti(scan.source) else ".png"))


def map_file(folder: Path, scan: Scan, kind: MapKind) -> Path:
    """The file of a map: `folder`/<kind>/<case>, named as the mask; probabilities that are not NIfTI are .npz.

    Args:
        folder: of the outputs.
        scan: as in `mask_file`.
        kind: of the map.
    """
    if kind == "probabilities" and not is_nifti(scan.source):
        return folder / kind / f"{scan.case}.npz"
    return mask_file(folder / kind, scan)


def check_outputs(
    folder: Path,
    scans: Iterable[Scan],
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
    maps: Sequence[MapKind] = (),
) -> None:
    """Checks that the masks of scans can be written without harm, before anything is.

    Args:
        folder: of the outputs.
        scans: the scans.
        overwrite: whether masks of an earlier call may be replaced.
        inputs: files that were read besides those of the scans.
        maps: that will be written, too.

    Raises:
        DataError: a file would lie outside `folder` (links are followed), is one of the inputs, exists, or is named as
            the file of another image.
    """
    scans = list(scans)
    read = {file.resolve() for scan in scans for file in scan.files} | {file.resolve() for file in inputs}
    root = folder.resolve()
    if root.exists() and not root.is_dir():
        raise DataError(f"{folder}: is no folder, expected one for the masks")
    owners: dict[Path, str] = {}
    for scan in scans:
        for file in (mask_file(folder, scan), *(map_file(folder, scan, kind) for kind in maps)):
            if owners.setdefault(file, scan.case) != scan.case:
                raise DataError(f"{file}: would be the file of {owners[file]} and of {scan.case}, expected other names")
    for file in owners:
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
    cases: dict[Path, dict[Scan, np.ndarray]] = {}
    for scan, tensor in zip(scans, masks, strict=True):
        cases.setdefault(mask_file(folder, scan), {})[scan] = tensor.cpu().numpy()
    for file, slices in cases.items():
        _write_mask(file, slices)
    return list(cases)


def write_segmentations(
    folder: Path,
    segmentations: Iterable[Segmented],
    maps: Sequence[MapKind] = (),
    classes: Sequence[str] = (),
    overwrite: bool = False,
) -> list[Path]:
    """Writes the masks of segmentations as `write_masks` does, and maps of them, each case as soon as it is complete.

    Args:
        folder: created if needed.
        segmentations: such as from `inference.segment`. The slices of a volume follow each other.
        maps: which, as in `map_file`. Probabilities [classes,H,W] have the classes last in NIfTI, [X,Y,Z,classes], and
            are the array `probabilities` of an .npz beside `classes`, their names.
        classes: the names of the classes, the background first.
        overwrite: as in `check_outputs`.

    Returns:
        The files of the masks.

    Raises:
        DataError: as in `check_outputs`; or the slices of a volume do not follow each other.
    """
    files: list[Path] = []
    for _, case in groupby(segmentations, key=lambda found: found.scan.case):
        slices: dict[str, dict[Scan, np.ndarray]] = {}
        for found in case:  # kept as they are stored: the probabilities of a whole volume in float32 would be twice it
            slices.setdefault("masks", {})[found.scan] = found.mask.short().cpu().numpy()
            for kind in maps:
                values = getattr(found, kind).cpu().numpy()
                slices.setdefault(kind, {})[found.scan] = _stored(values, map_file(folder, found.scan, kind))
        scans = list(slices["masks"])
        file = mask_file(folder, scans[0])
        if file in files:
            raise DataError(f"{file}: the slices of {scans[0].case} do not follow each other, expected them to")
        check_outputs(folder, scans, overwrite, maps=maps)
        for kind in maps:
            _write_map(map_file(folder, scans[0], kind), slices[kind], classes)
        _write_mask(file, slices["masks"])
        files.append(file)
    return files


def _write_mask(file: Path, slices: Mapping[Scan, np.ndarray]) -> None:
    source = next(iter(slices)).source
    write_mask(file, _joined(slices), like=source if is_nifti(source) else None)


def _write_map(file: Path, slices: Mapping[Scan, np.ndarray], classes: Sequence[str]) -> None:
    values = _joined(slices)
    if is_nifti(file):
        source = next(iter(slices)).source
        has_classes = next(iter(slices.values())).ndim == 3
        nifti.write(file, np.moveaxis(values, 0, -1) if has_classes else values, source, scale=1 / FULL_SCALE)
        return
    with replacing(file) as partial:
        if file.suffix == ".npz":
            np.savez_compressed(partial, probabilities=values, classes=np.array(classes))
        else:
            Image.fromarray(values).save(partial)


def _joined(slices: Mapping[Scan, np.ndarray]) -> np.ndarray:
    """[...,H,W] of an image, or [...,X,Y,Z] of all slices of a volume."""
    first, values = next(iter(slices.items()))
    if first.index is None:
        return values
    leading = values.shape[:-2]
    volume = np.zeros((*leading, *grid(first.source).shape), values.dtype)
    along = np.moveaxis(volume, len(leading) + AXES.index(first.axis), 0)
    for scan, found in slices.items():
        along[scan.index] = found
    return volume


def _stored(values: np.ndarray, file: Path) -> np.ndarray:
    """Numbers from 0 to 1 as a map's file holds them."""
    if file.suffix == ".npz":
        return values.astype(np.float16)
    return (values.clip(0, 1) * FULL_SCALE).round().astype(np.uint16)

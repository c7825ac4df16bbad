"""Readers: which images a folder or file holds, as a `Collection`.

The slices of a NIfTI volume (sagittal, coronal or axial) are 2-D images of one subject. An image is decoded when its
scan is loaded; before that, only the headers of NIfTI files are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import nifti
from .errors import DataError, reading
from .files import ENDINGS, MAX_LABEL, ending_of, read_image, read_mask
from .nifti import Axis, is_nifti
from .npz import read_npz
from .scans import Collection, Scan, check_unique, progress, safe_name
from .subjects import group_by_regex, group_by_table
from .synthetic import SyntheticTasks, is_synthetic
from .tables import read_table


def read(path: Path | str, axis: Axis = "axial", group_regex: str | None = None) -> Collection:
    """Reads the images at a path.

    A file `subjects.csv` in the folder (columns `case`, `subject`) names the subject of each case.

    Args:
        path: an .npz file (`read_npz`), an nnU-Net raw folder with a dataset.json or its imagesTr or imagesTs
            (`read_nnunet`), a plain folder (`read_folder`), or `synthetic:...` (`SyntheticTasks`).
        axis: the anatomical plane of the slices of volumes.
        group_regex: a regular expression that finds the subject in the name of a case, instead (`group_by_regex`).

    Raises:
        DataError: it is none of these, or cannot be used.
    """
    if is_synthetic(path):
        return SyntheticTasks.parse(str(path)).read()
    path = Path(path)
    collection = _read(path, axis)
    if group_regex is not None:
        return group_by_regex(collection, group_regex)
    table = path / "subjects.csv"
    return group_by_table(collection, table) if table.exists() else collection


def _read(path: Path, axis: Axis) -> Collection:
    if path.suffix == ".npz":
        return read_npz(path)
    if (path / "dataset.json").exists():
        return read_nnunet(path, axis=axis)
    if path.name in ("imagesTr", "imagesTs") and (path.parent / "dataset.json").exists():
        return read_nnunet(path.parent, "Tr" if path.name == "imagesTr" else "Ts", axis)
    if path.is_dir():
        return read_folder(path, axis)
    raise DataError(f"{path}: expected a folder of images, an nnU-Net raw folder, or an .npz file")


def read_nnunet(folder: Path | str, split: Literal["Tr", "Ts"] = "Tr", axis: Axis = "axial") -> Collection:
    """Reads an nnU-Net (version 2) raw folder.

    It holds dataset.json, images<split>/<case>_<channel>.<ending> with channels 0000, 0001, ..., and
    labels<split>/<case>.<ending>. Each case is a subject. The channels of a case are its files in order; one colour
    picture may hold all three. Pixels with the label `ignore` become IGNORED. A folder without labels<split> has no
    masks.

    Args:
        folder: the folder of the dataset.
        split: "Tr", or "Ts" (then labels are optional).
        axis: the anatomical plane of the slices of volumes.

    Raises:
        DataError: dataset.json lacks channel_names, labels or file_ending, or they cannot be used; a channel or a label
            file is missing, or labels have no image; a NIfTI file is broken; images and labels have different shapes.
    """
    folder = Path(folder)
    about = _dataset_json(folder / "dataset.json")
    ending = about["file_ending"]
    channels = len(about["channel_names"])
    images, masks = folder / f"images{split}", folder / f"labels{split}"
    first_channel = f"_0000{ending}"
    firsts = sorted(images.glob(f"*{first_channel}"))
    if not firsts:
        raise DataError(f"{images}: expected images named <case>{first_channel}")
    scans: list[Scan] = []
    for first in firsts:
        case = first.name.removesuffix(first_channel)
        files = [images / f"{case}_{channel:04d}{ending}" for channel in range(channels)]
        if not is_nifti(first) and not any(file.exists() for file in files[1:]):
            files = [first]  # all channels in one colour picture
        for file in files:
            if not file.exists():
                raise DataError(f"{file}: no such file, expected {channels} channels of case {case}")
        mask: Path | None = masks / f"{case}{ending}"
        if mask is not None and not mask.exists():
            if split == "Tr" and masks.exists():
                raise DataError(f"{mask}: no such file, expected the labels of case {case}")
            mask = None
        scans += _scans_of(files, mask, case, case, folder.name, axis, about["ignore"])
    cases = {scan.case for scan in scans}
    for labelled in sorted(masks.glob(f"*{ending}")):
        case = labelled.name.removesuffix(ending)
        if case not in cases:
            raise DataError(f"{labelled}: its image is missing, expected {images / (case + first_channel)}")
    return Collection(folder.name, tuple(scans), about["labels"])


def read_folder(folder: Path | str, axis: Axis = "axial") -> Collection:
    """Reads a plain folder of images (NIfTI, PNG, TIFF, BMP, JPEG).

    A file sets.csv in it lists the images. Its columns are `set` (the subject, or any name for images that belong
    together), `image` and, optionally, `mask`: paths relative to the folder; an empty mask means none. Further columns
    whose names begin with `image`, such as `image_t2`, are further channels, in their order. Without sets.csv, all
    images in the folder (not in its subfolders) are one set, without masks.

    The labels are the values that the masks hold (see `read_mask`); all masks are read for that.

    Args:
        folder: the folder.
        axis: the anatomical plane of the slices of volumes.

    Raises:
        DataError: there is no image, a column or file is missing, an image is listed twice, or a mask or a NIfTI file
            is broken.
    """
    folder = Path(folder)
    rows = _sets_csv(folder / "sets.csv") if (folder / "sets.csv").exists() else _all_in(folder)
    scans: list[Scan] = []
    for subject, images, mask in rows:
        case = safe_name(images[0][: -len(ending_of(folder / images[0]))], folder / "sets.csv")
        mask_file = folder / mask if mask else None
        files = [folder / image for image in images]
        scans += _scans_of(files, mask_file, case, subject, folder.resolve().name, axis)
    check_unique(scans, folder)
    values: set[int] = set()
    for scan in progress(scans, f"reading the masks of {folder.resolve().name}"):
        if scan.mask_reader is not None:
            values.update(np.unique(scan.mask_reader()).tolist())
    return Collection(folder.resolve().name, tuple(scans), {value: str(value) for value in sorted(values - {0})})


def _scans_of(
    files: list[Path],
    mask: Path | None,
    case: str,
    subject: str,
    task: str,
    axis: Axis,
    ignore: int | None = None,
) -> Iterable[Scan]:
    """The scans in the files of one case: one, or one for each slice."""
    first, *others = [*files, *([mask] if mask is not None else [])]
    count = nifti.slice_count(first, axis) if is_nifti(first) else None
    for other in others:
        if is_nifti(first) and is_nifti(other):
            nifti.check_same_grid(first, other)
        elif count is not None:
            raise DataError(f"{other}: a 2-D image, expected {count} slices as {first} has")
    like = first if is_nifti(first) else None
    for index in [None] if count is None else range(count):
        image_readers = tuple(partial(read_image, file, index, axis) for file in files)
        mask_reader = None if mask is None else partial(read_mask, mask, index, axis, like, ignore)
        yield Scan(case, index, subject, task, (first, *others), image_readers, mask_reader, axis)


def _all_in(folder: Path) -> list[tuple[str, list[str], str]]:
    """(set, [image], "") of each image in a folder without sets.csv."""
    try:
        names = sorted(file.name for file in folder.iterdir() if file.name.lower().endswith(ENDINGS) and file.is_file())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}), expected a folder of images") from error
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise DataError(f"{folder}: no images in it, expected {', '.join(ENDINGS)}")
    return [(folder.resolve().name, [name], "") for name in names]


def _sets_csv(file: Path) -> list[tuple[str, list[str], str]]:
    """(set, images, mask or "") of each row."""
    columns, rows = read_table(file, ("set", "image"))
    image_columns = ["image", *(name for name in columns if name.startswith("image") and name != "image")]
    listed = []
    for line, row in rows:
        subject, mask, *images = (row.get(column, "") for column in ("set", "mask", *image_columns))
        if not subject or not all(images):
            raise DataError(f"{file}, line {line}: set {subject!r}, images {images}, expected all of them")
        for name in filter(None, (*images, mask)):
            if not os.path.isfile(file.parent / name):  # Path.is_file raises for some impossible names
                raise DataError(f"{file}, line {line}: {file.parent / name}: no such file")
        listed.append((subject, images, mask))
    return listed


def _dataset_json(file: Path) -> dict[str, Any]:
    """file_ending, channel_names, labels (class index -> name, without the background) and ignore (index or None)."""
    with reading(file, "JSON"):
        about = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(about, dict):
        raise DataError(f"{file}: expected an object with channel_names, labels and file_ending")
    for key, kind in (("channel_names", dict), ("labels", dict), ("file_ending", str)):
        if not isinstance(about.get(key), kind) or not about[key]:
            raise DataError(
                f"{file}: {key} is {about.get(key)!r}, expected the {key} of an nnU-Net (version 2) dataset"
            )
    if about["file_ending"].lower() not in ENDINGS:
        raise DataError(f"{file}: file_ending is {about['file_ending']!r}, expected one of {', '.join(ENDINGS)}")
    labels: dict[int, str] = {}
    for name, value in about["labels"].items():
        if type(value) is not int or not 0 <= value <= MAX_LABEL or value in labels:
            raise DataError(
                f"{file}: label {name!r} is {value!r}, expected unique class indices from 0 (regions are not supported)"
            )
        labels[value] = name
    ignore = next((value for value, name in labels.items() if name == "ignore"), None)
    labels = {value: name for value, name in labels.items() if value not in (0, ignore)}
    return {**about, "labels": labels, "ignore": ignore}

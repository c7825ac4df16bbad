"""Readers: which images a folder or file holds, as a `Collection`.

The slices of a NIfTI volume (sagittal, coronal or axial) are 2-D images of one subject. An image is decoded when its
scan is loaded; before that, only the headers of NIfTI files are read.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import numpy as np

from . import nifti
from .errors import DataError
from .files import ENDINGS, MAX_LABEL, ending_of, read_image, read_mask
from .nifti import Axis, is_nifti
from .scans import Collection, Scan
from .subjects import group_by_regex, group_by_table


def read(path: Path | str, axis: Axis = "axial", group_regex: str | None = None) -> Collection:
    """Reads the images at a path.

    A file `subjects.csv` in the folder (columns `case`, `subject`) names the subject of each case.

    Args:
        path: an .npz file (`read_npz`), an nnU-Net raw folder with a dataset.json or its imagesTr or imagesTs
            (`read_nnunet`), or a plain folder (`read_folder`).
        axis: the anatomical plane of the slices of volumes.
        group_regex: a regular expression that finds the subject in the name of a case, instead (`group_by_regex`).

    Raises:
        DataError: it is none of these, or cannot be used.
    """
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
    picture may hold all three.

    Args:
        folder: the folder of the dataset.
        split: "Tr", or "Ts" (then labels are optional).
        axis: the anatomical plane of the slices of volumes.

    Raises:
        DataError: dataset.json lacks channel_names, labels or file_ending, or they cannot be used; a channel or a label
            file is missing; a NIfTI file is broken; images and labels have different shapes.
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
            if split == "Tr":
                raise DataError(f"{mask}: no such file, expected the labels of case {case}")
            mask = None
        scans += _scans_of(files, mask, case, case, folder.name, axis)
    return Collection(folder.name, tuple(scans), about["labels"])


def read_folder(folder: Path | str, axis: Axis = "axial") -> Collection:
    """Reads a plain folder of images (NIfTI, PNG, TIFF, BMP, JPEG).

    A file sets.csv in it lists the images. Its columns are `set` (the subject, or any name for images that belong
    together), `image` and, optionally, `mask`: paths relative to the folder; an empty mask means none. Without
    sets.csv, all images in the folder (not in its subfolders) are one set, without masks.

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
    for subject, image, mask in rows:
        case = _safe_name(image[: -len(ending_of(folder / image))], folder / "sets.csv")
        mask_file = folder / mask if mask else None
        scans += _scans_of([folder / image], mask_file, case, subject, folder.resolve().name, axis)
    _check_unique(scans, folder)
    values: set[int] = set()
    for scan in scans:
        if scan.mask_reader is not None:
            values.update(np.unique(scan.mask_reader()).tolist())
    return Collection(folder.resolve().name, tuple(scans), {value: str(value) for value in sorted(values - {0})})


def read_npz(file: Path | str) -> Collection:
    """Reads an .npz file of 2-D images of one size into memory.

    Its arrays are `images` [N,H,W] (real numbers), `ids` [N] (unique text), `labels` [N,H,W] (class indices),
    `label_names` [classes] (text, the background first) and, if only some images are labelled, `has_label` [N] (bool).
    The subject is the text of an id before its first "/"; a later part that is axial, coronal or sagittal belongs to
    the task.

    Args:
        file: the .npz file.

    Raises:
        DataError: the file is broken, or an array is missing or has another shape or dtype.
    """
    file = Path(file)
    arrays = _npz_arrays(file)
    scans = []
    columns = (arrays[key] for key in ("images", "labels", "ids", "has_label"))
    for image, label, name, labelled in zip(*columns, strict=True):
        subject, *rest = str(name).split("/")
        plane = [part for part in rest if part in nifti.AXES][:1]
        mask_reader = partial(label.astype, np.int16) if labelled else None
        task = "/".join([file.stem, *plane])
        case = _safe_name(str(name), file)
        scans.append(Scan(case, None, subject, task, (file,), (partial(np.asarray, image[None]),), mask_reader))
    _check_unique(scans, file)
    return Collection(file.stem, tuple(scans), dict(enumerate(arrays["label_names"].tolist()[1:], start=1)))


# key, kinds of dtype, number of axes
NPZ_ARRAYS = (("images", "buif", 3), ("labels", "bui", 3), ("ids", "U", 1), ("label_names", "U", 1))


def _npz_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of `read_npz`, checked; `has_label` is all True where the file has none."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            stored = {key: archive[key] for key in archive.files}
    except Exception as error:  # zip and header decoders raise anything
        message = getattr(error, "strerror", None) or str(error).splitlines()[0:1] or type(error).__name__
        raise DataError(f"{file}: cannot be read as an .npz file ({message})") from error
    arrays = {key: _array(file, stored, key, kinds, axes) for key, kinds, axes in NPZ_ARRAYS}
    images, labels, names = arrays["images"], arrays["labels"], arrays["label_names"]
    has_label = np.ones(len(images), bool)
    arrays["has_label"] = _array(file, stored, "has_label", "b", 1) if "has_label" in stored else has_label
    for key in ("labels", "ids", "has_label"):
        expected = images.shape if key == "labels" else images.shape[:1]
        if arrays[key].shape != expected:
            raise DataError(
                f"{file}: {key} has shape {arrays[key].shape}, expected {expected} as images has {images.shape}"
            )
    if labels.size and (labels.min() < 0 or labels.max() >= len(names)):
        raise DataError(
            f"{file}: labels hold {labels.min()} to {labels.max()}, expected class indices below {len(names)},"
            " the number of label_names"
        )
    return arrays


def _array(file: Path, arrays: Mapping[str, np.ndarray], key: str, kinds: str, axes: int) -> np.ndarray:
    if key not in arrays:
        raise DataError(f"{file}: no array {key!r}, expected {', '.join(spec[0] for spec in NPZ_ARRAYS)}")
    array = arrays[key]
    if array.dtype.kind not in kinds or array.ndim != axes:
        expected = {"b": "booleans", "U": "text", "bui": "integers", "buif": "real numbers"}[kinds]
        raise DataError(f"{file}: {key} is {array.dtype} of shape {array.shape}, expected {expected} with {axes} axes")
    if 0 in array.shape:
        raise DataError(f"{file}: {key} has shape {array.shape}, expected at least one image")
    return array


def _scans_of(files: list[Path], mask: Path | None, case: str, subject: str, task: str, axis: Axis) -> Iterable[Scan]:
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
        mask_reader = None if mask is None else partial(read_mask, mask, index, axis, like)
        yield Scan(case, index, subject, task, (first, *others), image_readers, mask_reader, axis)


def _safe_name(name: str, where: Path) -> str:
    """A name by which outputs can be named: relative, without "..", as `where` lists it otherwise."""
    path = PureWindowsPath(name)  # takes both slashes as separators
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    if not parts or not all(part.isprintable() for part in parts):
        raise DataError(f"{where}: an image is named {name!r}, expected a printable name")
    return "/".join(parts)


def _check_unique(scans: list[Scan], where: Path) -> None:
    names: set[str] = set()
    for scan in scans:
        if scan.name in names:
            raise DataError(f"{where}: two images are named {scan.name}, expected unique names")
        names.add(scan.name)


def _all_in(folder: Path) -> list[tuple[str, str, str]]:
    """(set, image, "") of each image in a folder without sets.csv."""
    try:
        names = sorted(file.name for file in folder.iterdir() if file.name.lower().endswith(ENDINGS) and file.is_file())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}), expected a folder of images") from error
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise DataError(f"{folder}: no images in it, expected {', '.join(ENDINGS)}")
    return [(folder.resolve().name, name, "") for name in names]


def _sets_csv(file: Path) -> list[tuple[str, str, str]]:
    """(set, image, mask or "") of each row."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream, strict=True)
            columns = table.fieldnames or []
            if "set" not in columns or "image" not in columns:
                raise DataError(f"{file}: columns {list(columns)}, expected set, image and optionally mask")
            rows = [(table.line_num, row) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as a table ({error})") from error
    if not rows:
        raise DataError(f"{file}: no rows, expected one for each image")
    listed = []
    for line, row in rows:
        subject, image, mask = ((row.get(column) or "").strip() for column in ("set", "image", "mask"))
        if not subject or not image:
            raise DataError(f"{file}, line {line}: set {subject!r}, image {image!r}, expected both")
        for name in filter(None, (image, mask)):
            if not os.path.isfile(file.parent / name):  # Path.is_file raises for some impossible names
                raise DataError(f"{file}, line {line}: {file.parent / name}: no such file")
        listed.append((subject, image, mask))
    return listed


def _dataset_json(file: Path) -> dict[str, Any]:
    """file_ending, channel_names and labels (class index -> name, without the background)."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error})") from error
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
        if name == "ignore" or type(value) is not int or not 0 <= value <= MAX_LABEL or value in labels:
            raise DataError(
                f"{file}: label {name!r} is {value!r}, expected unique class indices from 0 (regions and an ignore"
                " label are not supported)"
            )
        labels[value] = name
    labels.pop(0, None)
    return {**about, "labels": labels}

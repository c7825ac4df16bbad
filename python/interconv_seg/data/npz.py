"""Images in an .npz file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from . import nifti
from .errors import DataError, check_size, reading
from .scans import Collection, Scan, check_unique, safe_name

# array, kinds of dtype, number of axes
ARRAYS = (("images", "buif", 3), ("labels", "bui", 3), ("ids", "U", 1), ("label_names", "U", 1))


def read_npz(file: Path | str) -> Collection:
    """Reads an .npz file of 2-D images of one size into memory.

    Its arrays are `images` [N,H,W] (real numbers), `ids` [N] (unique text), `labels` [N,H,W] (class indices),
    `label_names` [classes] (text, the background first) and, if only some images are labelled, `has_label` [N] (bool).
    The subject is the text of an id before its first "/"; a later part that is axial, coronal or sagittal belongs to
    the task. With `tasks` [N] (text), an archive of several data sets names that of each image.

    Args:
        file: the .npz file.

    Raises:
        DataError: the file is broken, or an array is missing or has another shape or dtype.
    """
    file = Path(file)
    arrays = _npz_arrays(file)
    scans = []
    columns = (arrays[key] for key in ("images", "labels", "ids", "has_label", "tasks"))
    for image, label, name, labelled, task in zip(*columns, strict=True):
        subject, *rest = str(name).split("/")
        plane = [part for part in rest if part in nifti.AXES][:1]
        mask_reader = partial(label.astype, np.int16) if labelled else None
        case = safe_name(str(name), file)
        task_name = "/".join(filter(None, (file.stem, str(task), *plane)))
        image_reader = partial(np.asarray, image[None])
        scans.append(Scan(case, None, subject, task_name, (file,), (image_reader,), mask_reader))
    check_unique(scans, file)
    return Collection(file.stem, tuple(scans), dict(enumerate(arrays["label_names"].tolist()[1:], start=1)))


def _npz_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of `read_npz`, checked; without them, `has_label` is True and `tasks` "" for all images."""
    with reading(file, "an .npz file"), np.load(file, allow_pickle=False) as archive:
        for entry in archive.zip.infolist():
            check_size(file, [entry.file_size])
        stored = {key: archive[key] for key in archive.files}
    arrays = {key: _array(file, stored, key, kinds, axes) for key, kinds, axes in ARRAYS}
    images, labels, names = arrays["images"], arrays["labels"], arrays["label_names"]
    has_label = np.ones(len(images), bool)
    arrays["has_label"] = _array(file, stored, "has_label", "b", 1) if "has_label" in stored else has_label
    no_tasks = np.full(len(images), "")
    arrays["tasks"] = _array(file, stored, "tasks", "U", 1) if "tasks" in stored else no_tasks
    for key in ("labels", "ids", "has_label", "tasks"):
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
        raise DataError(f"{file}: no array {key!r}, expected {', '.join(spec[0] for spec in ARRAYS)}")
    array = arrays[key]
    if array.dtype.kind not in kinds or array.ndim != axes:
        expected = {"b": "booleans", "U": "text", "bui": "integers", "buif": "real numbers"}[kinds]
        raise DataError(f"{file}: {key} is {array.dtype} of shape {array.shape}, expected {expected} with {axes} axes")
    if 0 in array.shape:
        raise DataError(f"{file}: {key} has shape {array.shape}, expected at least one image")
    return array

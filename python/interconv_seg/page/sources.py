"""Which images there are at the places that a user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from ..data import DataError, Scan, read
from ..data.files import ENDINGS
from ..data.nifti import Axis
from ..data.scans import check_unique
from ..interactive.images import scans_of
from .examples import EXAMPLES

TABLES = ("sets.csv", "dataset.json")  # folders with one are read as in training


def example_scans(name: str) -> tuple[list[Scan], Mapping[int, str]]:
    """The images of an example and the names of its labels.

    Args:
        name: of the example.

    Raises:
        ValueError: there is no such example.
    """
    if name not in EXAMPLES:
        raise ValueError(f"no example {name!r:.40}, expected one of {', '.join(EXAMPLES)}")
    return EXAMPLES[name].scans(), EXAMPLES[name].labels


def file_scans(
    paths: Sequence[Path], refused: list[dict[str, str]], axis: str = "axial"
) -> tuple[list[Scan], Mapping[int, str]]:
    """The images at paths, and the names of the labels of their masks, if they have any.

    Args:
        paths: image files and folders of them; or one .npz, one folder with a sets.csv or an nnU-Net raw folder.
        refused: takes the name of each file that cannot be used, and why.
        axis: the anatomical plane of the slices of volumes.

    Raises:
        DataError: there is no image.
    """
    plane = cast(Axis, axis)
    if len(paths) == 1 and (paths[0].suffix == ".npz" or any((paths[0] / table).exists() for table in TABLES)):
        collection = read(paths[0], plane)
        return list(collection.scans), collection.labels
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    scans: list[Scan] = []
    for file in files:
        is_image = file.is_file() and file.name.lower().endswith(ENDINGS) and not file.name.startswith(".")
        if not is_image and file not in paths:
            continue
        try:
            found = scans_of(file, plane)
            check_unique([*scans, *found], file.parent)
            scans += found
        except DataError as error:
            refused.append({"name": file.name, "why": str(error)})
    if not scans:
        why = f" ({refused[0]['why']})" if refused else ""
        raise DataError(f"{paths[0]}: no image that can be used{why}, expected {', '.join(ENDINGS)}")
    return scans, {}

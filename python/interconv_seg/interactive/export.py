"""The results of a session as files.

masks/labels/           the number of the structure of each pixel; NIfTI for NIfTI, else PNG
masks/<structure>/      one mask for each structure (`one_file="structure"`)
overlays/               pictures of the images with the outlines of the masks
probabilities/<structure>/   float32 NIfTI for NIfTI, else .npz
prompts/<structure>/    as `interconv segment --prompts` reads them
results.csv             area, uncertainty and Dice of every mask
labels.json             the names of the structures
session.json            the session (`Session.restore`)
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from PIL import Image

from interconv_kernels._files import replacing, write_text

from ..data import Scan, nifti, unit_range, write_masks
from ..data.nifti import is_nifti
from .measures import dice, labels
from .operations import Size
from .session import Session

Content: TypeAlias = Literal["masks", "overlays", "probabilities", "prompts", "table", "session"]
CONTENTS: tuple[Content, ...] = get_args(Content)
# Okabe and Ito's colours, which colour-blind people can tell apart; the page has the same.
COLORS = ((0, 158, 115), (230, 159, 0), (86, 180, 233), (213, 94, 0), (204, 121, 167), (240, 228, 66), (0, 114, 178))


@dataclass(frozen=True)
class Choice:
    """What is exported.

    Attributes:
        contents: which folders and files.
        one_file: masks with one file for all structures of an image ("image"), or one for each ("structure").
        structures: the numbers of the structures; None: all.
        threshold: of the probabilities, from 0 to 1.
        accepted_only: only accepted images.
    """

    contents: tuple[Content, ...] = CONTENTS
    one_file: Literal["image", "structure"] = "image"
    structures: tuple[int, ...] | None = None
    threshold: float = 0.5
    accepted_only: bool = False

    @classmethod
    def from_json(cls, content: object) -> Choice:
        """Checks a choice that came from elsewhere.

        Args:
            content: an object with some of the attributes.

        Raises:
            ValueError: it is not such an object.
        """
        if not isinstance(content, dict) or not set(content) <= set(cls.__dataclass_fields__):
            raise ValueError(f"an export with {content!r:.80}, expected some of {', '.join(cls.__dataclass_fields__)}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        choice = cls(**values)
        contents, structures = choice.contents, choice.structures
        known = isinstance(contents, tuple) and all(isinstance(c, str) and c in CONTENTS for c in contents)
        if not known or not contents:
            raise ValueError(f"contents are {contents!r:.80}, expected some of {', '.join(CONTENTS)}")
        if choice.one_file not in ("image", "structure"):
            raise ValueError(f"one_file is {choice.one_file!r:.80}, expected 'image' or 'structure'")
        if structures is not None and not (
            isinstance(structures, tuple) and structures and all(type(s) is int and s >= 1 for s in structures)
        ):
            raise ValueError(f"structures are {structures!r:.80}, expected numbers from 1")
        if type(choice.threshold) not in (int, float) or not 0 < choice.threshold < 1:
            raise ValueError(f"threshold is {choice.threshold!r:.80}, expected a number between 0 and 1")
        if not isinstance(choice.accepted_only, bool):
            raise ValueError(f"accepted_only is {choice.accepted_only!r:.80}, expected true or false")
        return choice


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def export(session: Session, folder: Path, choice: Choice = Choice()) -> list[Path]:
    """Writes the results of a session.

    Args:
        session: the session.
        folder: a new one, or one without any of the files.
        choice: what is written.

    Returns:
        The files.

    Raises:
        DataError: a file exists.
        ValueError: no image or structure is left to export.
    """
    names = session.history.state.structures
    numbers = list(choice.structures or range(1, len(names) + 1))
    if max(numbers) > len(names):
        raise ValueError(f"structure {max(numbers)}, expected one up to {len(names)}")
    accepted = session.history.state.accepted
    images = [i for i in range(len(session.pictures)) if not choice.accepted_only or i in accepted]
    if not images:
        raise ValueError("no image is accepted, expected at least one (or all images)")
    folders = structure_folders(names)
    scans = [session.pictures[i].scan for i in images]
    files: list[Path] = []
    if "masks" in choice.contents:
        if choice.one_file == "image":
            maps = (torch.from_numpy(_label_map(session, i, numbers, choice.threshold)) for i in images)
            files += write_masks(folder / "masks" / "labels", scans, maps)
        else:
            for s in numbers:
                maps = (torch.from_numpy(_label_map(session, i, numbers, choice.threshold) == s).byte() for i in images)
                files += write_masks(folder / "masks" / folders[s], scans, maps)
    if "overlays" in choice.contents:
        for i in images:
            file = folder / "overlays" / f"{session.pictures[i].name}.png"
            _write_overlay(file, session, i, _label_map(session, i, numbers, choice.threshold))
            files.append(file)
    for s in numbers:
        if "probabilities" in choice.contents:
            found = [session.stored_probabilities(i)[s - 1].numpy() for i in images]
            files += _write_probabilities(folder / "probabilities" / folders[s], scans, found)
        prompted = {stroke.image for stroke in session.strokes(s)}
        if "prompts" in choice.contents and prompted:
            whole = [i for i, picture in enumerate(session.pictures) if _case_has(session, picture.scan, prompted)]
            drawn = [torch.from_numpy(session.drawing(s, i).copy()) for i in whole]
            files += write_masks(folder / "prompts" / folders[s], [session.pictures[i].scan for i in whole], drawn)
    if "table" in choice.contents:
        write_text(folder / "results.csv", table(session, images, numbers, choice.threshold))
        write_text(folder / "labels.json", json.dumps(dict(enumerate(["background", *names])), indent=2) + "\n")
        files += [folder / "results.csv", folder / "labels.json"]
    if "session" in choice.contents:
        session.save(folder / "session.json")
        files.append(folder / "session.json")
    return files


def structure_folders(names: Sequence[str]) -> dict[int, str]:
    """The name of the folder of each structure: its number and what of its name is safe in a path.

    Args:
        names: of the structures.
    """
    return {
        s: f"{s}-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-') or 'structure'}" for s, name in enumerate(names, 1)
    }


def table(session: Session, images: Iterable[int], numbers: Sequence[int], threshold: float = 0.5) -> str:
    """A CSV with a row for each image and structure.

    Args:
        session: the session.
        images: indices.
        numbers: of the structures.
        threshold: of the probabilities.
    """
    state = session.history.state
    uncertainties = {s: session.uncertainty(s) for s in numbers}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "structure", "name", "pixels", "uncertainty", "strokes", "accepted", "dice"])
    for i in images:
        found = _label_map(session, i, numbers, threshold)
        picture = session.pictures[i]
        for s in numbers:
            label = label_of(session, s)
            score = math.nan
            if picture.truth is not None and label is not None:
                score = dice(session.probabilities(s)[i] > threshold, picture.truth, label)
            strokes, pixels = len(session.strokes(s, i)), int((found == s).sum())
            row = [picture.name, s, state.structures[s - 1], pixels, f"{uncertainties[s][i]:.4f}", strokes]
            writer.writerow([*row, int(i in state.accepted), "" if math.isnan(score) else f"{score:.4f}"])
    return stream.getvalue()


def label_of(session: Session, structure: int) -> int | None:
    """The label of a structure in the masks that come with the images: that of the same name."""
    name = session.history.state.structures[structure - 1]
    return next((label for label, known in session.label_names.items() if known == name), None)


def _label_map(session: Session, image: int, numbers: Sequence[int], threshold: float) -> np.ndarray:
    """int64 [h,w]: the number of the structure of each pixel, among `numbers`, or 0."""
    found = session.stored_probabilities(image)[[s - 1 for s in numbers]]
    position = labels(found, threshold)
    return np.array([0, *numbers])[position.numpy()]


def _case_has(session: Session, scan: Scan, images: Iterable[int]) -> bool:
    """Whether one of the images is of the same file: the slices of a volume have one file of prompts."""
    return any(session.pictures[i].scan.case == scan.case for i in images)


def _write_probabilities(folder: Path, scans: Sequence[Scan], found: Sequence[np.ndarray]) -> list[Path]:
    files = []
    volumes: dict[Path, tuple[Scan, np.ndarray]] = {}
    for scan, values in zip(scans, found, strict=True):
        if not is_nifti(scan.source):
            file = folder / f"{scan.case}.npz"
            with replacing(file) as partial:
                np.savez_compressed(partial, probabilities=values)
            files.append(file)
        elif scan.index is None:
            volumes[scan.source] = (scan, values)
        else:
            if scan.source not in volumes:
                volumes[scan.source] = (scan, np.zeros(nifti.grid(scan.source).shape, np.float32))
            np.moveaxis(volumes[scan.source][1], nifti.AXES.index(scan.axis), 0)[scan.index] = values
    for source, (scan, values) in volumes.items():
        file = folder / (scan.case + nifti_ending(source))
        nifti.write(file, values, source)
        files.append(file)
    return files


def nifti_ending(path: Path) -> str:
    """.nii.gz or .nii."""
    return next(path.name[-len(ending) :] for ending in nifti.ENDINGS if path.name.lower().endswith(ending))


def _write_overlay(file: Path, session: Session, image: int, found: np.ndarray) -> None:
    plane = unit_range(torch.from_numpy(session.pictures[image].plane().astype(np.float64))).numpy()
    grey = np.moveaxis(plane if len(plane) == 3 else np.repeat(plane[:1], 3, axis=0), 0, 2)
    picture = (255 * grey).round().astype(np.uint8)
    picture[outlines(found)] = np.array(COLORS)[(found[outlines(found)] - 1) % len(COLORS)]
    with replacing(file) as partial:
        Image.fromarray(picture).save(partial)


def outlines(found: np.ndarray) -> np.ndarray:
    """bool [h,w]: pixels of a structure with a neighbour that is not of it."""
    padded = np.pad(found, 1, mode="edge")
    inner = np.ones(found.shape, bool)
    size: Size = (found.shape[0], found.shape[1])
    for row, column in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inner &= padded[row : row + size[0], column : column + size[1]] == found
    return (found > 0) & ~inner

"""A session: strokes on some images of a set, and the masks of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interconv_kernels._files import write_text

from ..data import DataError, Scan
from .engine import Engine
from .files import about, read_history
from .images import ImageLike, Picture, load, open_images
from .measures import labels, uncertainty
from .model import Model, default_model
from .operations import History, Operation, Point, Size, Stroke
from .planes import packed, unpacked
from .raster import Drawing

PAINTED_SIZE = (256, 256)  # the grid of a session without a network


class Session:
    """Interactive segmentation of a set of images: prompts on some of them give the masks of all.

        session = Session(images, Model.open([run]))
        masks = session.stroke(0, [(40, 52), (60, 55)]).masks()

    All methods that change something return the session. A structure is a number from 1. Points are (x, y) in pixels of
    the stored image.

    Attributes:
        pictures: the images.
        label_names: of the values of their masks, where they have any.
        model: the network; None: masks are what is painted.
        history: all operations.
        pending: a stroke that is being drawn.
        engine: computes the probabilities.

    Args:
        images: a path as in `data.read`, scans, or arrays: grey [H,W] or colour [H,W,3], of any sizes.
        model: the network. Default: that of the package, if it comes with one.
        structures: the names of the first structures. Default: the first label of the images, if they have masks.
        progress: called with the number of images that are read, and of all.
        refused: called with the name of an image that cannot be read, and the reason; it is then left out.

    Raises:
        DataError: an image cannot be read (without `refused`).
        TypeError: an array is not such an image.
        ValueError: there are no images.
    """

    def __init__(
        self,
        images: Path | str | Sequence[Scan] | Sequence[ImageLike],
        model: Model | None = None,
        structures: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
        refused: Callable[[str, str], None] | None = None,
    ):
        scans, self.label_names = open_images(images)
        self.model = default_model() if model is None else model
        self.grid: Size = PAINTED_SIZE if self.model is None else self.model.size
        self.pictures: list[Picture] = []
        for number, scan in enumerate(scans, 1):
            try:
                self.pictures.append(load(scan, self.grid, None if self.model is None else self.model.channels))
            except DataError as error:
                if refused is None:
                    raise
                refused(scan.name, str(error))
            if progress is not None:
                progress(number, len(scans))
        if not self.pictures:
            raise ValueError(f"none of {len(scans)} images can be read, expected at least one")
        if structures is None:
            structures = list(self.label_names.values())[:1] or ["structure 1"]
        self.history = History([picture.size for picture in self.pictures], structures)
        self.pending: Stroke | None = None
        self.engine = Engine(torch.stack([picture.image for picture in self.pictures]), self.model)
        self._reset()

    def _reset(self) -> None:
        self._drawings: dict[tuple[int, int], Drawing] = {}
        self._found: dict[int, tuple[Any, Tensor]] = {}  # structure -> (the strokes it is of, probabilities)

    # Changes

    def do(self, operation: Mapping[str, Any]) -> Operation | None:
        """Performs an operation (`History.do`). The masks of an accepted image are kept in the operation.

        Args:
            operation: as there.

        Raises:
            ValueError: as there.
        """
        if operation.get("op") == "accept" and operation.get("accepted") is True:
            image = self.history.parse(dict(operation)).values["image"]
            operation = {**operation, "planes": self._planes(image)}
        return self.history.do(operation)

    def stroke(
        self, image: int, points: Sequence[Point], positive: bool = True, structure: int = 1, radius: float = 1.0
    ) -> Session:
        """Draws a scribble, or a click if there is one point.

        Args:
            image: its index.
            points: (x, y) in pixels of the stored image.
            positive: inside the structure, or outside.
            structure: the number of the structure.
            radius: in pixels of the network's grid.

        Raises:
            ValueError: a value is out of range, or the image is accepted.
        """
        stroke = {"image": image, "points": [list(map(float, point)) for point in points], "positive": positive}
        return self._perform("stroke", **stroke, structure=structure, radius=radius)

    def erase(self, stroke: str) -> Session:
        """Removes a stroke.

        Args:
            stroke: the id of a stroke in `history.state`.

        Raises:
            ValueError: there is no such stroke, or its image is accepted.
        """
        return self._perform("erase", stroke=stroke)

    def accept(self, image: int, accepted: bool = True) -> Session:
        """Locks the masks of an image: later prompts do not change them, and its own prompts still help the others.

        What is kept are the probabilities in 255 steps, those above 1/2 exactly where they are now.

        Args:
            image: its index.
            accepted: False unlocks it.

        Raises:
            ValueError: there is no such image.
        """
        return self._perform("accept", image=image, accepted=accepted)

    def add_structure(self, name: str) -> Session:
        """Adds a structure, with the next number.

        Args:
            name: a new one.

        Raises:
            ValueError: the name is known.
        """
        return self._perform("structure", name=name)

    def undo(self) -> Session:
        """Undoes the last operation, if there is one."""
        self.history.undo()
        return self

    def redo(self) -> Session:
        """Performs the last undone operation again, if there is one."""
        self.history.redo()
        return self

    def _perform(self, op: str, **values: Any) -> Session:
        self.do({"op": op, "id": f"call {len(self.history.operations)} {len(self.history._seen)}", **values})
        return self

    # Results

    def masks(self, structure: int = 1) -> list[np.ndarray]:
        """The mask of a structure on every image, bool [h,w] at its stored size. Structures do not overlap.

        Args:
            structure: the number of the structure.
        """
        return [found == structure for found in self.label_maps()]

    def label_maps(self) -> list[np.ndarray]:
        """The number of the structure of each pixel, 0 for none: int64 [h,w] for every image.

        Where masks meet, the larger probability wins.
        """
        return [self.label_map(i) for i in range(len(self.pictures))]

    def label_map(self, image: int) -> np.ndarray:
        """One of `label_maps`.

        Args:
            image: its index.
        """
        return labels(self.stored_probabilities(image)).numpy()

    def stored_probabilities(self, image: int) -> Tensor:
        """The probabilities of all structures on an image, float32 [S,h,w] at its stored size.

        Args:
            image: its index.
        """
        numbers = range(1, len(self.history.state.structures) + 1)
        found = torch.stack([self.probabilities(structure)[image] for structure in numbers])
        size = self.pictures[image].size
        return (
            found if found.shape[1:] == size else F.interpolate(found[None], size, mode="bilinear", antialias=True)[0]
        )

    def probabilities(self, structure: int = 1) -> Tensor:
        """The probabilities of a structure on all images, float32 [K,H,W] on the network's grid.

        Args:
            structure: the number of the structure.
        """
        key = self.key(structure)
        if structure not in self._found or self._found[structure][0] != key:
            found = self.blank()
            for images, part in self.engine.predict(self.prompts(structure)):
                found[images] = part
            self._found[structure] = (key, found)
        return self.locked(self._found[structure][1], structure)

    def uncertainty(self, structure: int = 1) -> list[float]:
        """How unsure the mask of each image is (`measures.uncertainty`).

        Args:
            structure: the number of the structure.
        """
        return uncertainty(self.probabilities(structure)).tolist()

    # What the page computes step by step

    def strokes(self, structure: int, image: int | None = None) -> list[Stroke]:
        """The strokes of a structure, with the pending one.

        Args:
            structure: the number of the structure.
            image: only those on this image.
        """
        strokes = [*self.history.state.strokes.values(), *([self.pending] if self.pending else [])]
        return [s for s in strokes if s.structure == structure and image in (None, s.image)]

    def key(self, structure: int) -> Any:
        """Equal if the strokes are equal: what the probabilities depend on."""
        return tuple((stroke.id, len(stroke.points)) for stroke in self.strokes(structure))

    def prompts(self, structure: int) -> dict[int, Tensor]:
        """The prompts of a structure, float32 [2,H,W] for each image that has any.

        Args:
            structure: the number of the structure.
        """
        by_image: dict[int, list[Stroke]] = {}
        for stroke in self.strokes(structure):
            by_image.setdefault(stroke.image, []).append(stroke)
        found = {image: self._drawing(structure, image, strokes).prompts() for image, strokes in by_image.items()}
        return {image: drawn for image, drawn in sorted(found.items()) if drawn is not None}

    def drawing(self, structure: int, image: int) -> np.ndarray:
        """The strokes of a structure on an image as a prompt file has them (`Drawing.values`).

        Args:
            structure: the number of the structure.
            image: its index.
        """
        return self._drawing(structure, image, self.strokes(structure, image)).values

    def kept(self, structure: int) -> tuple[Any, Tensor] | None:
        """The last probabilities of a structure [K,H,W], with the `key` that they are of.

        Args:
            structure: the number of the structure.
        """
        return self._found.get(structure)

    def keep(self, structure: int, key: Any, probabilities: Tensor) -> None:
        """Keeps the result of `engine.predict`, computed elsewhere.

        Args:
            structure: the number of the structure.
            key: `key` when the prompts were taken.
            probabilities: [K,H,W].
        """
        self._found[structure] = (key, probabilities)

    def _drawing(self, structure: int, image: int, strokes: Sequence[Stroke]) -> Drawing:
        key = (structure, image)
        if key not in self._drawings:
            self._drawings[key] = Drawing(self.pictures[image].size, self.grid)
        self._drawings[key].draw(strokes)
        return self._drawings[key]

    def blank(self) -> Tensor:
        """Probabilities 0, float32 [K,H,W]."""
        return torch.zeros(len(self.pictures), *self.grid)

    def locked(self, probabilities: Tensor, structure: int) -> Tensor:
        """The probabilities with those of accepted images in their place.

        Args:
            probabilities: [K,H,W].
            structure: the number of the structure.
        """
        accepted = self.history.state.accepted
        if not accepted:
            return probabilities
        probabilities = probabilities.clone()
        for image, planes in accepted.items():
            probabilities[image] = unpacked(planes.get(str(structure)), self.grid)
        return probabilities

    def _planes(self, image: int) -> dict[str, str]:
        """The probabilities of an image as text, for each structure that has any."""
        numbers = range(1, len(self.history.state.structures) + 1)
        planes = {str(s): self.probabilities(s)[image] for s in numbers}
        return {s: packed(plane) for s, plane in planes.items() if plane.any()}

    # Files

    def save(self, file: Path | str) -> None:
        """Writes the session as JSON: names, sizes and digests of the images, and all operations. No image is in it.

        Args:
            file: written completely or not at all.
        """
        write_text(Path(file), self.to_text())

    def to_text(self) -> str:
        """What `save` writes. A stroke that is being drawn is in it, too."""
        pending = None
        if self.pending is not None:
            pending = self.history.parse({"op": "stroke", **asdict(self.pending)})
        return self.history.to_text(about(self.pictures), pending)

    def restore(self, file: Path | str) -> Session:
        """Replaces the operations by those of a file. The masks are then what they were, bit for bit.

        Args:
            file: from `save`.

        Raises:
            ValueError: it cannot be used, or is of other images. The session stays as it is.
        """
        self.history, self.pending = read_history(Path(file), self.pictures, self.grid), None
        self._reset()
        return self

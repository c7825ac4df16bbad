"""What a user did, as a list of operations with undo and redo, and the JSON of it. Neither torch nor images are needed.

    stroke     image, structure, positive, radius, points: a scribble, or a click (one point)
    erase      stroke: removes a stroke
    accept     image, accepted, planes: locks the masks of an image, or unlocks them
    structure  name: adds a structure; they are counted from 1
    rename     structure, name
    clear      removes all strokes and unlocks all images

Every operation has an `id` that its author made. One with a known id does nothing, so that it can be sent again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from .checks import MAX_STRUCTURES, VALUES, Point, integer, shown, text

MAX_STROKES = 10_000
REMEMBERED = 1000  # ids of undo, redo and removed operations in a file

Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        kind: as in the module's list.
        id: unique in its history.
        values: what the list says, checked.
    """

    kind: str
    id: str
    values: Mapping[str, Any]

    @cached_property
    def text(self) -> str:
        """The operation as JSON."""
        return json.dumps({"op": self.kind, "id": self.id, **self.values})


@dataclass(frozen=True)
class Stroke:
    """A scribble, or a click if it has one point.

    Attributes:
        id: of its operation.
        image: the index of its image.
        structure: the number of its structure, from 1.
        positive: whether it lies inside the structure.
        radius: in pixels of the network's grid.
        points: (x, y) in pixels of the stored image; pixel (0, 0) is the square from (0, 0) to (1, 1).
    """

    id: str
    image: int
    structure: int
    positive: bool
    radius: float
    points: tuple[Point, ...]


@dataclass
class State:
    """The result of the operations.

    Attributes:
        structures: the names; structure s is `structures[s - 1]`.
        strokes: by id, in the order in which they were drawn.
        accepted: for each locked image, its planes by structure as text (`Session.accept`).
    """

    structures: list[str]
    strokes: dict[str, Stroke] = field(default_factory=dict)
    accepted: dict[int, dict[str, str]] = field(default_factory=dict)


class History:
    """The operations on a set of images.

    Attributes:
        sizes: (H, W) of each stored image.
        state: the result of the operations that are not undone.
        operations: all, the undone last.
        done: the number of operations that are not undone.

    Args:
        sizes: (H, W) of each stored image.
        structures: the names of the first structures, at least one.
    """

    def __init__(self, sizes: Sequence[Size], structures: Sequence[str] = ("structure 1",)):
        self.sizes = list(sizes)
        self.operations: list[Operation] = []
        self.done = 0
        self._first = [text(name, "a structure") for name in structures] or ["structure 1"]
        self._seen: dict[str, None] = {}
        self.state = State(list(self._first))

    def do(self, operation: Mapping[str, Any]) -> Operation | None:
        """Checks and performs an operation. What was undone before can no longer be redone.

        Args:
            operation: as JSON, `op`, `id` and the values of the module's list.

        Returns:
            The operation; None if its id is known and nothing was done.

        Raises:
            ValueError: it is not such an operation, or does not fit the state, which stays as it is.
        """
        parsed = self.parse(operation)
        if parsed.id in self._seen:
            return None
        _apply(self.state, parsed)
        del self.operations[self.done :]
        self.operations.append(parsed)
        self.done += 1
        self._seen[parsed.id] = None
        return parsed

    def undo(self, id: str | None = None) -> Operation | None:
        """Undoes the last operation that is not undone.

        Args:
            id: of the request; one with a known id does nothing.

        Returns:
            What was undone; None if there was nothing, or the id is known.
        """
        if self.done == 0 or self._known(id):
            return None
        self.done -= 1
        self.state = self._replay()
        return self.operations[self.done]

    def redo(self, id: str | None = None) -> Operation | None:
        """Performs the first undone operation again.

        Args:
            id: as in `undo`.

        Returns:
            What was done; None if there was nothing, or the id is known.
        """
        if self.done == len(self.operations) or self._known(id):
            return None
        operation = self.operations[self.done]
        _apply(self.state, operation)
        self.done += 1
        return operation

    def parse(self, operation: object) -> Operation:
        """Checks an operation by itself: its values, their types and ranges.

        Args:
            operation: as in `do`.

        Raises:
            ValueError: it is not such an operation.
        """
        if not isinstance(operation, Mapping):
            raise ValueError(f"an operation is a {type(operation).__name__}, expected an object")
        kind = operation.get("op")
        if not isinstance(kind, str) or kind not in VALUES:
            raise ValueError(f"op is {shown(kind)}, expected one of {', '.join(VALUES)}")
        checks = VALUES[kind]
        unknown = [key for key in operation if key not in checks and key not in ("op", "id")]
        if unknown:
            raise ValueError(f"{kind} has {shown(unknown[0])}, expected {', '.join(checks) or 'no further values'}")
        values = {}
        for key, check in checks.items():
            values[key] = check(operation.get(key), f"{key} of {kind}")
        image = values.get("image", 0)
        if image >= len(self.sizes):
            raise ValueError(f"image is {image}, expected one below {len(self.sizes)}")
        if kind == "stroke":
            height, width = self.sizes[image]
            for x, y in values["points"]:
                if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
                    raise ValueError(f"a point is ({x:g}, {y:g}), expected one near the image of {width} x {height}")
        return Operation(kind, text(operation.get("id"), "id"), values)

    def check(self, operation: Operation) -> None:
        """Checks that an operation fits the state.

        Args:
            operation: from `parse`.

        Raises:
            ValueError: it does not.
        """
        state = self.state
        _apply(State(list(state.structures), dict(state.strokes), dict(state.accepted)), operation)

    def to_text(self, about: Mapping[str, Any], pending: Operation | None = None) -> str:
        """The history as JSON for `from_json`, an operation a line.

        Args:
            about: what else is in it.
            pending: an operation that is written as if it were done.
        """
        operations, done = self.operations, self.done
        if pending is not None:
            operations, done = [*operations[:done], pending], done + 1
        known = {operation.id for operation in operations}
        seen = [id for id in self._seen if id not in known][-REMEMBERED:]
        head = json.dumps({**about, "structures": self._first, "done": done, "seen": seen})
        return head[:-1] + ', "operations": [\n' + ",\n".join(operation.text for operation in operations) + "\n]}\n"

    @classmethod
    def from_json(cls, sizes: Sequence[Size], content: object) -> History:
        """Performs the operations of a file again.

        Args:
            sizes: as in the constructor.
            content: from `to_text`.

        Raises:
            ValueError: it is not such JSON.
        """
        if not isinstance(content, Mapping):
            raise ValueError(f"a history is a {type(content).__name__}, expected an object")
        lists = {key: content.get(key) for key in ("structures", "operations", "seen")}
        for key, value in lists.items():
            if not isinstance(value, list):
                raise ValueError(f"{key} is {shown(value)}, expected a list")
        structures, operations, seen = (value or [] for value in lists.values())
        history = cls(sizes, structures)
        for operation in operations:
            if history.do(operation) is None:
                raise ValueError(f"id {shown(operation.get('id'))} stands twice, expected unique ids")
        history._seen.update((text(id, "a seen id"), None) for id in seen)
        history.done = integer(content.get("done"), "done", 0, len(operations))
        history.state = history._replay()
        return history

    def _known(self, id: str | None) -> bool:
        if id is None:
            return False
        known = text(id, "id") in self._seen
        self._seen[id] = None
        return known

    def _replay(self) -> State:
        state = State(list(self._first))
        for operation in self.operations[: self.done]:
            _apply(state, operation)
        return state


def _apply(state: State, operation: Operation) -> None:
    """Performs a checked operation; a ValueError leaves the state as it is."""
    values = operation.values
    if values.get("structure", 1) > len(state.structures):
        raise ValueError(f"structure is {values['structure']}, expected one up to {len(state.structures)}")
    if operation.kind == "stroke":
        if values["image"] in state.accepted:
            raise ValueError(f"image {values['image']} is accepted, expected one that can change")
        if len(state.strokes) >= MAX_STROKES:
            raise ValueError(f"there are {len(state.strokes)} strokes, expected at most {MAX_STROKES}")
        state.strokes[operation.id] = Stroke(operation.id, **values)
    elif operation.kind == "erase":
        stroke = state.strokes.get(values["stroke"])
        if stroke is None:
            raise ValueError(f"stroke is {shown(values['stroke'])}, expected the id of a stroke")
        if stroke.image in state.accepted:
            raise ValueError(f"image {stroke.image} is accepted, expected one that can change")
        del state.strokes[stroke.id]
    elif operation.kind == "accept":
        if values["accepted"]:
            state.accepted[values["image"]] = dict(values["planes"])
        else:
            state.accepted.pop(values["image"], None)
    elif operation.kind == "structure":
        if values["name"] in state.structures or len(state.structures) >= MAX_STRUCTURES:
            raise ValueError(f"structure {values['name']!r}: expected a new name, and at most {MAX_STRUCTURES}")
        state.structures.append(values["name"])
    elif operation.kind == "rename":
        if values["name"] in state.structures:
            raise ValueError(f"structure {values['name']!r}: expected a new name")
        state.structures[values["structure"] - 1] = values["name"]
    else:
        state.strokes.clear()
        state.accepted.clear()

"""The values of operations, checked: their types and ranges. A ValueError says what was expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

MAX_POINTS = 65_536  # of one stroke
MAX_STRUCTURES = 32
MAX_RADIUS = 64.0  # pixels of the network's grid
MAX_TEXT = 80  # characters of a name or an id
MAX_COORDINATE = 1e6  # which points lie near the image is checked by the history
MAX_IMAGE = 10**6  # which images there are is checked by the history

Point: TypeAlias = tuple[float, float]


def integer(value: object, name: str, low: int, high: int) -> int:
    """An int in a range."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, expected an integer from {low} to {high}")
    return value


def number(value: object, name: str, low: float, high: float) -> float:
    """A float in a range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, expected a number from {low:g} to {high:g}")
    return float(value)


def flag(value: object, name: str) -> bool:
    """A bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}, expected true or false")
    return value


def text(value: object, name: str) -> str:
    """A printable text that is not empty."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT or not value.isprintable():
        raise ValueError(f"{name} is {shown(value)}, expected 1 to {MAX_TEXT} printable characters")
    return value


def points(value: object, name: str) -> tuple[Point, ...]:
    """Points [x, y]."""
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MAX_POINTS:
        raise ValueError(f"{name} is {shown(value)}, expected 1 to {MAX_POINTS} points")
    points = []
    for point in value:
        if not isinstance(point, (list, tuple)) or len(point) != 2:
            raise ValueError(f"a point is {shown(point)}, expected [x, y]")
        x, y = (number(coordinate, "a coordinate", -MAX_COORDINATE, MAX_COORDINATE) for coordinate in point)
        points.append((x, y))
    return tuple(points)


def planes(value: object, name: str) -> dict[str, str]:
    """Texts by structure (`Session.accept`)."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_STRUCTURES:
        raise ValueError(f"{name} is {shown(value)}, expected an object")
    if not all(isinstance(key, str) and isinstance(plane, str) for key, plane in value.items()):
        raise ValueError(f"{name}: expected texts")
    return dict(value)


def shown(value: object) -> str:
    """A value, shortened for a message."""
    found = repr(value)
    return found if len(found) <= 60 else found[:60] + "..."


VALUES: dict[str, dict[str, Callable[[object, str], Any]]] = {
    "stroke": {
        "image": lambda value, name: integer(value, name, 0, MAX_IMAGE),
        "structure": lambda value, name: integer(value, name, 1, MAX_STRUCTURES),
        "positive": flag,
        "radius": lambda value, name: number(value, name, 0.5, MAX_RADIUS),
        "points": points,
    },
    "erase": {"stroke": text},
    "accept": {
        "image": lambda value, name: integer(value, name, 0, MAX_IMAGE),
        "accepted": flag,
        "planes": planes,
    },
    "structure": {"name": text},
    "rename": {"structure": lambda value, name: integer(value, name, 1, MAX_STRUCTURES), "name": text},
    "clear": {},
}

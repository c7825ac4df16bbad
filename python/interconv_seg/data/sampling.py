"""With which probability each group is sampled in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from .sets import Group

Sampling: TypeAlias = Literal["hierarchical", "even"]


def group_probabilities(
    groups: Sequence[Group], sampling: Sampling, weights: Mapping[str, float] | None = None
) -> list[float]:
    """With which probability each group is sampled.

    Args:
        groups: of any data sets.
        sampling: as in `SetBatches`.
        weights: as in `SetBatches`.

    Raises:
        ValueError: a weight is not a positive number, or there is no group that it is for.
    """
    weights = weights or {}
    paths = [_path(group) if sampling == "hierarchical" else (group.name,) for group in groups]
    known = {"/".join(path[: depth + 1]) for path in paths for depth in range(len(path))}
    for name, weight in weights.items():
        if name not in known:
            raise ValueError(f"weights: {name!r} is no part of the data, expected one of {', '.join(sorted(known))}")
        if not 0 < weight < math.inf:
            raise ValueError(f"weights: {name} = {weight}, expected a positive number")
    siblings: dict[tuple[str, ...], set[str]] = {}
    for path in paths:
        for depth in range(len(path)):
            siblings.setdefault(path[:depth], set()).add("/".join(path[: depth + 1]))
    probabilities = []
    for path in paths:
        probability = 1.0
        for depth in range(len(path)):
            total = sum(weights.get(name, 1.0) for name in siblings[path[:depth]])
            probability *= weights.get("/".join(path[: depth + 1]), 1.0) / total
        probabilities.append(probability)
    return probabilities


def _path(group: Group) -> tuple[str, ...]:
    """The data set of a group, what its samples share of modality and axis, and what is left of its name."""
    task: list[str] = []
    for parts in zip(*(sample.task.split("/") for sample in group.samples), strict=False):
        if len(set(parts)) > 1:
            break
        task.append(parts[0])
    return (*task, group.name.removeprefix("/".join(task) + "/"))

"""Where the cases of a set lie on their common grid: nnU-Net crops each case to its own nonzero region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def starts_of(
    cases: Sequence[str], shapes: Sequence[tuple[int, ...]], properties: Sequence[Mapping[str, Any]]
) -> list[tuple[int, ...]]:
    """The first voxel of each preprocessed case on the grid that the cases of a set share.

    Pixels of a set's images belong together if they do before preprocessing. Cropping shifts each case by whole
    voxels, which the start takes back. Resampling after different crops would shift by fractions of a voxel, so that
    is refused.

    Args:
        cases: their names, for messages.
        shapes: (D, H, W) of the preprocessed cases.
        properties: of the cases, as nnU-Net's preprocessing returns them.

    Returns:
        (z, y, x) for each case.

    Raises:
        ValueError: the cases are not on one grid, or cannot be brought back to it.
    """
    first = properties[0]
    for case, about in zip(cases, properties, strict=True):
        for key, what in (("shape_before_cropping", "shape"), ("spacing", "spacing")):
            if not np.allclose(about[key], first[key]):
                raise ValueError(
                    f"{case} has {what} {_text(about[key])} and {cases[0]} {_text(first[key])}: expected one {what} for"
                    " the cases of a set (resample them to one grid, or put them in different sets)"
                )
    crops = [np.asarray(about["bbox_used_for_cropping"]) for about in properties]
    if all(np.array_equal(crop, crops[0]) for crop in crops):
        return [(0, 0, 0)] * len(cases)
    for case, shape, about in zip(cases, shapes, properties, strict=True):
        cropped = tuple(about["shape_after_cropping_and_before_resampling"])
        if tuple(shape) != cropped:
            raise ValueError(
                f"{case} was cropped to its nonzero region {_text(cropped)} and then resampled to {_text(shape)}, but"
                " other cases of its set were cropped differently: expected one crop, or no resampling, for the cases"
                " of a set (resample them to the spacing in the plans, or set the background of their images to one"
                " nonzero value, so that nothing is cropped)"
            )
    return [tuple(int(low) for low in crop[:, 0]) for crop in crops]


def _text(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)

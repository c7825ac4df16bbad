"""Metrics of segmentations, by MONAI."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from .data.files import IGNORED

TOLERANCE = 2.0  # of surface Dice: millimetres, or pixels where the spacing is not known


def dice_scores(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Dice 2 |P and T| / (|P| + |T|) of each structure of each sample.

    A structure that the truth does not have gives NaN, whatever is predicted, and is left out of every mean. So the
    values that are averaged depend on the truth alone. A structure that is in the truth and not predicted gives 0.

    Args:
        predicted: class indices, int64 [N,H,W], or [N,X,Y,Z] for volumes.
        truth: class indices, int64 of the same shape, or IGNORED, for pixels that do not count.
        classes: the number of classes, including class 0, the background, which is not a structure.

    Returns:
        float32 [N,classes-1].
    """
    ignored = truth == IGNORED
    predicted, truth = (F.one_hot(x.masked_fill(ignored, 0), classes).movedim(-1, 1) for x in (predicted, truth))
    scores: Tensor = compute_dice(predicted, truth, include_background=False)
    return scores


def surface_scores(
    predicted: Tensor, truth: Tensor, classes: int, spacing: Sequence[float], tolerance: float = TOLERANCE
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """HD95 and surface Dice of each structure of an image or volume.

    The surface of a structure is its pixels with a neighbour outside. HD95 is the larger of the two 95th percentiles of
    the distances from one surface to the other. Surface Dice is the part of both surfaces that is at most `tolerance`
    from the other. As in `dice_scores`, a structure that the truth
    does not have gives NaN. One that is in the truth and not predicted gives the diagonal of the image, which no
    distance exceeds, and 0.

    Args:
        predicted: class indices, int64 [H,W] or [X,Y,Z].
        truth: class indices of the same shape, or IGNORED.
        classes: as in `dice_scores`.
        spacing: the size of a pixel along each axis.
        tolerance: in the unit of `spacing`.

    Returns:
        HD95 of each structure, in the unit of `spacing`, and surface Dice of each.
    """
    ignored = truth == IGNORED
    found = []
    for label in range(1, classes):
        ours, theirs = ((x == label) & ~ignored for x in (predicted, truth))
        if not theirs.any():
            found.append((math.nan, math.nan))
        elif not ours.any():
            found.append((math.hypot(*(n * step for n, step in zip(truth.shape, spacing, strict=True))), 0.0))
        else:
            options: dict[str, Any] = {"include_background": True, "spacing": [float(step) for step in spacing]}
            masks = ours[None, None], theirs[None, None]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # MONAI's own use of an argument that it deprecates
                distance = compute_hausdorff_distance(*masks, percentile=95, **options)
                found.append((float(distance), float(compute_surface_dice(*masks, [tolerance], **options))))
    hd95, surface_dice = zip(*found, strict=True)
    return hd95, surface_dice

"""Metrics of segmentations."""

from __future__ import annotations

import torch.nn.functional as F
from monai.metrics import compute_dice
from torch import Tensor

from .data.files import IGNORED


def dice_scores(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Dice 2 |P and T| / (|P| + |T|) of each structure of each sample, by MONAI.

    A structure that the truth does not have gives NaN, whatever is predicted, and is left out of every mean. So the
    values that are averaged depend on the truth alone. A structure that is in the truth and not predicted gives 0.

    Args:
        predicted: class indices, int64 [N,H,W].
        truth: class indices, int64 [N,H,W], or IGNORED, for pixels that do not count.
        classes: the number of classes, including class 0, the background, which is not a structure.

    Returns:
        float32 [N,classes-1].
    """
    ignored = truth == IGNORED
    predicted, truth = (F.one_hot(x.masked_fill(ignored, 0), classes).movedim(-1, 1) for x in (predicted, truth))
    scores: Tensor = compute_dice(predicted, truth, include_background=False)
    return scores

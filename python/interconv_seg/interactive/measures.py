"""Numbers about masks: how sure they are, and how good where there is a truth."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.files import IGNORED


def uncertainty(probabilities: Tensor) -> Tensor:
    """One minus the Dice that is to be expected of each mask.

        1 - (2 sum p m + 1) / (sum p + sum m + 1),    m = p > 1/2

    If pixels are independent, this is about the Dice between m and a mask that is drawn from p.

    Args:
        probabilities: p, [n,H,W].

    Returns:
        float32 [n], from 0, sure, to 1.
    """
    p = probabilities.double().flatten(1)
    m = (p > 0.5).double()
    return (1 - (2 * (p * m).sum(1) + 1) / (p.sum(1) + m.sum(1) + 1)).float()


def dice(mask: Tensor, truth: Tensor, label: int) -> float:
    """Dice of a mask.

    Args:
        mask: bool [H,W].
        truth: class indices [H,W]; pixels that are IGNORED do not count.
        label: the class of the mask.

    Returns:
        The Dice; NaN if the truth does not have the class.
    """
    counted, found = truth != IGNORED, truth == label
    if not found.any():
        return math.nan
    both = int((mask & found).sum())
    return 2 * both / int((mask & counted).sum() + found.sum())


@dataclass(frozen=True)
class Comparison:
    """Mean Dice of the images without prompts, beside simple opponents; NaN where there is nothing to compare.

    Attributes:
        following: of the session's masks.
        copy: of the mean mask of the prompted images, copied to all.
        no_prompt: of the network without any prompt.
    """

    following: float
    copy: float
    no_prompt: float


def compare(
    probabilities: Tensor, without_prompts: Tensor, truths: Mapping[int, Tensor], label: int, prompted: Collection[int]
) -> Comparison:
    """Compares the masks of the images without prompts.

    Args:
        probabilities: of the session, [K,H,W].
        without_prompts: likewise, of the network without prompts.
        truths: by image.
        label: the class of the structure.
        prompted: the images with prompts.
    """
    others = [i for i in truths if i not in set(prompted)]
    if not others or not prompted:
        return Comparison(math.nan, math.nan, math.nan)
    copied = (probabilities[sorted(prompted)] > 0.5).float().mean(0) > 0.5
    masks = (probabilities > 0.5, copied.expand(probabilities.shape), without_prompts > 0.5)
    means = []
    for mask in masks:
        scores = [score for i in others if not math.isnan(score := dice(mask[i], truths[i], label))]
        means.append(sum(scores) / len(scores) if scores else math.nan)
    return Comparison(*means)


def labels(probabilities: Tensor, threshold: float = 0.5) -> Tensor:
    """One label for each pixel: of the structures with p > threshold the most probable, the first if several are.

    Args:
        probabilities: of the structures, [S,...].
        threshold: as above.

    Returns:
        int64, 0 for no structure, else 1 to S.
    """
    best, index = probabilities.max(0)
    return torch.where(best > threshold, index + 1, 0)

"""The training losses: what a set's samples lose is summed, as in the paper's Eq. 4 and 5, on MONAI's losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor

import interconv_kernels as ik
from interconv_kernels.sets import as_sets

Logits = Tensor | list[Tensor]


def interactive_loss(logits: Logits, masks: Tensor, sets: ik.Sets | Any) -> Tensor:
    """Soft Dice + focal loss for binary segmentation (paper, section 4.1).

        L = (1/B) sum over sets b, sum over samples i in b, of  dice(y_i, m_i) + focal(y_i, m_i)

    Per sample: dice = 1 - 2 sum(p m) / (sum p + sum m) with p = sigmoid(y); focal = the mean over pixels of
    (1 - q)^2 (-log q), with q the probability given to the truth. A set's samples are summed (paper, Eq. 4 and 5), so a
    large set weighs more than a small one; the sum is divided by the number of sets B that are not empty.

    Args:
        logits: [N, 1, H, W]; or a list of them, the finest first (deep supervision): each level is compared with the
            masks at its own size (nearest), with weights 1, 1/2, 1/4, ... and 0 for the coarsest of several, divided by
            their sum, as nnU-Net does.
        masks: int64 [N, H, W], 0 or 1.
        sets: as in `ik.interconv2d`.

    Returns:
        A scalar, float32.

    Raises:
        ValueError: shapes or sets that do not fit. TypeError: masks that are not int64.
    """
    outputs = _checked(logits, masks)
    if outputs[0].shape[1] != 1:
        raise ValueError(f"logits have shape {tuple(outputs[0].shape)}: expected one channel, [N, 1, H, W]")
    return _set_loss(_interactive_sample_loss, outputs, masks, sets)


def automatic_loss(logits: Logits, masks: Tensor, sets: ik.Sets | Any) -> Tensor:
    """Soft Dice + cross-entropy for segmentation into classes (paper, section 4.2, Eq. 6).

        L = (1/B) sum over sets b, sum over samples i in b, of  dice(y_i, m_i) + crossentropy(y_i, m_i)

    Per sample: dice = the mean over the classes but background (class 0) of 1 - 2 sum(p m) / (sum p + sum m), p the
    softmax of y; crossentropy = the mean over pixels. Sums and division as in `interactive_loss`.

    Args:
        logits: [N, classes, H, W], two classes or more; or a list of them, as in `interactive_loss`.
        masks: int64 [N, H, W], the class of each pixel.
        sets: as in `ik.interconv2d`.

    Returns:
        A scalar, float32.

    Raises:
        ValueError: shapes or sets that do not fit. TypeError: masks that are not int64.
    """
    outputs = _checked(logits, masks)
    if outputs[0].shape[1] < 2:
        raise ValueError(f"logits have shape {tuple(outputs[0].shape)}: expected [N, classes, H, W] with 2 classes up")
    return _set_loss(_automatic_sample_loss, outputs, masks, sets)


_binary_dice = DiceLoss(sigmoid=True, reduction="none")
_binary_focal = FocalLoss(gamma=2, reduction="none")
_dice_of_classes = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, reduction="none")


def _interactive_sample_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """[N], from logits [N, 1, H, W] and masks [N, 1, H, W]."""
    dice, focal = _binary_dice(logits, masks), _binary_focal(logits, masks)
    return dice.mean((1, 2, 3)) + focal.mean((1, 2, 3))


def _automatic_sample_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """[N], from logits [N, classes, H, W] and masks [N, 1, H, W]."""
    dice = _dice_of_classes(logits, masks)
    entropy = F.cross_entropy(logits, masks[:, 0].long(), reduction="none")
    return dice.mean((1, 2, 3)) + entropy.mean((1, 2))


def _set_loss(
    sample_loss: Callable[[Tensor, Tensor], Tensor], outputs: list[Tensor], masks: Tensor, sets: ik.Sets | Any
) -> Tensor:
    sets = as_sets(sets, masks.shape[0], masks.device)
    weights = [0.5**level for level in range(max(1, len(outputs) - 1))]
    labels = masks[:, None].float()  # what F.interpolate takes; exact for whole numbers up to 2^24
    total = torch.zeros((), device=masks.device)
    for weight, logits in zip(weights, outputs, strict=False):
        fitting = F.interpolate(labels, logits.shape[2:], mode="nearest-exact")
        total = total + weight * sample_loss(logits.float(), fitting).sum()
    number_of_sets = sets.live_offsets.shape[0] - 1
    return total / (sum(weights) * max(1, number_of_sets))


def _checked(logits: Logits, masks: Tensor) -> list[Tensor]:
    """The logits as a list, if they fit the masks."""
    outputs = logits if isinstance(logits, list) else [logits]
    if masks.dtype != torch.int64:
        raise TypeError(f"masks have dtype {masks.dtype}: expected torch.int64")
    shapes = [tuple(y.shape) for y in outputs]
    fits = bool(shapes) and all(len(s) == 4 and s[:2] == (len(masks), shapes[0][1]) for s in shapes)
    if not fits or (shapes[0][0], *shapes[0][2:]) != tuple(masks.shape):
        raise ValueError(
            f"logits have shape {', '.join(map(str, shapes))} and masks {tuple(masks.shape)}: expected logits"
            " [N, classes, H, W], or a list that begins with them, and masks [N, H, W]"
        )
    return outputs

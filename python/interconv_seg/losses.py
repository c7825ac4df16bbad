"""The training losses: sums over the samples of a set, as in Eq. 4 and 5 of the paper, of MONAI's losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor

from interconv_kernels.as_sets import as_sets
from interconv_kernels.typing import SetsLike

from .data.files import IGNORED

Logits: TypeAlias = Tensor | list[Tensor]
UNLIKELY = -1e4  # a logit of probability 0 in float32: an ignored pixel adds nothing to the sums of Dice


def interactive_loss(
    logits: Logits, masks: Tensor, sets: SetsLike, focal_gamma: float = 2.0, squared_dice: bool = False
) -> Tensor:
    """Soft Dice + focal loss for binary segmentation (section 4.1).

        L = (1/B) sum over sets b, sum over samples i in b, of  dice(y_i, m_i) + focal(y_i, m_i)

    Per sample: dice = 1 - 2 sum(p m) / (sum p + sum m) with p = sigmoid(y); focal = the mean over pixels of
    (1 - q)^gamma (-log q), with q the predicted probability of the true class. The samples of a set are summed (Eq. 4
    and 5), so a large set weighs more than a small one; the sum is divided by B, the number of sets that are not empty.
    A sample without labelled pixels adds nothing.

    Args:
        logits: [N,1,H,W]; or a list of logits, the finest first (deep supervision). Each level is compared with the
            masks at its own size (nearest), with weights 1, 1/2, 1/4, ... and 0 for the coarsest of several levels,
            divided by their sum, as in nnU-Net.
        masks: int64 [N,H,W], 0 or 1; or IGNORED, for pixels that do not count.
        sets: as in `ik.interconv2d`.
        focal_gamma: gamma (ScribblePrompt's code: 20).
        squared_dice: dice = 1 - 2 sum(p m) / (sum p^2 + sum m^2), as in ScribblePrompt's code.

    Returns:
        A scalar, float32.

    Raises:
        ValueError: shapes or sets that do not fit, or logits with several channels.
        TypeError: masks are not int64.
    """
    sample_loss = partial(_interactive_sample_loss, focal_gamma=focal_gamma, squared_dice=squared_dice)
    return _set_loss(sample_loss, _checked(logits, masks, binary=True), masks, sets)


def automatic_loss(logits: Logits, masks: Tensor, sets: SetsLike) -> Tensor:
    """Soft Dice + cross-entropy for segmentation into classes (section 4.2, Eq. 6).

        L = (1/B) sum over sets b, sum over samples i in b, of  dice(y_i, m_i) + crossentropy(y_i, m_i)

    Per sample: dice = the mean over all classes but the background (class 0) of 1 - 2 sum(p m) / (sum p + sum m), p
    the softmax of y; crossentropy = the mean over pixels. Sums and division as in `interactive_loss`.

    Args:
        logits: [N,classes,H,W] with at least two classes; or a list of logits, as in `interactive_loss`.
        masks: int64 [N,H,W], the class of each pixel, or IGNORED.
        sets: as in `ik.interconv2d`.

    Returns:
        float32, a scalar.

    Raises:
        ValueError: shapes or sets that do not fit, or logits with fewer than two classes.
        TypeError: masks are not int64.
    """
    return _set_loss(_automatic_sample_loss, _checked(logits, masks, binary=False), masks, sets)


_dice_of_classes = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, reduction="none")


def _interactive_sample_loss(logits: Tensor, masks: Tensor, focal_gamma: float, squared_dice: bool) -> Tensor:
    """[N], from logits [N,1,H,W] and masks [N,1,H,W]."""
    ignored = masks == IGNORED
    dice_loss = DiceLoss(sigmoid=True, squared_pred=squared_dice, reduction="none")
    dice = dice_loss(logits.masked_fill(ignored, UNLIKELY), masks.masked_fill(ignored, 0))
    focal = FocalLoss(gamma=focal_gamma, reduction="none")(logits, masks)
    return dice.mean((1, 2, 3)) + _mean_of_pixels(focal[:, 0], ignored[:, 0])


def _automatic_sample_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """[N], from logits [N,classes,H,W] and masks [N,1,H,W]."""
    ignored = masks == IGNORED
    background = torch.full_like(logits[:1, :, :1, :1], UNLIKELY)
    background[:, 0] = 0
    dice = _dice_of_classes(torch.where(ignored, background, logits), masks.masked_fill(ignored, 0))
    entropy = F.cross_entropy(logits, masks[:, 0].long(), reduction="none", ignore_index=IGNORED)
    return dice.mean((1, 2, 3)) + _mean_of_pixels(entropy, ignored[:, 0])


def _mean_of_pixels(values: Tensor, ignored: Tensor) -> Tensor:
    """[N], the mean over the pixels of [N,H,W] that count; 0 if none does."""
    return values.masked_fill(ignored, 0).sum((1, 2)) / (~ignored).sum((1, 2)).clamp(min=1)


def _set_loss(
    sample_loss: Callable[[Tensor, Tensor], Tensor], levels: list[Tensor], masks: Tensor, sets: SetsLike
) -> Tensor:
    sets = as_sets(sets, masks.shape[0], masks.device)
    weights = [0.5**level for level in range(max(1, len(levels) - 1))]
    labels = masks[:, None].float()  # F.interpolate takes no integers; exact up to 2^24
    total = torch.zeros((), device=masks.device)
    for weight, logits in zip(weights, levels, strict=False):
        level_labels = F.interpolate(labels, logits.shape[2:], mode="nearest-exact")
        total = total + weight * sample_loss(logits.float(), level_labels).sum()
    num_sets = sets.live_offsets.shape[0] - 1
    return total / (sum(weights) * max(1, num_sets))


def _checked(logits: Logits, masks: Tensor, binary: bool) -> list[Tensor]:
    """The logits as a list, the finest level first, if they fit the masks."""
    levels = logits if isinstance(logits, list) else [logits]
    if masks.dtype != torch.int64:
        raise TypeError(f"masks have dtype {masks.dtype}: expected torch.int64")
    shapes = [tuple(y.shape) for y in levels]
    fits = bool(shapes) and all(len(s) == 4 and s[:2] == (len(masks), shapes[0][1]) for s in shapes)
    if not fits or (shapes[0][0], *shapes[0][2:]) != tuple(masks.shape):
        raise ValueError(
            f"logits have shape {', '.join(map(str, shapes))} and masks {tuple(masks.shape)}: expected logits"
            " [N, classes, H, W], or a list that begins with them, and masks [N, H, W]"
        )
    if (shapes[0][1] != 1) if binary else (shapes[0][1] < 2):
        expected = "one channel, [N, 1, H, W]" if binary else "[N, classes, H, W] with at least 2 classes"
        raise ValueError(f"logits have shape {shapes[0]}: expected {expected}")
    return levels

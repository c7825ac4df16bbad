"""Detects sets of windows from MONAI's sliding window inference.

Its batches hold the windows of image 0, then those of image 1, and so on, so that a set in such a batch would be
windows of one image at different places. A batch does not tell where it comes from; the call stack does.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from .sets import Sets


def check_not_windows(u: Tensor, sets: Sets) -> None:
    """Checks that the samples of u [N, ...] are not a batch of windows from MONAI's `sliding_window_inference`.

    The windows are accepted where they form sets: each set has one sample; every image has one window and all are in
    the batch; or the caller has arranged them, so that their number differs.

    Raises:
        ValueError: they are, and the sets would mix windows of different places.
    """
    if torch.compiler.is_compiling():
        return
    monai = sys.modules.get("monai.inferers.utils")
    if monai is None or sets.live_offsets.shape[0] > sets.num_samples:
        return
    code = monai.sliding_window_inference.__code__
    frame = sys._getframe(1)
    while frame.f_code is not code:
        if frame.f_back is None:
            return
        frame = frame.f_back
    images, windows = frame.f_locals["batch_size"], frame.f_locals["win_data"].shape[0]
    if windows != u.shape[0] or (frame.f_locals["num_win"] == 1 and windows == images):
        return
    raise ValueError(
        f"the {windows} samples are windows that MONAI's sliding_window_inference cut from {images} images, image after"
        " image, so a set would mix different places: expected interconv_seg.monai.SetSlidingWindowInferer, which cuts"
        " the same window from all images of a set"
    )

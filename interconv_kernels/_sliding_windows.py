"""Detects sets of windows from MONAI's sliding window inference.

Its batches hold the windows of image 0, then those of image 1, and so on, so that a set in such a batch would be
windows of one image at different places. A batch does not tell where it comes from; the call stack does. The operators
ask when they run, so compiled and exported networks are checked as well.

To search the stack takes longer than some layers need. So a thread that was found outside of MONAI's function is taken
to be so until it calls the function again, which is noticed by its call of `dense_patch_slices`.
"""

from __future__ import annotations

import functools
import sys
import threading
from types import FrameType, ModuleType
from typing import Any

from torch import Tensor

from .sets import SetIndex

STEP = "dense_patch_slices"  # sliding_window_inference looks this name up and calls it before the first window


class _Thread(threading.local):
    """`outside_since`: the watched step that was in place when the thread was found outside, if not called since."""

    outside_since: object = "never"


_thread = _Thread()


def check_not_windows(u: Tensor, sets: SetIndex) -> None:
    """Checks that the samples of u [N, ...] are not a batch of windows from MONAI's `sliding_window_inference`.

    The windows are accepted where they form sets: each set has one sample; every image has one window and all are in
    the batch; or the caller has arranged them, so that their number differs.

    Raises:
        ValueError: they are, and the sets would mix windows of different places.
    """
    monai = sys.modules.get("monai.inferers.utils")
    if monai is None or getattr(monai, STEP, None) is _thread.outside_since:
        return
    frame = _running(monai)
    if frame is None:
        return
    images, windows = frame.f_locals["batch_size"], frame.f_locals["win_data"].shape[0]
    if windows != u.shape[0] or (frame.f_locals["num_win"] == 1 and windows == images):
        return
    if int(sets.offsets.diff().max()) <= 1:
        return
    raise ValueError(
        f"the {windows} samples are windows that MONAI's sliding_window_inference cut from {images} images, image after"
        " image, so a set would mix different places: expected interconv_seg.monai.SetSlidingWindowInferer, which cuts"
        " the same window from all images of a set"
    )


def _running(monai: ModuleType) -> FrameType | None:
    """The innermost call of `sliding_window_inference` in this thread."""
    function = getattr(monai, "sliding_window_inference", None)
    if function is None:  # the module is being imported
        return None
    step = _watched_step(monai, function.__code__)
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    if frame is None:
        _thread.outside_since = step
    return frame


def _watched_step(monai: ModuleType, code: Any) -> object:
    """The function at STEP, made to note its calls; "never" if a version of MONAI has no such step."""
    step = getattr(monai, STEP, None)
    if step is None or STEP not in code.co_names:
        return "never"
    if not hasattr(step, "noted_by"):

        @functools.wraps(step)
        def noting(*args: Any, **kwargs: Any) -> Any:
            _thread.outside_since = "never"
            return step(*args, **kwargs)

        noting.noted_by = __name__  # type: ignore[attr-defined]
        setattr(monai, STEP, noting)
        return noting
    return step

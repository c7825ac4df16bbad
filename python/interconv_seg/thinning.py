"""Thinning of binary masks to lines of one pixel width."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def thin(mask: np.ndarray) -> np.ndarray:
    """Thins a mask by the algorithm of Zhang and Suen (1984), as OpenCV's `ximgproc.thinning` does by default.

    Each iteration has two passes. A pass removes, all at once, the pixels with 2 to 6 neighbours in the mask, one
    change from background to mask around them, and background on certain sides: in the first pass below or on the
    right, or both above and on the left; in the second pass the other way round. It ends when nothing is removed.

    Args:
        mask: bool [H,W]. Beyond the image is background.

    Returns:
        bool [H,W].
    """
    height, width = mask.shape
    bits = np.packbits(np.pad(mask, 1), axis=None, bitorder="little")  # one integer has a bit for each pixel
    area, row = (height + 2) * (width + 2), width + 2
    everywhere = (1 << area) - 1
    pixels, before = int.from_bytes(bits.tobytes(), "little"), -1
    while pixels != before:
        before = pixels
        for first in (True, False):
            above, below, left, right = pixels << row, pixels >> row, pixels << 1, pixels >> 1
            around = (above, above >> 1, right, below >> 1, below, below << 1, left, above << 1)  # clockwise
            background = [everywhere & ~neighbour for neighbour in around]
            one, several = _counts(b & after for b, after in zip(background, (*around[1:], around[0]), strict=True))
            no_above, _, no_right, _, no_below, _, no_left, _ = background
            sides = (no_right | no_below | no_above & no_left) if first else (no_above | no_left | no_right & no_below)
            pixels &= ~(one & ~several & _counts(around)[1] & _counts(background)[1] & sides)
    kept = np.frombuffer(pixels.to_bytes(len(bits), "little"), np.uint8)
    unpacked = np.unpackbits(kept, count=area, bitorder="little").reshape(height + 2, width + 2)
    return unpacked[1:-1, 1:-1] > 0


def _counts(planes: Iterable[int]) -> tuple[int, int]:
    """Where a bit is set in at least one of the planes, and in at least two."""
    one = several = 0
    for plane in planes:
        several |= one & plane
        one |= plane
    return one, several

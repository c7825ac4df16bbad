"""Windows: the sets that images are segmented in if they are too many for one."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def windows(count: int, prompted: Collection[int], max_set: int) -> list[list[int]]:
    """Divides images into sets, each with some of the prompted images.

    In one large set the prompts of a few images are diluted by the mean. So the images without prompts are divided into
    parts, in order, and each part forms a set with the prompted images that are nearest to it in the order of the
    images, at most half of `max_set`. Prompted images that are in none of these form sets among themselves. The windows
    are a function of the arguments alone.

    Args:
        count: the number of images.
        prompted: the indices of those with prompts.
        max_set: the maximum number of images in a set, at least 2.

    Returns:
        Indices, ascending in each window; none if no image is prompted. Every image is in a window. Its mask is that of
        its first window.

    Raises:
        ValueError: `max_set` is below 2.
    """
    if max_set < 2:
        raise ValueError(f"max_set = {max_set}: expected at least 2")
    if not prompted:
        return []
    if count <= max_set:
        return [list(range(count))]
    shared = min(len(prompted), max_set // 2)
    others = [i for i in range(count) if i not in set(prompted)]
    found = []
    for part in parts(others, max_set - shared):
        middle = (part[0] + part[-1]) / 2
        nearest = sorted(prompted, key=lambda i: (abs(i - middle), i))[:shared]
        found.append(sorted([*part, *nearest]))
    used = {i for window in found for i in window}
    return found + parts(sorted(i for i in prompted if i not in used), max_set)


def parts(items: list[int], size: int) -> list[list[int]]:
    """Divides a list into consecutive parts of at most `size`."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def first_windows(found: Iterable[list[int]]) -> dict[int, int]:
    """For each image, the position of its first window in a list of windows."""
    first: dict[int, int] = {}
    for position, window in enumerate(found):
        for image in window:
            first.setdefault(image, position)
    return first

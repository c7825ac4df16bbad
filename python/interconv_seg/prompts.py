"""Simulated prompts: scribbles and clicks as a user might draw them, sampled from the truth (section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from .seeding import random_of

PromptKind: TypeAlias = Literal["scribble", "click", "mixed", "both"]
EVALUATED_COUNTS = (1, 2, 4, 8)  # numbers of prompts in the paper's evaluation
WAVES = 3  # sines in the displacement of a scribble
BEND = 0.2  # maximum amplitude of the first sine in lengths of the line; the k-th has 1/k of it


def draw_prompts(
    masks: Tensor,
    seeds: Sequence[int],
    positive: int | tuple[int, int] = (1, 6),
    negative: int | tuple[int, int] = (0, 6),
    kind: PromptKind = "mixed",
) -> Tensor:
    """Samples random prompts for binary masks.

    A *click* is a random pixel of its region: the label for positive prompts, all other pixels for negative ones. A
    *scribble* starts as the straight line between two such pixels a and b and is warped smoothly with fixed ends:

        p(t) = a + t (b - a) + |b - a| sum_k c_k sin(k pi t) / k,    c_k uniform in [-BEND, BEND]^2,  k = 1 ... WAVES

    Only the longest part that stays inside the region is kept, so a scribble is one stroke.

    Args:
        masks: bool [N,H,W], the pixels of the label.
        seeds: one for each mask. The prompts of an image depend only on its mask and its seed; with more prompts of a
            sign, the first ones stay the same.
        positive: the number of positive prompts per image, or (min, max) to sample it uniformly. The defaults are
            those of training (section 4.1); evaluation has fixed numbers, `EVALUATED_COUNTS`.
        negative: the number of negative prompts per image, or (min, max).
        kind: "scribble", "click"; "mixed", scribbles or clicks for each image, with probability 1/2; or "both",
            scribbles or clicks for each prompt.

    Returns:
        float32 [N,2,H,W] on the device of `masks`: 1 at positive (channel 0) and negative (channel 1) prompts, else 0.
        A region without pixels (an empty mask) has no prompts.

    Raises:
        TypeError: masks are not bool [N,H,W].
        ValueError: the number of seeds is not N, a number of prompts is negative, or the kind is unknown.
    """
    if masks.dtype != torch.bool or masks.dim() != 3:
        raise TypeError(f"masks: {masks.dtype} of shape {tuple(masks.shape)}, expected bool [N, H, W]")
    if len(seeds) != len(masks):
        raise ValueError(f"{len(seeds)} seeds for {len(masks)} masks: expected one for each")
    if kind not in get_args(PromptKind):
        raise ValueError(f"kind = {kind!r}: expected 'scribble', 'click', 'mixed' or 'both'")
    ranges = np.array([_min_and_max(positive, "positive"), _min_and_max(negative, "negative")])
    n, height, width = masks.shape
    max_count = int(ranges[:, 1].max())
    if 0 in (n, height, width, max_count):
        return torch.zeros(n, 2, height, width, device=masks.device)
    counts, clicks, uniform = (
        torch.from_numpy(numbers).to(masks.device) for numbers in _random_numbers(seeds, ranges, kind, max_count)
    )

    regions = torch.stack([masks, ~masks], dim=1).flatten(2)  # [N,2,HW]
    ends = _random_pixels(regions, uniform[..., :2])  # [N,2,max_count,2]
    a, b = (torch.stack([e // width, e % width], dim=-1) for e in ends.unbind(-1))  # (row, column)
    path = _warped_lines(a, b, uniform[..., 2:].unflatten(-1, (WAVES, 2)), steps=4 * max(height, width))
    row, column = path.round().long().unbind(-1)  # [N,2,max_count,T]
    in_image = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixels = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    inside = in_image & regions.gather(2, pixels.flatten(2)).view_as(pixels)

    start = torch.zeros_like(inside)
    start[..., 0] = True  # a, the click
    kept = inside & torch.where(clicks[..., None], start, _longest_run(inside))
    kept &= (torch.arange(max_count, device=masks.device) < counts[..., None])[..., None]
    area = height * width
    drawn = torch.zeros(n, 2, area + 1, device=masks.device)  # the last element takes the pixels that are not kept
    drawn.scatter_(2, torch.where(kept, pixels, area).flatten(2), 1.0)
    return drawn[..., :area].unflatten(2, (height, width))


def _min_and_max(number: int | tuple[int, int], name: str) -> tuple[int, int]:
    minimum, maximum = (number, number) if isinstance(number, int) else number
    if not 0 <= minimum <= maximum:
        raise ValueError(f"{name} = {number}: expected a number >= 0, or (min, max) with 0 <= min <= max")
    return minimum, maximum


def _random_numbers(
    seeds: Sequence[int], ranges: np.ndarray, kind: PromptKind, max_count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of prompts [N,2], which are clicks [N,2,max_count], and uniform numbers [N,2,max_count,2 + 2 WAVES].

    Each image has a generator of its own, from which its prompts take their numbers in order. So additional prompts do
    not change the first ones.
    """
    per_image = [random_of(seed) for seed in seeds]
    first = np.stack([random.random(3) for random in per_image])
    counts = ranges[:, 0] + np.floor(first[:, :2] * (ranges[:, 1] - ranges[:, 0] + 1)).astype(np.int64)
    if kind == "both":
        coins = np.stack([random_of(seed, "kind").random((max_count, 2)) for seed in seeds])
        clicks = coins.swapaxes(1, 2) < 0.5
    else:
        of_image = first[:, 2] < 0.5 if kind == "mixed" else np.full(len(seeds), kind == "click")
        clicks = np.broadcast_to(of_image[:, None, None], (len(seeds), 2, max_count)).copy()
    uniform = np.stack([random.random((max_count, 2, 2 + 2 * WAVES)) for random in per_image])
    return counts, clicks, np.ascontiguousarray(uniform.swapaxes(1, 2), dtype=np.float32)


def _random_pixels(regions: Tensor, uniform: Tensor) -> Tensor:
    """Uniformly sampled pixels of regions bool [N,2,HW], as indices of the shape of `uniform` [N,2,P,2].

    For an empty region, any pixel.
    """
    area = regions.cumsum(2)  # the j-th pixel of a region is where its area reaches j + 1
    total = area[..., -1:]
    nth = torch.minimum((uniform.double().flatten(2) * total).long(), total - 1)
    found = torch.searchsorted(area, nth + 1)
    return found.clamp(max=regions.shape[2] - 1).view(uniform.shape)


def _warped_lines(a: Tensor, b: Tensor, uniform: Tensor, steps: int) -> Tensor:
    """Points float32 [...,steps,2] of the lines from a to b [...,2], bent by uniform [...,WAVES,2].

    Four steps per pixel of the longer side leave no gaps: along an axis, the speed is at most
    (1 + sqrt(2) pi BEND WAVES) = 3.7 times that of the straight line.
    """
    t = torch.linspace(0, 1, steps, device=a.device)
    along = (b - a).float()
    bends = BEND * (2 * uniform - 1) * along.square().sum(-1).sqrt()[..., None, None]
    path = a[..., None, :] + t[:, None] * along[..., None, :]
    for k in range(1, WAVES + 1):  # not a matrix product: its rounding could depend on the rest of the batch
        path = path + (torch.sin(torch.pi * k * t) / k)[:, None] * bends[..., k - 1, None, :]
    return path


def _longest_run(inside: Tensor) -> Tensor:
    """Keeps only the longest run of True (the first if several are longest) in each row of bools [...,T]."""
    run = (~inside).cumsum(-1)  # the same number for a run and the False before it
    lengths = torch.zeros(*inside.shape[:-1], inside.shape[-1] + 1, dtype=torch.int64, device=inside.device)
    lengths.scatter_add_(-1, run, inside.long())
    return inside & (run == lengths.argmax(-1, keepdim=True))

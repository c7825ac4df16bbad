"""Prompts as a user might give them: scribbles and clicks, drawn from the truth (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .seeding import random_of

Kind = Literal["scribble", "click", "mixed"]
EVALUATED = (1, 2, 4, 8)  # numbers of prompts in the paper's evaluation
WAVES = 3  # sines in a scribble's displacement
BEND = 0.2  # of the first sine, at most, in lengths of the line; the k-th has 1/k of it


def draw_prompts(
    masks: Tensor,
    seeds: Sequence[int],
    positive: int | tuple[int, int] = (1, 6),
    negative: int | tuple[int, int] = (0, 6),
    kind: Kind = "mixed",
) -> Tensor:
    """Random prompts for binary masks, as channels beside the image.

    A *click* is a random pixel of its region: the label for positive prompts, all else for negative ones. A *scribble*
    starts as the straight line between two such pixels a and b and is warped smoothly, the ends staying where they are:

        p(t) = a + t (b - a) + |b - a| sum_k c_k sin(k pi t) / k,    c_k uniform in [-BEND, BEND]^2,  k = 1 ... WAVES

    Of its pixels, the longest stretch that stays inside the region is kept, so that a scribble is one stroke.

    Args:
        masks: bool [N, H, W], the label's pixels.
        seeds: one for each mask. An image's prompts depend on its mask and seed alone; with more prompts of one
            kind, the first ones stay the same.
        positive, negative: how many, or (least, most) to draw from evenly for each image. Training has the defaults
            (section 4.1), evaluation a fixed number of both, of `EVALUATED`.
        kind: "mixed" draws scribbles or clicks for each image, as likely.

    Returns:
        float32 [N, 2, H, W] on the device of `masks`: 1 where a positive (channel 0) or negative (channel 1) prompt is,
        else 0. A region without pixels (an empty mask) gets none.

    Raises:
        TypeError, ValueError: masks are not bool [N, H, W], seeds are not N, a number is negative, a kind unknown.
    """
    if masks.dtype != torch.bool or masks.dim() != 3:
        raise TypeError(f"masks: {masks.dtype} of shape {tuple(masks.shape)}, expected bool [N, H, W]")
    if len(seeds) != len(masks):
        raise ValueError(f"{len(seeds)} seeds for {len(masks)} masks: expected one for each")
    if kind not in ("scribble", "click", "mixed"):
        raise ValueError(f"kind = {kind!r}: expected 'scribble', 'click' or 'mixed'")
    ranges = np.array([_least_and_most(positive, "positive"), _least_and_most(negative, "negative")])
    n, height, width = masks.shape
    most = int(ranges[:, 1].max())
    if 0 in (n, height, width, most):
        return torch.zeros(n, 2, height, width, device=masks.device)
    counts, clicks, uniform = (
        torch.from_numpy(numbers).to(masks.device) for numbers in _random_numbers(seeds, ranges, kind, most)
    )

    regions = torch.stack([masks, ~masks], dim=1).flatten(2)  # [N, 2, HW]
    ends = _random_pixels(regions, uniform[..., :2])  # [N, 2, most, 2]
    a, b = (torch.stack([e // width, e % width], dim=-1) for e in ends.unbind(-1))  # (row, column)
    path = _warped_lines(a, b, uniform[..., 2:].unflatten(-1, (WAVES, 2)), steps=4 * max(height, width))
    row, column = path.round().long().unbind(-1)  # [N, 2, most, T]
    in_image = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixels = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    inside = in_image & regions.gather(2, pixels.flatten(2)).view_as(pixels)

    start = torch.zeros_like(inside)
    start[..., 0] = True  # a, the click
    kept = inside & torch.where(clicks[:, None, None, None], start, _longest_run(inside))
    kept &= (torch.arange(most, device=masks.device) < counts[..., None])[..., None]
    nowhere = height * width  # one pixel more, for what is not kept
    drawn = torch.zeros(n, 2, nowhere + 1, device=masks.device)
    drawn.scatter_(2, torch.where(kept, pixels, nowhere).flatten(2), 1.0)
    return drawn[..., :nowhere].unflatten(2, (height, width))


def _least_and_most(number: int | tuple[int, int], what: str) -> tuple[int, int]:
    least, most = (number, number) if isinstance(number, int) else number
    if not 0 <= least <= most:
        raise ValueError(f"{what} = {number}: expected a number >= 0, or (least, most)")
    return least, most


def _random_numbers(
    seeds: Sequence[int], ranges: np.ndarray, kind: Kind, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompt counts [N, 2], whether they are clicks [N], and uniform numbers float32 [N, 2, most, 2 + 2 WAVES].

    An image has its own generator, and a prompt its own stretch of it, in order: so more prompts leave the first alone.
    """
    per_image = [random_of(seed) for seed in seeds]
    first = np.stack([random.random(3) for random in per_image])
    counts = ranges[:, 0] + np.floor(first[:, :2] * (ranges[:, 1] - ranges[:, 0] + 1)).astype(np.int64)
    clicks = first[:, 2] < 0.5 if kind == "mixed" else np.full(len(seeds), kind == "click")
    uniform = np.stack([random.random((most, 2, 2 + 2 * WAVES)) for random in per_image])
    return counts, clicks, np.ascontiguousarray(uniform.swapaxes(1, 2), dtype=np.float32)


def _random_pixels(regions: Tensor, uniform: Tensor) -> Tensor:
    """Evenly drawn pixels of regions [N, 2, HW]: indices of the shape of `uniform` [N, 2, P, 2]; any pixel where a
    region is empty."""
    area = regions.cumsum(2)  # the j-th pixel of a region is where its area reaches j + 1
    total = area[..., -1:]
    nth = torch.minimum((uniform.double().flatten(2) * total).long(), total - 1)
    found = torch.searchsorted(area, nth + 1)
    return found.clamp(max=regions.shape[2] - 1).view(uniform.shape)


def _warped_lines(a: Tensor, b: Tensor, uniform: Tensor, steps: int) -> Tensor:
    """Points float32 [..., steps, 2] of the lines from a to b [..., 2], bent by uniform [..., WAVES, 2].

    Four steps for each pixel of the longer side: fewer could leave gaps, as speed along an axis is at most
    (1 + sqrt(2) pi BEND WAVES) = 3.7 of it.
    """
    t = torch.linspace(0, 1, steps, device=a.device)
    along = (b - a).float()
    bends = BEND * (2 * uniform - 1) * along.square().sum(-1).sqrt()[..., None, None]
    path = a[..., None, :] + t[:, None] * along[..., None, :]
    for k in range(1, WAVES + 1):  # no matrix product: its rounding may depend on the rest of the batch
        path = path + (torch.sin(torch.pi * k * t) / k)[:, None] * bends[..., k - 1, None, :]
    return path


def _longest_run(inside: Tensor) -> Tensor:
    """Of each row of bools [..., T], the longest run of True alone (the first of equals)."""
    run = (~inside).cumsum(-1)  # one number for a run and the False before it
    lengths = torch.zeros(*inside.shape[:-1], inside.shape[-1] + 1, dtype=torch.int64, device=inside.device)
    lengths.scatter_add_(-1, run, inside.long())
    return inside & (run == lengths.argmax(-1, keepdim=True))

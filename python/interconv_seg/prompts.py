"""Simulated prompts: scribbles, clicks and boxes as a user might draw them, sampled from the truth (section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from .scribbles import WAVES, ScribbleKind, draw_scribbles, draw_strokes, mark
from .seeding import random_of, seed_of

PromptKind: TypeAlias = Literal["scribble", "click", "mixed", "both", "any"]
EVALUATED_COUNTS = (1, 2, 4, 8)  # numbers of prompts in the paper's evaluation
BOX_JITTER = 19  # pixels, as in ScribblePrompt


def draw_prompts(
    masks: Tensor,
    seeds: Sequence[int],
    positive: int | tuple[int, int] = (1, 6),
    negative: int | tuple[int, int] = (0, 6),
    kind: PromptKind = "mixed",
    scribbles: ScribbleKind = "stroke",
    boxes: float | None = None,
    jitter: int = BOX_JITTER,
) -> Tensor:
    """Samples random prompts for binary masks.

    A *click* is a random pixel of its region: the label for positive prompts, all other pixels for negative ones. A
    *scribble* starts as the straight line between two such pixels. As a "stroke" it is warped smoothly, and only the
    longest part that stays inside the region is kept. The other kinds are those of ScribblePrompt (`draw_scribbles`).

    Args:
        masks: bool [N,H,W], the pixels of the label.
        seeds: one for each mask. The prompts of an image depend only on its mask and its seed. With more prompts of a
            sign, clicks and strokes stay where they are.
        positive: the number of positive prompts per image, or (min, max) to sample it uniformly. The defaults are
            those of training (section 4.1); evaluation has fixed numbers, `EVALUATED_COUNTS`.
        negative: the number of negative prompts per image, or (min, max).
        kind: "scribble", "click"; "mixed", scribbles or clicks for each image, with probability 1/2; "both",
            scribbles or clicks for each prompt; or "any", scribbles, clicks, or scribbles and clicks for each image,
            with probability 1/3, each in a number of their own (ScribblePrompt's training).
        scribbles: "stroke"; "line", "centerline", "contour"; or "mixed", one of the last three for each image and sign.
        boxes: the probability that an image has a box (`draw_boxes`); None: no channel for boxes.
        jitter: of the boxes.

    Returns:
        float32 [N,2,H,W] on the device of `masks`: 1 at positive (channel 0) and negative (channel 1) prompts, else 0;
        between 0 and 1 at the soft edges of ScribblePrompt's scribbles. With boxes [N,3,H,W], 1 inside the box
        (channel 2). A region without pixels (an empty mask) has no prompts.

    Raises:
        TypeError: masks are not bool [N,H,W].
        ValueError: the number of seeds is not N, a number of prompts is negative, or a kind is unknown.
    """
    _check(masks, seeds)
    ranges = np.array([_min_and_max(positive, "positive"), _min_and_max(negative, "negative")])
    regions = torch.stack([masks, ~masks], dim=1)
    drawn = draw_in_regions(regions, seeds, np.broadcast_to(ranges, (len(masks), 2, 2)), kind, scribbles)
    return drawn if boxes is None else torch.cat([drawn, draw_boxes(masks, seeds, boxes, jitter)], dim=1)


def draw_boxes(masks: Tensor, seeds: Sequence[int], probability: float = 1.0, jitter: int = BOX_JITTER) -> Tensor:
    """Draws boxes around labels: the smallest rectangle, each side moved outwards by a random number of pixels.

    ScribblePrompt's boxes, apart from an error in its code, by which a box begins in the corner of the image (it takes
    the minimum of the coordinates with 0 for the background, in scribbleprompt/interactions/boxes.py).

    Args:
        masks: bool [N,H,W], the pixels of the label.
        seeds: one for each mask.
        probability: that an image has a box.
        jitter: the maximum number of pixels, sampled uniformly from 0 to it for each side.

    Returns:
        float32 [N,1,H,W] on the device of `masks`: 1 in the box. Empty masks have none.

    Raises:
        TypeError: masks are not bool [N,H,W].
        ValueError: the number of seeds is not N.
    """
    _check(masks, seeds)
    randoms = [random_of(seed, "box") for seed in seeds]
    has_box = torch.tensor([random.random() < probability for random in randoms], dtype=torch.bool)
    moved = np.array([random.integers(0, jitter + 1, 4) for random in randoms]).reshape(-1, 2, 2)
    box = has_box.to(masks.device)[:, None, None]
    for axis, outwards in enumerate(torch.from_numpy(moved).to(masks.device).unbind(1)):
        side = masks.shape[1 + axis]
        occupied = masks.any(2 - axis)  # [N,side]
        position = torch.arange(side, device=masks.device)
        first = torch.where(occupied, position, side).amin(1) - outwards[:, 0]
        last = torch.where(occupied, position, -1).amax(1) + outwards[:, 1]
        within = (position >= first[:, None]) & (position <= last[:, None]) & occupied.any(1, keepdim=True)
        box = box & within.unsqueeze(2 - axis)
    return box[:, None].float()


def draw_in_regions(
    regions: Tensor, seeds: Sequence[int], ranges: np.ndarray, kind: PromptKind, scribbles: ScribbleKind
) -> Tensor:
    """Samples prompts in two regions of each image, such as the label and the background.

    Args:
        regions: bool [N,2,H,W], for positive and negative prompts.
        seeds: one for each image.
        ranges: min and max of the number of prompts, int [N,2,2].
        kind: as in `draw_prompts`.
        scribbles: as in `draw_prompts`.

    Returns:
        float32 [N,2,H,W], as `draw_prompts`.

    Raises:
        ValueError: a kind is unknown.
    """
    for name, value, kinds in (("kind", kind, PromptKind), ("scribbles", scribbles, ScribbleKind)):
        if value not in get_args(kinds):
            raise ValueError(f"{name} = {value!r}: expected {', '.join(get_args(kinds))}")
    n, _, height, width = regions.shape
    max_count = int(ranges.max(initial=0))
    if 0 in (n, height, width, max_count):
        return torch.zeros(n, 2, height, width, device=regions.device)
    if kind == "any":
        which = torch.tensor([int(random_of(seed, "any").integers(3)) for seed in seeds], device=regions.device)
        of_image = which[:, None, None, None]
        lines = draw_in_regions(regions, seeds, ranges, "scribble", scribbles)
        clicks = draw_in_regions(regions, [seed_of(seed, "click") for seed in seeds], ranges, "click", scribbles)
        return torch.maximum(lines * (of_image != 0), clicks * (of_image != 1))
    counts, clicks, uniform = (
        torch.from_numpy(numbers).to(regions.device) for numbers in _random_numbers(seeds, ranges, kind, max_count)
    )
    ends = _random_pixels(regions.flatten(2), uniform[..., :2])  # [N,2,max_count,2]
    wanted = torch.arange(max_count, device=regions.device) < counts[..., None]
    wanted &= regions.flatten(2).any(2)[..., None]
    flat = regions.flatten(0, 1)  # [2N,H,W]
    drawn = mark(flat, ends[..., 0].flatten(0, 1), (wanted & clicks).flatten(0, 1))

    lines = (wanted & ~clicks).flatten(0, 1)
    rows = lines.any(1).nonzero()[:, 0]
    if len(rows):
        a, b = (torch.stack([e // width, e % width], dim=-1).flatten(0, 1)[rows] for e in ends.unbind(-1))
        if scribbles == "stroke":
            bends = uniform[..., 2:].unflatten(-1, (WAVES, 2)).flatten(0, 1)[rows]
            found = draw_strokes(flat[rows], a, b, lines[rows], bends)
        else:
            of_row = [seed_of(seeds[row // 2], row % 2) for row in rows.tolist()]
            region, a, b, asked = (tensor.cpu() for tensor in (flat[rows], a, b, lines[rows]))
            found = draw_scribbles(region, a, b, asked, of_row, scribbles).to(regions.device)
        drawn[rows] = drawn[rows].maximum(found)
    return drawn.unflatten(0, (n, 2))


def _check(masks: Tensor, seeds: Sequence[int]) -> None:
    if masks.dtype != torch.bool or masks.dim() != 3:
        raise TypeError(f"masks: {masks.dtype} of shape {tuple(masks.shape)}, expected bool [N, H, W]")
    if len(seeds) != len(masks):
        raise ValueError(f"{len(seeds)} seeds for {len(masks)} masks: expected one for each")


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
    minimum, maximum = ranges[..., 0], ranges[..., 1]
    counts = minimum + np.floor(first[:, :2] * (maximum - minimum + 1)).astype(np.int64)
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

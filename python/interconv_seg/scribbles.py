"""How a scribble is drawn: as one stroke, or as ScribblePrompt draws its line, centerline and contour scribbles.

A stroke is a warped line of which the longest part inside the region is kept. ScribblePrompt's scribbles are images: a
line, the centerline or the contour of the region is drawn, the latter two are broken by a random mask, the image is
warped by a random field, and all that is inside the region is kept, in as many pieces as there are, with the soft edges
of the interpolation. The numbers are those of its code (scribbleprompt/interactions/scribbles.py of
github.com/halleewong/ScribblePrompt, and voxynth, which makes its random fields).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data.augmentation import blurred, smooth_noise
from .seeding import random_of
from .thinning import thin

ScribbleKind: TypeAlias = Literal["stroke", "line", "centerline", "contour", "mixed"]
RASTER_KINDS = ("line", "centerline", "contour")

WAVES = 3  # sines in the displacement of a stroke
BEND = 0.2  # maximum amplitude of the first sine in lengths of the line; the k-th has 1/k of it

WARP_SPACING = (4.0, 16.0)  # pixels between the random displacements
WARP_PIXELS = (1.0, 6.0)  # their standard deviation
BREAK_SIGMA = (4.0, 16.0)  # smoothness of the random mask that breaks centerlines and contours
CONTOUR_SIGMA = (5.0, 20.0)  # of the blur whose level set a contour is
CONTOUR_RADIUS = 16  # of its kernel


def draw_strokes(regions: Tensor, a: Tensor, b: Tensor, wanted: Tensor, uniform: Tensor) -> Tensor:
    """Draws strokes: lines from a to b, warped smoothly with fixed ends, cut to the longest part inside.

        p(t) = a + t (b - a) + |b - a| sum_k c_k sin(k pi t) / k,    c_k uniform in [-BEND, BEND]^2,  k = 1 ... WAVES

    Args:
        regions: bool [M,H,W].
        a: (row, column) of the first ends, pixels of the regions, int64 [M,P,2].
        b: of the other ends.
        wanted: bool [M,P]; the others are not drawn.
        uniform: random numbers in [0, 1), [M,P,WAVES,2].

    Returns:
        float32 [M,H,W], 1 at the strokes.
    """
    height, width = regions.shape[1:]
    path = _warped_lines(a, b, uniform, steps=4 * max(height, width))
    row, column = path.round().long().unbind(-1)  # [M,P,T]
    in_image = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixels = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    inside = in_image & regions.flatten(1).gather(1, pixels.flatten(1)).view_as(pixels)
    return mark(regions, pixels, _longest_run(inside) & wanted[..., None])


def draw_scribbles(
    regions: Tensor, a: Tensor, b: Tensor, wanted: Tensor, seeds: Sequence[int], kind: ScribbleKind
) -> Tensor:
    """Draws scribbles as ScribblePrompt does.

    A *line* image holds straight lines from a to b. A *centerline* is the thinned region (`thin`). A *contour* is the
    boundary of a smaller region: of the pixels where the blurred background is at most a random threshold. The last two
    are multiplied by a random mask, the sign of smooth noise; if that removes all, it is left out. Then the image is
    warped (`_warped`) and cut to the region; if nothing is left, it is not warped, and if that leaves nothing either,
    the pixel a is drawn.

    Args:
        regions: bool [M,H,W], on the CPU.
        a: (row, column) of the first ends, pixels of the regions, int64 [M,P,2].
        b: of the other ends.
        wanted: bool [M,P], the lines to draw. Regions with none get no scribble; else their number does not matter to
            centerlines and contours, as in ScribblePrompt.
        seeds: of the random fields, one for each region.
        kind: "line", "centerline", "contour"; or "mixed", any of them for each region.

    Returns:
        float32 [M,H,W] in [0, 1].
    """
    randoms = [random_of(seed, "scribble") for seed in seeds]
    chosen = [int(random.integers(len(RASTER_KINDS))) for random in randoms]  # drawn in any case, for the same fields
    kinds = [RASTER_KINDS[i] if kind == "mixed" else kind for i in chosen]
    straight = _straight_lines(regions, a, b, wanted)
    images = straight.clone()
    for name, draw in (("centerline", _centerlines), ("contour", _contours)):
        rows = [i for i, found in enumerate(kinds) if found == name]
        if rows:
            images[rows] = _broken(draw(regions[rows], [randoms[i] for i in rows]), [randoms[i] for i in rows])
    first_ends = mark(regions, a[..., 0] * regions.shape[2] + a[..., 1], wanted)
    kept = regions * _warped(images, randoms)
    for other in (regions * images, first_ends):
        empty = kept.flatten(1).amax(1) == 0
        kept = torch.where(empty[:, None, None], other, kept)
    return kept * wanted.any(1)[:, None, None]


def mark(regions: Tensor, pixels: Tensor, wanted: Tensor) -> Tensor:
    """Draws pixels.

    Args:
        regions: [M,H,W], for the shape.
        pixels: indices into H W, int64 [M,...].
        wanted: which of them to draw, bool, of the shape of `pixels`.

    Returns:
        float32 [M,H,W], 1 at the pixels.
    """
    count, height, width = regions.shape
    area = height * width
    drawn = torch.zeros(count, area + 1, device=regions.device)  # the last element takes the pixels that are not wanted
    drawn.scatter_(1, torch.where(wanted, pixels, area).flatten(1), 1.0)
    return drawn[:, :area].unflatten(1, (height, width))


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


def _straight_lines(regions: Tensor, a: Tensor, b: Tensor, wanted: Tensor) -> Tensor:
    """Lines one pixel wide, corners included, also outside the region: [M,H,W]."""
    height, width = regions.shape[1:]
    along = b - a
    length = along.abs().amax(-1, keepdim=True).clamp(min=1)  # [M,P,1], steps of one pixel along the longer axis
    t = torch.arange(max(height, width)).minimum(length) / length  # [M,P,T]
    row, column = ((a[..., None, :] + t[..., None] * along[..., None, :]) + 0.5).floor().long().unbind(-1)
    return mark(regions, row * width + column, wanted[..., None].expand_as(row))


def _centerlines(regions: Tensor, randoms: Sequence[np.random.Generator]) -> Tensor:
    """The thinned regions, [M,H,W]. The border of the image counts as background, as in ScribblePrompt."""
    inner = F.pad(regions[:, 1:-1, 1:-1], (1, 1, 1, 1)).numpy()
    return torch.from_numpy(np.stack([thin(mask) for mask in inner])).float()


def _contours(regions: Tensor, randoms: Sequence[np.random.Generator]) -> Tensor:
    """The boundaries of level sets of the blurred background inside the regions, [M,H,W].

    ScribblePrompt finds the boundary by Canny's filter; here it is the pixels of the level set that have a neighbour
    above, below, left or right outside.
    """
    outside = (~regions).float()
    drawn = torch.tensor([[random.uniform(*CONTOUR_SIGMA), random.random()] for random in randoms], dtype=torch.float32)
    blurry = blurred(outside[:, None], drawn[:, :1], CONTOUR_RADIUS)[:, 0].maximum(outside)
    low, high = blurry.flatten(1).amin(1), (blurry * regions).flatten(1).amax(1)
    level_set = blurry <= (low + drawn[:, 1] * (high - low))[:, None, None]
    padded = F.pad(level_set, (1, 1, 1, 1), value=True)
    interior = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return (level_set & ~interior).float()


def _broken(images: Tensor, randoms: Sequence[np.random.Generator]) -> Tensor:
    """The images [M,H,W] where smooth noise is above its mean; whole if nothing would be left.

    ScribblePrompt blurs white noise by a Gaussian of standard deviation sigma. Cubic B-splines through nodes that are
    sqrt(3) sigma apart have the same variance as that kernel, and take a hundredth of the time.
    """
    size = (images.shape[1], images.shape[2])
    noise = [smooth_noise(random, 1, size, math.sqrt(3) * random.uniform(*BREAK_SIGMA)) for random in randoms]
    broken = images * torch.cat([field > field.mean() for field in noise])
    empty = broken.flatten(1).amax(1) == 0
    return torch.where(empty[:, None, None], images, broken)


def _warped(images: Tensor, randoms: Sequence[np.random.Generator]) -> Tensor:
    """The images [M,H,W], each warped by a random field of displacements and scaled to a maximum of 1.

    The field is that of voxynth: nodes of Gaussian noise, `WARP_SPACING` apart, interpolated bilinearly, with a
    standard deviation in `WARP_PIXELS`. An image of which nothing is left is not warped.
    """
    height, width = images.shape[1:]
    grid = np.empty((len(images), height, width, 2), np.float32)  # (x, y) in [-1, 1], the centers of the corner pixels
    for places, random in zip(grid, randoms, strict=True):
        down, right = _displacements(random, (height, width))
        places[..., 0] = (right + np.arange(width)) * np.float32(2 / max(1, width - 1)) - 1
        places[..., 1] = (down + np.arange(height)[:, None]) * np.float32(2 / max(1, height - 1)) - 1
    warped = F.grid_sample(images[:, None], torch.from_numpy(grid), mode="bilinear", align_corners=True)[:, 0]
    maximum = warped.flatten(1).amax(1)[:, None, None]
    return torch.where(maximum > 0, warped / maximum, images)


def _displacements(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A random field of displacements in pixels, (down, right), [2,H,W]."""
    spacing, deviation = random.uniform(*WARP_SPACING), random.uniform(*WARP_PIXELS)
    rows, columns = (_bilinear(max(2, int(side // spacing)), side) for side in size)
    nodes = random.standard_normal((2, rows.shape[1], columns.shape[1]), dtype=np.float32)
    field = rows @ nodes @ columns.T
    field -= field.mean((1, 2), keepdims=True)
    variance = np.square(field).sum((1, 2), keepdims=True) / (field[0].size - 1)
    return field * (deviation / np.sqrt(variance)).astype(np.float32)


@lru_cache(maxsize=64)
def _bilinear(nodes: int, count: int) -> np.ndarray:
    """The weights with which `F.interpolate` (bilinear) makes `count` values of `nodes`, [count,nodes]."""
    return F.interpolate(torch.eye(nodes)[None], count, mode="linear")[0].T.contiguous().numpy()

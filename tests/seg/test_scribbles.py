"""Scribbles as ScribblePrompt draws them, each step against a naive computation."""

import math

import numpy as np
import pytest
import torch
from interconv_seg import scribbles
from interconv_seg.prompts import draw_prompts
from interconv_seg.seeding import random_of
from interconv_seg.thinning import thin
from scipy import ndimage

RASTER = ("line", "centerline", "contour", "mixed")


def shapes(n, height=48, width=40, seed=0):
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.standard_normal((n, height, width)), (0, 4, 4))
    return torch.from_numpy(fields > np.quantile(fields, 0.8))


def naive_thin(mask):
    """Zhang and Suen, pixel by pixel, as they write it: P2 is above, then clockwise to P9."""
    pixels = np.pad(mask, 1).astype(int)
    while True:
        before = pixels.copy()
        for first in (True, False):
            removed = []
            for y, x in zip(*np.nonzero(pixels), strict=True):
                around = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
                p = [pixels[y + dy, x + dx] for dy, dx in around]
                changes = sum(p[k] == 0 and p[(k + 1) % 8] == 1 for k in range(8))
                p2, p4, p6, p8 = p[::2]
                sides = (p2 * p4 * p6, p4 * p6 * p8) if first else (p2 * p4 * p8, p2 * p6 * p8)
                if 2 <= sum(p) <= 6 and changes == 1 and not any(sides):
                    removed.append((y, x))
            for place in removed:
                pixels[place] = 0
        if (pixels == before).all():
            return pixels[1:-1, 1:-1] > 0


def test_thinning():
    masks = shapes(6).numpy()
    for mask in (*masks, ~masks[0], np.ones((7, 5), bool), np.zeros((3, 4), bool), np.ones((1, 1), bool)):
        assert np.array_equal(thin(mask), naive_thin(mask))


def naive_line(start, end):
    """Pixels in steps of one along the longer axis, rounded (halves up)."""
    steps = max(1, *(abs(q - p) for p, q in zip(start, end, strict=True)))
    return {
        tuple(math.floor(p + i * (q - p) / steps + 0.5) for p, q in zip(start, end, strict=True))
        for i in range(steps + 1)
    }


def test_straight_lines():
    random = np.random.default_rng(0)
    a, b = torch.from_numpy(random.integers(0, (30, 20), (2, 50, 3, 2)))
    b[0, 0] = a[0, 0]  # a single pixel
    wanted = torch.from_numpy(random.random((50, 3)) < 0.7)
    found = scribbles._straight_lines(torch.zeros(50, 30, 20), a, b, wanted)
    for image, starts, ends, kept in zip(found, a.tolist(), b.tolist(), wanted.tolist(), strict=True):
        lines = [naive_line(*line) for *line, keep in zip(starts, ends, kept, strict=True) if keep]
        assert {tuple(place) for place in image.nonzero().tolist()} == set().union(*lines)


def still(monkeypatch, whole=True):
    """Scribbles that are not warped, and if `whole`, not broken."""
    monkeypatch.setattr(scribbles, "_displacements", lambda random, size: np.zeros((2, *size), np.float32))
    if whole:
        monkeypatch.setattr(scribbles, "_broken", lambda images, randoms: images)


def ends(masks, count, seed=0):
    """Random pixels of the masks, [n,count,2] twice."""
    random = np.random.default_rng(seed)
    pixels = [mask.nonzero() for mask in masks]
    picked = [[p[random.integers(len(p), size=count)] for p in pixels] for _ in range(2)]
    return tuple(torch.stack(found) for found in picked)


def test_a_line_keeps_all_its_pieces(monkeypatch):
    still(monkeypatch)
    stripes = (torch.arange(40) % 8 < 4).repeat(1, 20, 1)
    a, b = torch.tensor([[[3, 1]]]), torch.tensor([[[15, 35]]])
    found = scribbles.draw_scribbles(stripes, a, b, torch.ones(1, 1, dtype=torch.bool), [0], "line")[0].round(
        decimals=3
    )
    line = naive_line((3, 1), (15, 35))
    assert {tuple(place) for place in found.nonzero().tolist()} == {p for p in line if stripes[(0, *p)]}
    assert ndimage.label(found.numpy(), np.ones((3, 3)))[1] == 5


def test_a_centerline_is_the_thinned_region_without_the_border(monkeypatch):
    still(monkeypatch)
    masks = shapes(5)
    a, b = ends(masks, 2)
    found = scribbles.draw_scribbles(masks, a, b, torch.ones(5, 2, dtype=torch.bool), range(5), "centerline")
    for mask, image in zip(masks.numpy(), found.numpy(), strict=True):
        inner = mask.copy()
        inner[[0, -1]] = inner[:, [0, -1]] = False
        np.testing.assert_allclose(image, naive_thin(inner), atol=1e-4)


def test_a_contour_is_the_boundary_of_a_level_set(monkeypatch):
    """Of the Gaussian-blurred background inside the region; the threshold is between its extremes there."""
    still(monkeypatch)
    masks = shapes(8)
    drawn = scribbles._contours(masks, [random_of(i) for i in range(8)])
    areas = []
    for i, (mask, image) in enumerate(zip(masks.numpy(), drawn.numpy(), strict=True)):
        random = random_of(i)
        sigma, share = random.uniform(*scribbles.CONTOUR_SIGMA), random.random()
        blurry = ndimage.gaussian_filter((~mask).astype(float), sigma, mode="nearest", radius=scribbles.CONTOUR_RADIUS)
        blurry = np.maximum(blurry, ~mask)
        threshold = blurry.min() + share * (blurry[mask].max() - blurry.min())
        level = blurry <= threshold + 1e-6
        height, width = mask.shape
        expected = {
            (y, x)
            for y, x in zip(*np.nonzero(level), strict=True)
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
            if 0 <= y + dy < height and 0 <= x + dx < width and not level[y + dy, x + dx]
        }
        assert {tuple(place) for place in zip(*np.nonzero(image), strict=True)} == expected
        assert not (level & ~mask).any()
        areas.append(level.sum() / mask.sum())
    assert min(areas) < 0.4
    assert max(areas) > 0.6


def test_lines_are_broken_by_a_random_mask():
    images = torch.ones(40, 64, 64)
    images[0] = 0
    images[0, 5, 5] = 1  # may fall into a gap; then it is kept whole
    broken = scribbles._broken(images, [random_of(i) for i in range(40)])
    assert set(broken.unique().tolist()) == {0, 1}
    shares = broken[1:].mean((1, 2))
    assert ((shares > 0.25) & (shares < 0.75)).all()
    assert broken[0].sum() == 1
    hidden = images[:1].expand(40, 64, 64)
    assert (scribbles._broken(hidden, [random_of(i) for i in range(40)]).sum((1, 2)) == 1).all()


def naive_warp(image, displacement):
    """Bilinear, zero outside: the value at p is that of the image at p + d(p); then scaled to a maximum of 1."""
    height, width = image.shape
    warped = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            down, right = y + float(displacement[0, y, x]), x + float(displacement[1, y, x])
            for v in (math.floor(down), math.floor(down) + 1):
                for u in (math.floor(right), math.floor(right) + 1):
                    if 0 <= v < height and 0 <= u < width:
                        warped[y, x] += (1 - abs(down - v)) * (1 - abs(right - u)) * float(image[v, u])
    return warped / warped.max()


def test_images_are_warped_by_the_random_field():
    images = (shapes(3, 24, 20) & (torch.arange(20) % 3 == 0)).float()
    fields = [scribbles._displacements(random_of(i), (24, 20)) for i in range(3)]
    warped = scribbles._warped(images, [random_of(i) for i in range(3)])
    for image, field, found in zip(images, fields, warped, strict=True):
        np.testing.assert_allclose(found, naive_warp(image, field), atol=1e-4)
    assert torch.equal(scribbles._warped(torch.zeros(1, 9, 9), [random_of(0)]), torch.zeros(1, 9, 9))


def test_the_random_field_has_the_deviation_that_was_drawn():
    for seed in range(20):
        random = random_of(seed)
        spacing, deviation = random.uniform(*scribbles.WARP_SPACING), random.uniform(*scribbles.WARP_PIXELS)
        nodes = random.standard_normal((2, int(96 // spacing), int(80 // spacing)), dtype=np.float32)
        interpolated = torch.nn.functional.interpolate(torch.from_numpy(nodes)[None], (96, 80), mode="bilinear")[0]
        expected = (interpolated - interpolated.mean((1, 2), keepdim=True)).double()
        expected *= deviation / expected.std((1, 2), keepdim=True)
        field = scribbles._displacements(random_of(seed), (96, 80))
        np.testing.assert_allclose(field, expected, atol=1e-4)


@pytest.mark.parametrize("kind", RASTER)
def test_edges_are_soft_and_inside(kind):
    masks = shapes(60)
    drawn = draw_prompts(masks, range(60), 3, 3, "scribble", kind)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    for channel, regions in enumerate((masks, ~masks)):
        assert not drawn[:, channel][~regions].any()
        assert (drawn[:, channel].flatten(1).amax(1) > 0).all()
    soft = ((drawn > 0.02) & (drawn < 0.98)).sum() / (drawn > 0).sum()
    assert soft > 0.7
    pieces = [ndimage.label(image > 0, np.ones((3, 3)))[1] for image in drawn[:, 0].numpy()]
    assert np.mean(pieces) > 2


def test_a_warp_that_leaves_nothing_inside_is_undone(monkeypatch):
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[0, 4:7, 4:7] = True
    monkeypatch.setattr(scribbles, "_displacements", lambda random, size: np.full((2, *size), 12, np.float32))
    place = torch.tensor([[[5, 5]]])
    asked = torch.ones(1, 1, dtype=torch.bool)
    found = scribbles.draw_scribbles(masks, place, place, asked, [0], "line")
    assert found.round(decimals=3).nonzero().tolist() == [[0, 5, 5]]


def test_more_lines_keep_the_first():
    masks = shapes(10)
    fewer, more = (draw_prompts(masks, range(10), count, count, "scribble", "line") > 0 for count in (2, 4))
    assert (fewer <= more).float().mean() > 0.999  # the edges of a line are where those of others are
    assert (fewer < more).any()


def test_mixed_scribbles_are_of_the_three_kinds():
    masks = shapes(60)
    kinds = torch.stack([draw_prompts(masks, range(60), 2, 2, "scribble", kind) for kind in RASTER])
    same = (kinds[3] == kinds[:3]).flatten(3).all(3)  # [kind, image, sign]
    assert same.any(0).all()
    assert ((same.float().mean((1, 2)) - 1 / 3).abs() < 0.12).all()

"""Augmentation for sets of a task: what a set shares, what each image has of its own."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from interconv_seg.data import SetAugmentation
from interconv_seg.data.files import IGNORED

STILL = SetAugmentation(still=1.0, gain=0, offset=0, noise=0, gamma=0, invert=0)


def disc(radius=6, place=(16, 16), copies=5, size=32):
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    mask = ((rows - place[0]) ** 2 + (columns - place[1]) ** 2 < radius**2).to(torch.int16)
    return mask.float().expand(copies, 1, size, size).clone(), mask.expand(copies, size, size).clone()


def test_results_are_functions_of_the_seeds():
    images, masks = disc()
    before = images.clone(), masks.clone()
    for seed in range(20):
        moved, moved_masks = SetAugmentation()(images, masks, [3, 2], [seed, seed + 50])
        assert (moved.shape, moved.dtype, moved_masks.dtype) == (images.shape, torch.float32, torch.int16)
        assert 0 <= moved.min() <= moved.max() <= 1
        assert set(moved_masks.unique().tolist()) <= {0, 1}
        again, again_masks = SetAugmentation()(images, masks, [3, 2], [seed, seed + 50])
        assert torch.equal(moved, again)
        assert torch.equal(moved_masks, again_masks)
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])
    assert SetAugmentation()(images, None, [5], [0])[1] is None


def test_a_set_moves_together_and_apart():
    images, masks = disc(place=(10, 20))
    together, _ = STILL(images, masks, [3, 2], [1, 2])
    assert torch.equal(together[0], together[2])
    assert torch.equal(together[3], together[4])
    assert not torch.equal(together[0], together[3])
    apart, _ = replace(STILL, still=0.0)(images, masks, [3, 2], [1, 2])
    assert not torch.equal(apart[0], apart[1])
    # What an image moves on its own is small: the discs of a set overlap.
    found = [replace(STILL, still=0.0)(images, masks, [5], [seed])[1].bool() for seed in range(20)]
    overlap = [float((m[0] & m[1]).sum() / (m[0] | m[1]).sum()) for m in found]
    assert 0.3 < np.median(overlap) < 0.99


def test_some_sets_are_not_aligned():
    images, masks = disc(place=(10, 20), copies=8)
    apart = replace(STILL, apart=0.35)
    moved = [apart(images, masks, [8], [seed])[1].bool() for seed in range(100)]
    alone = [int((m.any(0)).sum() > 2 * m[0].sum().clamp(min=1)) for m in moved]  # discs lie in several places
    assert 0.2 < np.mean(alone) < 0.5
    for seed in range(5):  # without it, the random numbers are those of a set that is aligned
        torch.testing.assert_close(
            replace(apart, apart=0.0)(images, masks, [8], [seed]), STILL(images, masks, [8], [seed])
        )


def test_images_and_masks_move_alike():
    images, masks = disc(radius=8)
    for seed in range(10):
        moved, moved_masks = replace(STILL, still=0.0)(images, masks, [5], [seed])
        assert ((moved[:, 0] > 0.5) == (moved_masks > 0)).float().mean() > 0.96


@pytest.mark.parametrize("radius", [3, 6, 12])
def test_the_structure_fills_a_part_of_the_image(radius):
    images, masks = disc(radius)
    still = replace(STILL, centre=0.0, area=(0.05, 0.2))
    found = np.array([float(still(images, masks, [5], [seed])[1].float().mean()) for seed in range(60)])
    before = float(masks.float().mean())
    low, high = (float(np.clip(part, before * 0.8**2, before * 2.5**2)) for part in (0.05, 0.2))
    assert 0.8 * low < found.min() < 1.5 * low
    assert 0.7 * high < found.max() < 1.2 * high


def test_it_zooms_towards_the_structure():
    images, masks = disc(radius=3, place=(7, 23))
    still = replace(STILL, centre=0.0, area=(0.2, 0.2), quarter_turns=0, flip=0, rotation=0)
    moved = still(images, masks, [5], [0])[1].float()
    assert float(moved.mean()) == pytest.approx(float(masks.float().mean()) * 2.5**2, rel=0.1)  # nothing is cut off


def test_contrast_is_of_the_set_and_a_little_of_the_image():
    images = torch.full((6, 1, 8, 8), 0.3)
    changed = SetAugmentation(gain=0, offset=0, noise=0)(images, None, [3, 3], [0, 1])[0]
    torch.testing.assert_close(changed[0], changed[1])
    assert (changed[0] - changed[3]).abs().min() > 0.01
    values = torch.stack([replace(STILL, gamma=0.5)(images, None, [6], [seed])[0][0] for seed in range(100)])
    assert 0.3 ** math.exp(0.5) <= values.min() < 0.15
    assert 0.45 < values.max() <= 0.3 ** math.exp(-0.5) + 1e-6
    inverted = [float(replace(STILL, invert=0.25)(images, None, [6], [seed])[0].mean()) > 0.5 for seed in range(200)]
    assert 0.15 < np.mean(inverted) < 0.35
    own = replace(STILL, gain=0.08, offset=0.03)(images, None, [6], [0])[0].mean((1, 2, 3))
    assert 0.005 < own.std() < 0.08


def test_pixels_that_do_not_count_stay_so():
    images, masks = disc()
    masks[:] = torch.where(masks > 0, masks, IGNORED)
    _, moved = SetAugmentation()(images, masks, [5], [3])
    assert set(moved.unique().tolist()) == {IGNORED, 1}

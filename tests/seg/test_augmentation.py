"""Augmentation of packed batches: what is shared in a set, what stays exact, and each change against a naive one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interconv_seg.data import AUGMENTATIONS, Augmentation
from interconv_seg.data.augmentation import _splines, blurred
from interconv_seg.data.files import IGNORED
from scipy.ndimage import gaussian_filter

NAMES = [name for name in AUGMENTATIONS if name != "none"]


def pattern(copies=4, size=(48, 40)):
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(1, 2, 6, 6), size, mode="bicubic")[0].clamp(0, 1)
    mask = (image[0] > 0.5).to(torch.int16) * 3 + (image[1] > 0.6).to(torch.int16) * 4
    return image.expand(copies, 2, *size), mask.expand(copies, *size)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_images_and_masks(name):
    images, masks = pattern()
    before = images.clone(), masks.clone()
    for seed in range(5):
        moved, moved_masks = AUGMENTATIONS[name](images, masks, [3, 1], [seed, 100 + seed])
        assert (moved.shape, moved.dtype) == (images.shape, torch.float32)
        assert (moved_masks.shape, moved_masks.dtype) == (masks.shape, torch.int16)
        assert moved.isfinite().all()
        assert 0 <= moved.min() <= moved.max() <= 1
        assert set(moved_masks.unique().tolist()) <= {0, 3, 4, 7}
        assert torch.equal(AUGMENTATIONS[name](images, None, [3, 1], [seed, 100 + seed])[0], moved)
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])


def test_nothing_is_changed_without_probabilities():
    images, masks = pattern()
    moved, moved_masks = AUGMENTATIONS["none"](images, masks, [4], [0])
    assert torch.equal(moved, images)
    assert torch.equal(moved_masks, masks)


@pytest.mark.parametrize("name", NAMES)
def test_geometry_is_shared_in_a_set_if_told(name):
    images, masks = pattern(6)
    shared = replace(AUGMENTATIONS[name], shared_geometry=True, affine=1.0)
    _, found = shared(images, masks, [4, 2], [1, 2])
    assert all(torch.equal(found[i], found[0]) for i in range(4))
    assert torch.equal(found[4], found[5])
    assert not torch.equal(found[0], found[4])
    _, found = replace(shared, shared_geometry=False)(images, masks, [4, 2], [1, 2])
    assert len(found.flatten(1).unique(dim=0)) == 6


def test_a_set_is_a_function_of_its_seed():
    """Apart from noise, which is one stream for the batch: the same whatever the other sets are."""
    images, masks = pattern(5)
    quiet = replace(AUGMENTATIONS["scribbleprompt"], noise=0.0)
    whole = quiet(images, masks, [2, 3], [7, 8])
    alone = quiet(images[2:], masks[2:], [3], [8])
    torch.testing.assert_close(alone[0], whole[0][2:])
    assert torch.equal(alone[1], whole[1][2:])
    noisy = Augmentation(noise=1.0)
    assert torch.equal(noisy(images, masks, [2, 3], [7, 8])[0], noisy(images, masks, [2, 3], [7, 8])[0])
    assert not torch.equal(noisy(images, masks, [2, 3], [7, 9])[0], noisy(images, masks, [2, 3], [7, 8])[0])


def test_masks_stay_on_their_image():
    _, masks = pattern(1)
    images = masks[:, None].float() / 7  # an image that shows its mask
    geometry = Augmentation(flip=0.5, affine=1.0, elastic=1.0)
    for seed in range(20):
        moved, moved_masks = geometry(images, masks, [1], [seed])
        assert ((moved[:, 0] * 7 - moved_masks).abs() < 0.5).float().mean() > 0.7  # all but borders
        assert not torch.equal(moved_masks, masks)


def test_unlabelled_images_stay_unlabelled():
    images, masks = pattern(2)
    masks = torch.stack([masks[0], torch.full_like(masks[1], IGNORED)])
    _, found = Augmentation(affine=1.0, shift=0.4)(images, masks, [2], [3])
    assert (found[1] == IGNORED).all()
    assert (found[0] != IGNORED).all()


def test_flips_and_rotations_move_pixels_as_they_say():
    image = torch.arange(20.0 * 20).view(1, 1, 20, 20) / 400
    seen = set()
    for seed in range(40):
        moved, _ = Augmentation(flip=0.5)(image, None, [1], [seed])
        matches = [dims for dims in ((), (2,), (3,), (2, 3)) if torch.allclose(moved, image.flip(dims), atol=1e-6)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 4
    angles = []
    for seed in range(10):
        line = torch.zeros(1, 1, 41, 41)
        line[..., 20, 21:] = 1  # from the middle to the right
        moved, _ = Augmentation(affine=1.0, rotation=90.0, scale=(1.0, 1.0), shift=0.0)(line, None, [1], [seed])
        weights = moved[0, 0]
        y, x = (weights * torch.arange(41.0)[:, None]).sum(), (weights * torch.arange(41.0)).sum()
        angles.append(float(torch.rad2deg(torch.atan2(y / weights.sum() - 20, x / weights.sum() - 20))))
        length = float(torch.hypot(y / weights.sum() - 20, x / weights.sum() - 20))
        assert length == pytest.approx(10.5, abs=0.3)
    assert max(angles) - min(angles) > 90
    assert max(map(abs, angles)) <= 92


def test_scale_is_magnification():
    disc = (torch.hypot(*torch.meshgrid(torch.arange(-32.0, 32), torch.arange(-32.0, 32), indexing="ij")) < 8).float()
    moved, _ = Augmentation(affine=1.0, rotation=0.0, scale=(2.0, 2.0), shift=0.0)(disc[None, None], None, [1], [0])
    assert float(moved.sum() / disc.sum()) == pytest.approx(4, rel=0.05)


def test_blur_is_gaussian():
    images, _ = pattern(3)
    sigma = torch.tensor([[0.4], [1.0], [1.2]])
    found = blurred(images.contiguous(), sigma)
    for i, s in enumerate(sigma.flatten().tolist()):
        for channel in range(2):
            expected = gaussian_filter(images[i, channel].double().numpy(), s, mode="nearest", radius=4)
            np.testing.assert_allclose(found[i, channel], expected, atol=1e-5)


def test_smooth_noise_has_unit_variance_and_no_gaps():
    weights = _splines(100, 7.0)
    np.testing.assert_allclose((weights**2).sum(1), 1, rtol=1e-5)
    assert (weights.sum(1) > 1).all()
    assert np.abs(np.diff(weights, axis=0)).max() < 0.25  # smooth


def test_intensities_change_as_they_say():
    images, _ = pattern(1)
    images = images.contiguous()

    def changed(**options):
        return Augmentation(**options)(images, None, [1], [5])[0]

    torch.testing.assert_close(changed(gamma=1.0, gamma_range=(2.0, 2.0)), images**2)
    inverted = 1 - (1 - images) ** 0.5
    torch.testing.assert_close(changed(inverted_gamma=1.0, gamma_range=(0.5, 0.5)), inverted)
    kept = changed(inverted_gamma=1.0, gamma_range=(0.5, 0.5), keep_statistics=True)
    expected = (inverted.double() - inverted.mean((2, 3), keepdim=True)) / inverted.double().std((2, 3), keepdim=True)
    expected = expected * images.std((2, 3), keepdim=True) + images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(kept.double(), expected.clamp(0, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(changed(brighten=1.0, brighten_range=(0.5, 0.5)), 0.5 * images)
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(
        changed(contrast=1.0, contrast_range=(0.5, 0.5), brightness=0.0), 0.5 * (images - mean) + mean
    )
    ratio = (changed(bias=1.0, bias_range=(0.1, 0.1)) / images)[images > 0.1]
    assert 0.005 < float(ratio.log().std()) < 0.3
    assert float((changed(noise=1.0, noise_deviation=(0.03, 0.03)) - images).std()) == pytest.approx(0.03, rel=0.2)
    coarse = changed(low_resolution=1.0, zoom=(0.5, 0.5))
    assert float((coarse - images).abs().mean()) > 0.001
    assert float(changed(sharpen=1.0).std()) != pytest.approx(float(images.std()), rel=1e-4)


def test_probabilities():
    images, masks = pattern(1)
    images, masks = images.expand(400, -1, -1, -1), masks.expand(400, -1, -1)
    seeds = list(range(400))
    moved, moved_masks = Augmentation(affine=0.25)(images, masks, [1] * 400, seeds)
    assert 70 < int((moved_masks != masks).flatten(1).any(1).sum()) < 130
    moved, _ = Augmentation(gamma=0.25)(images, masks, [1] * 400, seeds)
    assert 70 < int((moved != images).flatten(1).any(1).sum()) < 130


def test_scaling_apart_from_rotation():
    """In a quarter of the images each, independently; scaling alone keeps the middle and the direction."""
    images, masks = pattern(1, size=(33, 33))
    images, masks = images.expand(400, -1, -1, -1), masks.expand(400, -1, -1)
    seeds = list(range(400))
    apart = Augmentation(affine=0.25, scaling=0.25, shift=0, rotation=180, scale=(0.5, 0.5))
    moved, _ = apart(images, masks, [1] * 400, seeds)
    changed = (moved != images).flatten(1).any(1)
    assert 145 < int(changed.sum()) < 205  # 7/16
    small, _ = Augmentation(scaling=1.0, scale=(0.5, 0.5))(images[:1], masks[:1], [1], [0])
    naive = torch.zeros_like(small)
    naive[:, :, 8:25, 8:25] = images[:1, :, ::2, ::2]
    torch.testing.assert_close(small, naive, atol=1e-5, rtol=0)
    assert 60 < int((moved == small).flatten(1).all(1).sum()) < 95  # 3/16

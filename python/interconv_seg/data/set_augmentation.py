"""Augmentation for sets of a task: one random change for the whole set, and a small one for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..seeding import random_of, seed_of

Range = tuple[float, float]


@dataclass(frozen=True)
class SetAugmentation:
    """Random changes that keep a set a set: its images share most of the geometry and of the contrast.

    The geometry is one affine map for each image, in one resampling (images bilinearly, masks to the nearest pixel, the
    border repeated): the map of the set, which also zooms towards the structures, with the small map of the image.
    The numbers were chosen in trials on training data.

    Attributes:
        area: the set is zoomed so that the pixels above 0 in its masks cover a part of the image that is log-uniform
            in this range, as far as `zoom` allows.
        zoom: (min, max) magnification.
        centre: the standard deviation of the set's place, as a part of half of the image.
        quarter_turns: the probability of a random number of quarter turns.
        rotation: the standard deviation of the set's angle in radians.
        flip: the probability of a flip.
        still: the probability that the images of a set have no geometry of their own.
        own_rotation: the maximum standard deviation of an image's own angle in radians.
        own_scale: the same for the logarithm of its own magnification along each axis.
        own_shift: the same for its own shift, as a part of half of the image.
        apart: the probability that the images of a set are not aligned at all: each has any angle, a flip and a large
            shift of its own, as cells have.
        apart_shift: the standard deviation of that shift, as a part of half of the image.
        gamma: the maximum |log g| of x -> x^g, for the set.
        invert: the probability of x -> 1 - x, for the set.
        gain: the standard deviation of an image's own factor.
        offset: the standard deviation of an image's own offset.
        noise: the probability of Gaussian noise, for the set.
        noise_deviation: the maximum standard deviation of the noise.
    """

    area: Range = (0.03, 0.35)
    zoom: Range = (0.8, 2.5)
    centre: float = 0.1
    quarter_turns: float = 0.7
    rotation: float = 0.25
    flip: float = 0.5
    still: float = 0.2
    own_rotation: float = 0.2
    own_scale: float = 0.1
    own_shift: float = 0.08
    apart: float = 0.0
    apart_shift: float = 0.25
    gamma: float = 0.5
    invert: float = 0.25
    gain: float = 0.08
    offset: float = 0.03
    noise: float = 0.5
    noise_deviation: float = 0.05

    def __call__(
        self, images: Tensor, masks: Tensor | None, lengths: Sequence[int], seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Changes a batch.

        Args:
            images: float32 [N,C,H,W] in [0, 1].
            masks: class indices [N,H,W], or None.
            lengths: the number of samples of each set.
            seeds: one for each set.

        Returns:
            Images in [0, 1] and masks, new tensors of the same shapes and dtypes.
        """
        randoms = [random_of(seed, "set augmentation") for seed in seeds]
        where = None if masks is None else (masks > 0).float()
        maps, start = [], 0
        for random, length in zip(randoms, lengths, strict=True):
            maps.append(self._maps(random, length, None if where is None else where[start : start + length]))
            start += length
        grids = F.affine_grid(torch.cat(maps), list(images.shape), align_corners=False)
        images = F.grid_sample(images, grids, padding_mode="border", align_corners=False)
        if masks is not None:
            moved = F.grid_sample(
                masks[:, None].float(), grids, mode="nearest", padding_mode="border", align_corners=False
            )
            masks = moved[:, 0].to(masks.dtype)
        return self._change_intensities(images, randoms, lengths, seeds), masks

    def _maps(self, random: np.random.Generator, length: int, where: Tensor | None) -> Tensor:
        """Where the pixels of each image of a set are sampled from, [K,2,3] as `F.affine_grid` takes it."""
        area = math.exp(random.uniform(*np.log(self.area)))
        magnification, centre = 1.0, np.zeros(2)
        if where is not None and (found := float(where.mean())) > 0:
            magnification = float(np.clip(math.sqrt(area / found), *self.zoom))
            rows, columns = where.sum((0, 2)).numpy(), where.sum((0, 1)).numpy()  # of the pixels, along each axis
            centre = np.array([_centre(columns), _centre(rows)]) * (1 - 1 / magnification)
        centre = centre + random.normal(size=2) * self.centre
        turns = random.integers(4) if random.random() < self.quarter_turns else 0
        angle = random.normal() * self.rotation + turns * math.pi / 2
        flip = -1.0 if random.random() < self.flip else 1.0
        moves = 0.0 if random.random() < self.still else 1.0
        own = moves * random.random(3)[:, None] * np.array([[self.own_rotation], [self.own_scale], [self.own_shift]])
        angles = angle + own[0] * random.normal(size=length)
        scales = np.exp(own[1] * random.normal(size=(length, 2))) / magnification * [flip, 1.0]
        shifts = centre + own[2] * random.normal(size=(length, 2))
        if self.apart and random.random() < self.apart:
            angles = random.uniform(0, 2 * math.pi, length)
            scales[:, 0] *= np.where(random.random(length) < 0.5, -1.0, 1.0)
            shifts = shifts + self.apart_shift * random.normal(size=(length, 2))
        cosine, sine = np.cos(angles), np.sin(angles)
        turned = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], axis=1) * scales[:, None]
        return torch.from_numpy(np.concatenate([turned, shifts[:, :, None]], axis=2)).float()

    def _change_intensities(
        self, x: Tensor, randoms: Sequence[np.random.Generator], lengths: Sequence[int], seeds: Sequence[int]
    ) -> Tensor:
        powers, inverted, deviations, own = [], [], [], []
        for random, length in zip(randoms, lengths, strict=True):
            powers += [math.exp(random.uniform(-self.gamma, self.gamma))] * length
            inverted += [random.random() < self.invert] * length
            deviations += [random.uniform(0, self.noise_deviation) * (random.random() < self.noise)] * length
            own.append(random.normal(size=(length, 2)))
        power, deviation = (torch.tensor(v, dtype=torch.float32)[:, None, None, None] for v in (powers, deviations))
        gain, offset = torch.from_numpy(np.concatenate(own)).float()[..., None, None, None].unbind(1)
        x = torch.where(torch.tensor(inverted)[:, None, None, None], 1 - x, x).clamp(0, 1) ** power
        x = x * (1 + self.gain * gain) + self.offset * offset
        noise = torch.Generator().manual_seed(seed_of("set noise", *seeds))
        return (x + deviation * torch.randn(x.shape, generator=noise)).clamp(0, 1)


# By the name that a run's `augmentation` has.
SET_AUGMENTATIONS = {"sets": SetAugmentation(), "sets-apart": SetAugmentation(apart=0.35)}


def _centre(sums: np.ndarray) -> float:
    """The centre of mass along an axis, in [-1, 1]."""
    places = (2 * np.arange(len(sums)) + 1) / len(sums) - 1
    return float((sums * places).sum() / sums.sum())

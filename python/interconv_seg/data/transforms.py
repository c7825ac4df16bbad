"""Augmentation with MONAI's transforms, with the same random numbers for a whole set or for each sample its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import (
    Compose,
    Rand2DElasticd,
    RandAdjustContrastd,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Transform,
)
from torch import Tensor

from ..seeding import seed_of
from .files import IGNORED


class Augmentation:
    """Random transforms of one set.

    Args:
        per_set: MONAI dictionary transforms (keys "image" [C,H,W] and "mask" [1,H,W]) that are the same for all samples
            of a set: for scans that are aligned with each other, the geometry.
        per_sample: transforms with random numbers of their own for each sample, applied after those.
    """

    def __init__(self, per_set: Sequence[Transform] = (), per_sample: Sequence[Transform] = ()):
        self.per_set, self.per_sample = Compose(per_set), Compose(per_sample)

    def __call__(self, images: Tensor, masks: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """Transforms a set.

        Args:
            images: [K,C,H,W].
            masks: [K,H,W], or None. They stay class indices if their transforms use the nearest pixel, as `geometry`
                does.
            seed: of the random numbers.

        Returns:
            Images, clipped to [0, 1], and masks, of the same shapes and dtypes.
        """
        samples = []
        for i, image in enumerate(images):
            sample = {"image": image} if masks is None else {"image": image, "mask": masks[i][None]}
            for part, own_seed in ((self.per_set, seed_of(seed, "set")), (self.per_sample, seed_of(seed, i))):
                part.set_random_state(own_seed % 2**32)
                sample = part(sample)
            samples.append(sample)
        images = torch.stack([_plain(sample["image"]) for sample in samples]).clamp(0, 1).to(images.dtype)
        if masks is not None:
            unlabelled = (masks == IGNORED).flatten(1).all(1)
            masks = torch.stack([_plain(sample["mask"])[0] for sample in samples]).to(masks.dtype)
            masks[unlabelled] = IGNORED  # also where pixels of outside the image came in
        return images, masks


def geometry(flips: bool = False) -> list[Transform]:
    """Random geometry: rotation, scaling, shifts and a smooth elastic deformation, resampled once.

    Rotation is by up to 15 degrees, scaling by up to 10 %, shifts by up to 8 pixels.

    Args:
        flips: also flip along both axes, for images without a fixed orientation.
    """
    both = ("image", "mask")
    elastic = Rand2DElasticd(
        both,
        prob=0.8,
        spacing=(24, 24),
        magnitude_range=(0, 2),
        rotate_range=float(np.deg2rad(15)),
        scale_range=(0.1, 0.1),
        translate_range=(8, 8),
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
        allow_missing_keys=True,
    )
    flipping = [RandFlipd(both, prob=0.5, spatial_axis=axis, allow_missing_keys=True) for axis in (0, 1)]
    return [*flipping, elastic] if flips else [elastic]


def intensity() -> list[Transform]:
    """Random contrast (gamma), smooth bias field, blur and noise; images stay roughly in [0, 1]."""
    return [
        RandAdjustContrastd("image", prob=0.5, gamma=(0.6, 1.7)),
        RandBiasFieldd("image", prob=0.3, coeff_range=(-0.15, 0.15)),
        RandGaussianSmoothd("image", prob=0.25, sigma_x=(0.3, 1.2), sigma_y=(0.3, 1.2)),
        RandGaussianNoised("image", prob=0.4, std=0.05),
    ]


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor

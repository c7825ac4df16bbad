"""Augmentation of a whole packed batch, on tensors: random geometry for each set or each sample, random intensities.

All random numbers are functions of the seeds of the sets, so that a resumed run continues with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..seeding import random_of, seed_of
from .files import IGNORED

Range = tuple[float, float]
INTENSITIES = (  # in this order
    "inverted_gamma",
    "gamma",
    "brighten",
    "contrast",
    "bias",
    "blur",
    "sharpen",
    "low_resolution",
    "noise",
)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of images and masks. A probability of 0 leaves a change out.

    Geometry is one resampling for all of its parts: images bilinearly, masks to the nearest pixel, zeros outside.

    Attributes:
        shared_geometry: the geometry is the same for all samples of a set, which fits scans that are aligned with each
            other. False: each sample has its own.
        shared_intensities: the other changes are the same for all samples of a set, too, apart from noise, which is of
            the same strength.
        flip: the probability of a flip along each axis.
        affine: the probability of rotation, scaling and shift together.
        rotation: the maximum angle in degrees, in both directions.
        scale: (min, max) magnification.
        scaling: the probability of scaling, if that is independent of `affine`; None: they come together.
        shift: the maximum shift, as a part of the size.
        elastic: the probability of a smooth deformation.
        elastic_pixels: (min, max) standard deviation of the displacements in pixels.
        elastic_spacing: the distance in pixels over which displacements vary.
        gamma: the probability of x -> x^g, g in `gamma_range`.
        inverted_gamma: the probability of x -> 1 - (1 - x)^g.
        gamma_range: (min, max) of g.
        keep_statistics: after either, the image gets the mean and the standard deviation that it had.
        brighten: the probability of x -> c x, c in `brighten_range`.
        brighten_range: (min, max) of c.
        contrast: the probability of x -> c (x - mean) + mean + b.
        contrast_range: (min, max) of c.
        brightness: the maximum of |b|.
        bias: the probability of a smooth factor exp(f) over the image.
        bias_range: (min, max) standard deviation of f.
        blur: the probability of a Gaussian blur.
        blur_sigma: (min, max) in pixels.
        sharpen: the probability of x -> s (x - smooth) + smooth, s from 0 to `sharpness`, smooth a 3x3 mean.
        sharpness: the maximum of s.
        low_resolution: the probability of sampling down and up again.
        zoom: (min, max) factor of that.
        noise: the probability of Gaussian noise.
        noise_deviation: (min, max) standard deviation.
    """

    shared_geometry: bool = False
    shared_intensities: bool = False
    flip: float = 0.0
    affine: float = 0.0
    rotation: float = 15.0
    scale: Range = (0.9, 1.1)
    scaling: float | None = None
    shift: float = 0.06
    elastic: float = 0.0
    elastic_pixels: Range = (0.0, 2.0)
    elastic_spacing: float = 24.0
    gamma: float = 0.0
    inverted_gamma: float = 0.0
    gamma_range: Range = (0.6, 1.7)
    keep_statistics: bool = False
    brighten: float = 0.0
    brighten_range: Range = (0.75, 1.25)
    contrast: float = 0.0
    contrast_range: Range = (0.8, 1.2)
    brightness: float = 0.1
    bias: float = 0.0
    bias_range: Range = (0.0, 0.3)
    blur: float = 0.0
    blur_sigma: Range = (0.3, 1.2)
    sharpen: float = 0.0
    sharpness: float = 5.0
    low_resolution: float = 0.0
    zoom: Range = (0.5, 1.0)
    noise: float = 0.0
    noise_deviation: Range = (0.0, 0.05)

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
        places = [(seed, i) for seed, length in zip(seeds, lengths, strict=True) for i in range(length)]
        shared = [(seed, 0) for seed, _ in places]
        changed, changed_masks = self._move(images, masks, shared if self.shared_geometry else places)
        noise = torch.Generator().manual_seed(seed_of("noise", *seeds))
        of_sample = shared if self.shared_intensities else places
        changed = self._change_intensities(changed, [random_of("intensity", *place) for place in of_sample], noise)
        return changed.clamp(0, 1), changed_masks

    @property
    def changes_anything(self) -> bool:
        """Whether any probability is above 0."""
        return any((getattr(self, name) or 0) > 0 for name in ("flip", "affine", "scaling", "elastic", *INTENSITIES))

    def _move(
        self, images: Tensor, masks: Tensor | None, places: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor | None]:
        """Random geometry, the same for equal places."""
        size = (images.shape[2], images.shape[3])
        distinct = list(dict.fromkeys(places))
        fields = [self._sampling_grid(size, random_of("geometry", *place)) for place in distinct]
        of_place = dict(zip(distinct, fields, strict=True))
        rows = [i for i, place in enumerate(places) if of_place[place] is not None]
        images, masks = images.clone(), None if masks is None else masks.clone()
        if not rows:
            return images, masks
        grids = torch.stack([grid for i in rows if (grid := of_place[places[i]]) is not None])
        images[rows] = F.grid_sample(images[rows], grids, mode="bilinear", align_corners=False)
        if masks is not None:
            moved = F.grid_sample(masks[rows, None].float(), grids, mode="nearest", align_corners=False)
            unlabelled = (masks[rows] == IGNORED).flatten(1).all(1)[:, None, None]
            masks[rows] = moved[:, 0].to(masks.dtype).masked_fill(unlabelled, IGNORED)
        return images, masks

    def _sampling_grid(self, size: tuple[int, int], random: np.random.Generator) -> Tensor | None:
        """Where each pixel is sampled from, [H,W,2] as `F.grid_sample` takes it; None: it stays as it is."""
        flips = np.where(random.random(2) < self.flip, -1.0, 1.0)
        is_affine, is_elastic = random.random() < self.affine, random.random() < self.elastic
        is_scaled = is_affine if self.scaling is None else random.random() < self.scaling
        if flips.min() > 0 and not is_affine and not is_elastic and not is_scaled:
            return None
        height, width = size
        y, x = torch.meshgrid(_centred(height), _centred(width), indexing="ij")  # in pixels
        if is_affine:
            angle, factor = math.radians(random.uniform(-self.rotation, self.rotation)), random.uniform(*self.scale)
            factor, (down, right) = factor if is_scaled else 1.0, random.uniform(-self.shift, self.shift, 2)
            cosine, sine = math.cos(angle) / factor, math.sin(angle) / factor
            y, x = cosine * y + sine * x + down * height, cosine * x - sine * y + right * width
        elif is_scaled:
            factor = random.uniform(*self.scale)
            y, x = y / factor, x / factor
        if is_elastic:
            smooth = smooth_noise(random, 2, size, self.elastic_spacing) * random.uniform(*self.elastic_pixels)
            y, x = y + smooth[0], x + smooth[1]
        return torch.stack([x * (flips[1] * 2 / width), y * (flips[0] * 2 / height)], dim=-1).float()

    def _change_intensities(self, x: Tensor, random: Sequence[np.random.Generator], noise: torch.Generator) -> Tensor:
        drawn = np.stack([r.random(3 * len(INTENSITIES)) for r in random])

        def chosen(name: str, *ranges: Range) -> tuple[list[int], list[Tensor]]:
            """The samples that a change is for, and its random numbers for each, [n,1,1,1]."""
            first = 3 * INTENSITIES.index(name)
            rows = (drawn[:, first] < getattr(self, name)).nonzero()[0].tolist()
            numbers = [low + (high - low) * drawn[rows, first + 1 + k] for k, (low, high) in enumerate(ranges)]
            return rows, [torch.from_numpy(values).float()[:, None, None, None] for values in numbers]

        for name in ("inverted_gamma", "gamma"):
            rows, (power,) = chosen(name, self.gamma_range)
            before = x[rows].clamp(0, 1)
            x[rows] = before**power if name == "gamma" else 1 - (1 - before) ** power
            if self.keep_statistics and rows:
                after = x[rows]
                scale = before.std((2, 3), keepdim=True) / after.std((2, 3), keepdim=True).clamp(min=1e-7)
                mean = before.mean((2, 3), keepdim=True)
                x[rows] = (after - after.mean((2, 3), keepdim=True)) * scale + mean
        rows, (factor,) = chosen("brighten", self.brighten_range)
        x[rows] = factor * x[rows]
        rows, (factor, offset) = chosen("contrast", self.contrast_range, (-self.brightness, self.brightness))
        mean = x[rows].mean((2, 3), keepdim=True)
        x[rows] = factor * (x[rows] - mean) + mean + offset
        rows, (deviation,) = chosen("bias", self.bias_range)
        if rows:
            size = (x.shape[2], x.shape[3])
            smooth = torch.stack([smooth_noise(random[i], 1, size, max(size) / 2) for i in rows])
            x[rows] = x[rows] * (deviation * smooth).exp()
        rows, (sigma,) = chosen("blur", self.blur_sigma)
        if rows:
            x[rows] = blurred(x[rows], sigma[:, 0, 0])
        rows, (factor,) = chosen("sharpen", (0.0, self.sharpness))
        if rows:
            smooth = F.avg_pool2d(F.pad(x[rows], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            x[rows] = factor * (x[rows] - smooth) + smooth
        rows, (zoom,) = chosen("low_resolution", self.zoom)
        for i, part in zip(rows, zoom.flatten().tolist(), strict=True):
            small = F.interpolate(x[i : i + 1], [max(1, round(side * part)) for side in x.shape[2:]], mode="nearest")
            x[i] = F.interpolate(small, x.shape[2:], mode="bicubic", align_corners=False)[0]
        rows, (deviation,) = chosen("noise", self.noise_deviation)
        if rows:
            x[rows] = x[rows] + deviation * torch.randn(len(rows), *x.shape[1:], generator=noise)
        return x


def in_turn(
    augmentations: Sequence[Callable[..., tuple[Tensor, Tensor | None]]],
    images: Tensor,
    masks: Tensor | None,
    lengths: Sequence[int],
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor | None]:
    """Several augmentations, one after the other.

    Args:
        augmentations: in their order.
        images: as in `Augmentation.__call__`, and so on.
        masks: likewise.
        lengths: likewise.
        seeds: likewise; each augmentation gets others made of them.
    """
    for number, augmentation in enumerate(augmentations):
        images, masks = augmentation(images, masks, lengths, [seed_of(seed, number) for seed in seeds])
    return images, masks


def _centred(count: int) -> Tensor:
    """The positions of pixels from the middle of the image."""
    return torch.arange(count) - (count - 1) / 2


def smooth_noise(random: np.random.Generator, channels: int, size: tuple[int, int], spacing: float) -> Tensor:
    """Cubic B-splines through random nodes: [channels,H,W] of mean 0 and variance 1.

    Args:
        random: draws the nodes.
        channels: the number of independent fields.
        size: (H, W).
        spacing: the distance of the nodes in pixels.
    """
    rows, columns = (_splines(side, spacing) for side in size)
    nodes = random.standard_normal((channels, rows.shape[1], columns.shape[1]), dtype=np.float32)
    return torch.from_numpy(rows @ nodes @ columns.T)


@lru_cache(maxsize=16)
def _splines(count: int, spacing: float) -> np.ndarray:
    """The weights of the nodes for each of `count` pixels, [count,nodes]; their squares sum to 1."""
    node, t = np.divmod(np.arange(count) / spacing, 1)
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3], axis=1)
    weights = np.zeros((count, int(node[-1]) + 4), np.float32)
    np.put_along_axis(weights, node.astype(int)[:, None] + np.arange(4), taps.astype(np.float32), axis=1)
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def blurred(x: Tensor, sigma: Tensor, radius: int | None = None) -> Tensor:
    """Gaussian blur with the border repeated.

    Args:
        x: [n,C,H,W].
        sigma: the standard deviations, [n,1].
        radius: of the kernel; None: three times the largest sigma.
    """
    radius = radius or max(1, math.ceil(3 * float(sigma.max())))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(x.shape[1], dim=0)[:, None]  # [n C, 1, taps]
    planes = F.pad(x, (radius,) * 4, mode="replicate").flatten(0, 1)[None]
    planes = F.conv2d(planes, kernel[..., None], groups=len(kernel))
    return F.conv2d(planes, kernel[:, :, None], groups=len(kernel)).unflatten(1, x.shape[:2])[0]


# By the name that a run's `augmentation` has. Geometry is shared in automatic mode.
AUGMENTATIONS = {
    "none": Augmentation(),
    "small": Augmentation(affine=0.8, elastic=0.8, gamma=0.5, bias=0.3, blur=0.25, noise=0.4),
    # configs/train_unet.yaml of github.com/halleewong/ScribblePrompt. Its elastic field, white noise that is blurred by
    # sigma = 6 to 8 and multiplied by alpha = 1 to 2, has a standard deviation of 1.5 alpha pixels at 128 x 128, and
    # the autocorrelation of splines 12 pixels apart (measured with kornia 0.9). Two readings differ: shifts along both
    # axes (its numbers, as kornia takes them, shift along one), and contrast about the mean (in kornia, about 0).
    "scribbleprompt": Augmentation(
        flip=0.5,
        affine=0.5,
        rotation=180,
        scale=(0.8, 1.1),
        shift=0.2,
        elastic=0.25,
        elastic_pixels=(1.5, 3.0),
        elastic_spacing=12,
        contrast=0.5,
        brightness=0.1,
        blur=0.5,
        blur_sigma=(0.1, 1.1),
        sharpen=0.5,
        noise=0.5,
    ),
    # nnUNetTrainer.get_training_transforms of nnU-Net 2, for 2-D. Its images have unit variance, ours are in [0, 1].
    "nnunet": Augmentation(
        flip=0.5,
        affine=0.2,
        rotation=180,
        scale=(0.7, 1.4),
        scaling=0.2,
        shift=0,
        noise=0.1,
        noise_deviation=(0.0, 0.1),
        blur=0.2,
        blur_sigma=(0.5, 1.0),
        contrast=0.15,
        contrast_range=(0.75, 1.25),
        brightness=0,
        low_resolution=0.25,
        brighten=0.15,
        gamma=0.3,
        inverted_gamma=0.1,
        gamma_range=(0.7, 1.5),
        keep_statistics=True,
    ),
}

"""The images of synthetic tasks, from label maps: contrast, texture, bias field, blur and noise."""

from __future__ import annotations

import torch
from torch import Tensor

from .synthetic_random import Random

ALIKE = 0.3  # probability that a label looks nearly like another one
SAMPLED = 7  # every seventh pixel gives the percentiles: a sort of all pixels would take as long as all the rest


def random_images(random: Random, labels: Tensor, strength: Tensor, count: int) -> Tensor:
    """Images of label maps.

    Each task has its own intensity for each label, with a little variation between subjects, and its own texture, bias
    field, blur and noise. Intensities are mapped to [0, 1] by percentiles, as for images in files (`unit_range`).

    Args:
        random: the random numbers.
        labels: int64 [T,M,S,S].
        strength: float32 [T], how much subjects differ.
        count: the number of labels.

    Returns:
        float32 [T,M,S,S] in [0, 1].
    """
    tasks, subjects, size = labels.shape[:3]
    means = random.uniform((tasks, count), 0.05, 0.95)
    for label in range(1, count):
        other = means.gather(1, random.integers((tasks, 1), 0, label - 1))[:, 0]
        near = other + random.uniform((tasks,), -0.06, 0.06)
        means[:, label] = torch.where(random.chance((tasks,), ALIKE), near, means[:, label])
    varied = random.uniform((tasks,), 0.01, 0.08) * (0.3 + 0.7 * strength)
    means = means[:, None] + random.normal((tasks, subjects, count), varied[:, None, None])
    coarse, fine = (random.uniform((tasks, 1, count), 0.0, 0.2) * random.chance((tasks, 1, count), 0.5) for _ in "ab")
    pixels = labels.flatten(2)
    image, coarse, fine = (
        values.expand(tasks, subjects, count).gather(2, pixels).view_as(labels) for values in (means, coarse, fine)
    )
    image = image + coarse * random.smooth(subjects, size, random.uniform((tasks,), 3.0, size / 6))
    image = image + fine * random.normal(image.shape)
    bias = random.smooth(subjects, size, random.uniform((tasks,), size / 2.5, size / 1.2))
    image = image * (bias * random.uniform((tasks, 1, 1, 1), 0.0, 0.3)).exp()
    image = _blurred(image, random.uniform((tasks,), 0.1, 1.4))
    image = image + random.normal(image.shape, random.uniform((tasks, 1, 1, 1), 0.0, 0.08))
    return _unit_range(image)


def _blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of [T,M,S,S], sigma [T], as a product with a matrix along each axis."""
    place = torch.arange(image.shape[-1])
    kernel = torch.exp(-0.5 * ((place[:, None] - place) / sigma[:, None, None]) ** 2)
    kernel = (kernel / kernel.sum(-1, keepdim=True))[:, None]
    return kernel @ image @ kernel.transpose(2, 3)


def _unit_range(image: Tensor) -> Tensor:
    ordered = image.flatten(2)[..., ::SAMPLED].sort(-1).values
    last = ordered.shape[-1] - 1
    low, high = (ordered[..., round(part * last), None, None] for part in (0.005, 0.995))
    return ((image - low) / (high - low).clamp(min=1e-3)).clamp(0, 1)

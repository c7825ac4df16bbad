"""Random numbers and smooth random fields for synthetic tasks, batched over tasks and subjects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Random:
    """Random tensors from one seed. `low`, `high` and so on are numbers or tensors that broadcast to the shape.

    Args:
        seed: any int that fits 63 bits.
    """

    def __init__(self, seed: int):
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, shape: Sequence[int], low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Tensor:
        """Uniform in [low, high)."""
        return low + (high - low) * torch.rand(*shape, generator=self._generator)

    def normal(self, shape: Sequence[int], deviation: float | Tensor = 1.0) -> Tensor:
        """Normal with mean 0."""
        return torch.randn(*shape, generator=self._generator) * deviation

    def integers(self, shape: Sequence[int], low: int, high: int) -> Tensor:
        """Uniform in low ... high, both included."""
        return torch.randint(low, high + 1, tuple(shape), generator=self._generator)

    def chance(self, shape: Sequence[int], probability: float) -> Tensor:
        """True with this probability."""
        return torch.rand(*shape, generator=self._generator) < probability

    def choice(self, count: int, probabilities: Sequence[float]) -> Tensor:
        """Indices of `probabilities`, int64 [count], drawn with them."""
        return torch.multinomial(torch.tensor(probabilities), count, replacement=True, generator=self._generator)

    def smooth(self, count: int, size: int, spacing: Tensor) -> Tensor:
        """Smooth fields: cubic B-splines through random nodes, of mean 0 and variance 1.

        Args:
            count: fields for each task.
            size: side of the fields in pixels.
            spacing: float32 [T], the distance of the nodes in pixels, at least 1.

        Returns:
            float32 [T,count,size,size].
        """
        weights = _splines(size, spacing)[:, None]  # [T,1,size,nodes]
        nodes = torch.randn(len(spacing), count, weights.shape[3], weights.shape[3], generator=self._generator)
        return weights @ nodes @ weights.transpose(2, 3)


def _splines(size: int, spacing: Tensor) -> Tensor:
    """The weights of the nodes for each pixel, [T,size,nodes]; the squares of a pixel's weights sum to 1."""
    place = torch.arange(size) / spacing[:, None]
    node = place.floor()
    t = (place - node)[..., None]
    taps = torch.cat([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3], dim=-1)
    taps = taps / taps.square().sum(-1, keepdim=True).sqrt()
    weights = torch.zeros(*place.shape, int(node.max()) + 4)
    return weights.scatter_(2, node.long()[..., None] + torch.arange(4), taps)

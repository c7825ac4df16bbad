"""Probabilities in 256 steps, as bytes and as text."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import torch
from torch import Tensor

from .operations import Size


def quantized(probabilities: Tensor) -> np.ndarray:
    """Probabilities in 256 steps, uint8: 128 and more exactly where they are above 1/2."""
    return ((probabilities * 256).ceil() - 1).clamp(0, 255).to(torch.uint8).numpy()


def packed(probabilities: Tensor) -> str:
    """Quantized probabilities as text."""
    return base64.b64encode(zlib.compress(quantized(probabilities).tobytes(), 6)).decode()


def unpacked(text: str | None, grid: Size) -> Tensor:
    """The probabilities of `packed`, float32 [H,W]; 0 for None.

    Raises:
        ValueError: the text is not of such a plane.
    """
    if text is None:
        return torch.zeros(grid)
    size = grid[0] * grid[1]
    try:
        values = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"a plane cannot be read ({error})") from error
    if len(values) != size:
        raise ValueError(f"a plane has {len(values)} values or more, expected {size} for {grid[0]} x {grid[1]}")
    steps = torch.frombuffer(bytearray(values), dtype=torch.uint8).float()
    return torch.where(steps == 0, 0.0, (steps + 0.5) / 256).view(grid)  # the middle of each step

"""What does not change about a GPU, asked for once: each call of a layer needs it."""

from __future__ import annotations

import functools

import torch


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of an NVIDIA GPU."""
    # Without an index it is the current GPU, which may be another one the next time.
    return torch.cuda.get_device_capability(device) if device.index is None else _capability(device)


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)

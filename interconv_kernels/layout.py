"""Memory formats: every kernel sees dense rows, one per sample, with the channels first or last in memory.

The latter are channels_last for images [N,C,H,W] and channels_last_3d for volumes [N,C,D,H,W].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by rank


def memory_format(x: Tensor) -> torch.memory_format:
    """The channels_last format of x's rank where the channels are its fastest axis; else contiguous (any rank)."""
    if x.dim() in CHANNELS_LAST and x.stride(1) == 1 and not x.is_contiguous():
        return CHANNELS_LAST[x.dim()]
    return torch.contiguous_format


def is_channels_last(fmt: torch.memory_format) -> bool:
    """Whether it is channels_last or channels_last_3d."""
    return fmt in CHANNELS_LAST.values()


def empty_rows(like: Tensor, rows: int, channels: int | None = None) -> Tensor:
    """Uninitialised [rows, C, ...] with dtype, device, trailing sizes and memory format of the dense tensor `like`."""
    shape = (rows, like.shape[1] if channels is None else channels, *like.shape[2:])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format(like))


def flat(x: Tensor, fmt: torch.memory_format) -> Tensor:
    """View dense x [N, ...] as [N, M] in the order of its memory."""
    if is_channels_last(fmt):
        x = x.movedim(1, -1)
    return x.view(x.shape[0], math.prod(x.shape[1:]))


def block_rows(x: Tensor, row_numel: int, weight_numel: int) -> int:
    """How many samples of `row_numel` elements to convolve in one call: all of them, except on the CPU.

    There a block keeps the input of the call, its reordered copies and its output in the cache and below the size at
    which the allocator maps new memory. It must be large beside the weights, which every call packs again. NCHW, which
    oneDNN reorders, needs smaller blocks. The measurements are in the docs under "How the CPU layers work".
    """
    if x.device.type != "cpu":
        return max(1, x.shape[0])
    small = 2 if memory_format(x) == torch.contiguous_format else 8
    return max(1, (small * 2**20 // x.element_size() + 4 * weight_numel) // max(1, row_numel))


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which x is summed: float32 for bfloat16 and float16, else x's own."""
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype


def common_format(u: Tensor, weight: Tensor) -> torch.memory_format:
    """The format of a convolution of u and of its result: channels_last if either tensor is, as in nn.Conv2d."""
    fmt = memory_format(u)
    return fmt if is_channels_last(fmt) else memory_format(weight)


def dense(x: Tensor, fmt: torch.memory_format | None = None) -> Tensor:
    """x without gaps, overlaps or transpositions, in the given memory format or its own."""
    return x.contiguous(memory_format=memory_format(x) if fmt is None else fmt)


def sum_pixels(g: Tensor) -> Tensor:
    """[Co], the sum of g [N,Co,...] over samples and pixels."""
    if is_channels_last(memory_format(g)):
        return g.movedim(1, -1).reshape(-1, g.shape[1]).sum(0, dtype=sum_dtype(g))
    return g.flatten(2).sum(2, dtype=sum_dtype(g)).sum(0)

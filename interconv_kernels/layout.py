"""Memory formats: every kernel sees dense rows, one per sample, in NCHW or channels_last order."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last where x [N,C,H,W] is stored channels first in its strides' order; else contiguous (any rank)."""
    if x.dim() == 4 and x.stride(1) == 1 and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def empty_rows(like: Tensor, rows: int, channels: int | None = None) -> Tensor:
    """Uninitialised [rows, C, ...] with dtype, device, trailing sizes and memory format of the dense tensor `like`."""
    shape = (rows, like.shape[1] if channels is None else channels, *like.shape[2:])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format(like))


def flat(x: Tensor, fmt: torch.memory_format) -> Tensor:
    """View dense x [N, ...] as [N, M] in the order of its memory."""
    if fmt == torch.channels_last:
        x = x.permute(0, 2, 3, 1)
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
    return (
        torch.channels_last
        if torch.channels_last in (memory_format(u), memory_format(weight))
        else torch.contiguous_format
    )


def dense(x: Tensor, fmt: torch.memory_format | None = None) -> Tensor:
    """x without gaps, overlaps or transpositions, in the given memory format or its own."""
    return x.contiguous(memory_format=memory_format(x) if fmt is None else fmt)


def sum_pixels(g: Tensor) -> Tensor:
    """[Co], the sum of g [N,Co,H',W'] over samples and pixels."""
    if memory_format(g) == torch.channels_last:
        return g.permute(0, 2, 3, 1).reshape(-1, g.shape[1]).sum(0, dtype=sum_dtype(g))
    return g.sum((2, 3), dtype=sum_dtype(g)).sum(0)

"""The fused layer of backend "cpp" on the CPU: images go to fused.py as they are, volumes as stacked slices.

A slice of the output is a convolution of the kd slices of the input around it, stacked along the channels. So a set of
K volumes is D' sets of K images with kd C channels, in each of which the set mean is that of the volumes. A stack takes
kd times the memory of its volumes; it is made for a few sets or slices at a time. Contract: `FusedLayer` in
../contract.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..._index_tensors import index_tensors
from ...convolution import Conv
from ...layout import is_channels_last
from ...sets import SetIndex
from ..contract import Gradients, Needs
from . import fused

STACK_BYTES = 16 * 2**20  # of a block; more where the weights, which are packed for each block, are large beside it


def can_fuse(conv: Conv, u: Tensor, weight: Tensor) -> str | None:
    """The reason why these kernels cannot compute this layer, or None."""
    if u.dim() == 4:
        return fused.can_fuse(conv, u, weight)
    if conv.stride[0] != 1 or conv.dilation[0] != 1:
        settings = f"stride {conv.stride}, dilation {conv.dilation}"
        return f"the fused layer of backend 'cpp' is for stride and dilation 1 along the depth, not for {settings}"
    return fused.can_fuse(_plane(conv), u[:, :, 0], weight[:, :, 0])


def forward(
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    max_centered: int,
    slope: Tensor | None,
    tiles: Mapping[str, str],
) -> Tensor:
    if u.dim() == 4:
        return fused.forward(conv, u, weight, bias, sets, max_centered, slope, tiles)
    shape = (u.shape[0], weight.shape[0], *conv.output_size(u.shape[2:], weight.shape[2:]))
    y = torch.empty(shape, dtype=u.dtype, memory_format=conv.fmt)
    plane, stacked = _plane(conv), _stacked_weight(conv, weight)
    for block in _blocks(conv, sets, y, u, weight):
        stack = _new_rows(conv, block, (weight.shape[2] * u.shape[1], *u.shape[3:]))
        _stack(conv, block, u, stack)
        rows = fused.forward(plane, stack, stacked, bias, _index(block), max_centered, slope, tiles)
        for part, slices in _parts(block, rows):
            y[part.samples, :, part.slices] = slices.movedim(0, 2)
    return y


def backward(
    conv: Conv,
    g: Tensor,
    u: Tensor,
    weight: Tensor,
    sets: SetIndex,
    need: Needs,
    max_centered: int,
    tiles: Mapping[str, str],
) -> Gradients:
    if u.dim() == 4:
        return fused.backward(conv, g, u, weight, sets, need, max_centered, tiles)
    plane, stacked = _plane(conv), _stacked_weight(conv, weight)
    grad_u = torch.zeros_like(u, memory_format=conv.fmt) if need[0] else None
    sums: list[Tensor | None] = [None, None]
    for block in _blocks(conv, sets, g, u, weight):
        g_rows = _new_rows(conv, block, (g.shape[1], *g.shape[3:]))
        for part, slices in _parts(block, g_rows):
            slices.copy_(g[part.samples, :, part.slices].movedim(2, 0))
        stack = _new_rows(conv, block, (weight.shape[2] * u.shape[1], *u.shape[3:]))
        if need[1]:
            _stack(conv, block, u, stack)
        grads = fused.backward(plane, g_rows, stack, stacked, _index(block), need, max_centered, tiles)
        if grad_u is not None and grads[0] is not None:
            _add_stack(conv, block, grads[0], grad_u)
        sums = [y if x is None or y is None else x.add_(y) for x, y in zip(sums, grads[1:], strict=True)]
    grad_weight, grad_bias = sums
    if grad_weight is not None:
        halves = grad_weight.unflatten(1, (2, weight.shape[2], u.shape[1]))
        grad_weight = halves.movedim(2, 3).reshape(weight.shape)
    return grad_u, grad_weight, grad_bias


class _Part(NamedTuple):
    """Some slices of the output of one set."""

    samples: slice
    slices: slice

    @property
    def size(self) -> tuple[int, int]:
        """(slices, samples)."""
        return self.slices.stop - self.slices.start, self.samples.stop - self.samples.start


_Block = list[_Part]  # what is computed in one call: the images of its parts, one after the other, slice by slice


def _blocks(conv: Conv, sets: SetIndex, y: Tensor, u: Tensor, weight: Tensor) -> Iterator[_Block]:
    """All slices of all sets. How a set is divided does not depend on the others, so nor do the bits of its results."""
    image_bytes = weight.shape[2] * math.prod(u.shape[3:]) * u.shape[1] * u.element_size()
    most = max(1, max(STACK_BYTES, 4 * weight.numel() * weight.element_size()) // max(1, image_bytes))
    block: _Block = []
    images = 0
    for lo, hi in sets.spans:
        step = max(1, most // (hi - lo))
        for first in range(0, y.shape[2], step):
            part = _Part(slice(lo, hi), slice(first, min(first + step, y.shape[2])))
            if block and images + math.prod(part.size) > most:
                yield block
                block, images = [], 0
            block.append(part)
            images += math.prod(part.size)
    yield block


def _index(block: _Block) -> SetIndex:
    """The sets of a block: one for each slice of a part."""
    return SetIndex(*index_tensors([part.size[1] for part in block for _ in range(part.size[0])], torch.device("cpu")))


def _parts(block: _Block, rows: Tensor) -> Iterator[tuple[_Part, Tensor]]:
    """Each part with its images among those of the block, as [slices, samples, ...]."""
    images = rows.split([math.prod(part.size) for part in block])
    return ((part, x.unflatten(0, part.size)) for part, x in zip(block, images, strict=True))


def _taps(conv: Conv, part: _Part, depth: int, kernel: int) -> Iterator[tuple[int, slice, slice]]:
    """(tap, the slices of the part that have an input slice there, these input slices)."""
    for tap in range(kernel):
        shift = tap - conv.padding[0]
        first = max(part.slices.start, -shift)
        end = max(first, min(part.slices.stop, depth - shift))
        yield tap, slice(first - part.slices.start, end - part.slices.start), slice(first + shift, end + shift)


def _stack(conv: Conv, block: _Block, u: Tensor, out: Tensor) -> None:
    """Writes the stacked slices of u [N,C,D,H,W] to out [images, kd C, H, W]; zeros where the depth is padded."""
    kernel = out.shape[1] // u.shape[1]
    for part, images in _parts(block, out.unflatten(1, (kernel, u.shape[1]))):
        for tap, inside, source in _taps(conv, part, u.shape[2], kernel):
            images[: inside.start, :, tap] = 0
            images[inside, :, tap] = u[part.samples, :, source].movedim(2, 0)
            images[inside.stop :, :, tap] = 0


def _add_stack(conv: Conv, block: _Block, stack: Tensor, out: Tensor) -> None:
    """The adjoint of `_stack`: adds to out [N,C,D,H,W]."""
    kernel = stack.shape[1] // out.shape[1]
    for part, images in _parts(block, stack.unflatten(1, (kernel, out.shape[1]))):
        for tap, inside, target in _taps(conv, part, out.shape[2], kernel):
            out[part.samples, :, target] += images[inside, :, tap].movedim(0, 2)


def _plane(conv: Conv) -> Conv:
    """The convolution of a slice."""
    fmt = torch.channels_last if is_channels_last(conv.fmt) else torch.contiguous_format
    return Conv(conv.stride[1:], conv.padding[1:], conv.dilation[1:], fmt)


def _stacked_weight(conv: Conv, weight: Tensor) -> Tensor:
    """[Co,2C,kd,kh,kw] as [Co,2 kd C,kh,kw]."""
    halves = weight.unflatten(1, (2, -1)).movedim(3, 2)
    return halves.flatten(1, 3).contiguous(memory_format=_plane(conv).fmt)


def _new_rows(conv: Conv, block: _Block, shape: tuple[int, ...]) -> Tensor:
    """Uninitialised images of a block."""
    images = sum(math.prod(part.size) for part in block)
    return torch.empty((images, *shape), memory_format=_plane(conv).fmt)

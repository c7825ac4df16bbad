"""The algorithms of the layer over a vendor convolution and a backend's set operations, forward and backward.

With weight = [Wu | Ws] and s the set mean (paper, Eq. 1-3), y_i = conv(u_i; Wu) + conv(s; Ws) + b:

* concat    the paper word for word: conv(concat(u_i, s); weight). 2N half-convolutions (C -> Co channels).
* split     conv(u_i; Wu) + t, where t = conv(s; Ws) + b is computed once per set. N + B.
* centered  m = conv(s; Wu + Ws) + b is the mean of the set's outputs, d_i = conv(u_i - u_K; Wu) their differences from
            the last one: y_K = m - (1/K) sum d, y_i = y_K + d_i. N. (Deviations from s instead of u_K cost the same,
            but then y_K = m - sum d multiplies the rounding error of s by K.)
* fused     a backend's own kernels (`FusedLayer`).

The adjoint of the layer in u is the layer itself with Wu and Ws transposed (dgrad in place of conv), so the backward of
each algorithm computes grad_u as its forward computes y. Only u and weight are kept for the backward; the set means are
recomputed. Which algorithm runs is decided in `choice.py`.

All tensors here are dense in one memory format, no set is empty, and N > 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from ._backends.contract import Gradients, Needs, SetOps
from .activation import leaky_relu_
from .choice import Choice
from .convolution import Conv
from .layout import block_rows, empty_rows, flat, is_channels_last, memory_format, sum_dtype, sum_pixels
from .sets import SetIndex
from .typing import Algorithm

NAMES: tuple[str, ...] = get_args(Algorithm)


def forward(
    choice: Choice,
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    slope: Tensor | None = None,
) -> Tensor:
    """act(y) [N,Co,H',W'] of u [N,C,H,W], weight [Co,2C,k,k] and bias [Co]; act as in `SetOps.set_add`."""
    if choice.algorithm == "fused":
        fused = choice.backend.fused(u.device)
        assert fused is not None
        return fused.forward(conv, u, weight, bias, sets, choice.max_centered, slope, choice.tiles)
    ops = choice.backend.set_ops
    if choice.algorithm == "concat":
        return leaky_relu_(conv.forward(_concat(ops, conv, u, sets), weight, bias), slope)
    out_numel = weight.shape[0] * math.prod(conv.output_size(u.shape[2:], weight.shape[2:]))
    layer = _Layer.of(ops, conv, u, weight, out_numel)
    if choice.algorithm == "split":
        return _split(layer, u, bias, sets, slope)
    return leaky_relu_(_centered(layer, u, bias, sets), slope)


def backward(
    choice: Choice, conv: Conv, g: Tensor, u: Tensor, weight: Tensor, sets: SetIndex, need: Needs
) -> Gradients:
    """The gradients of u, weight and bias for g [N,Co,H',W'], each only where `need` says so."""
    if choice.algorithm == "fused":
        fused = choice.backend.fused(u.device)
        assert fused is not None
        return fused.backward(conv, g, u, weight, sets, need, choice.max_centered, choice.tiles)
    ops = choice.backend.set_ops
    if choice.algorithm == "concat":
        return _concat_backward(ops, conv, g, u, weight, sets, need)
    layer = _Layer.of(ops, conv, u, weight, g[0].numel())
    algorithm = _split_backward if choice.algorithm == "split" else _centered_backward
    return algorithm(layer, g, u, sets, need)


class _Layer(NamedTuple):
    """What `split` and `centered` work with."""

    ops: SetOps
    conv: Conv
    w_own: Tensor  # Wu [Co,C,k,k], dense
    w_set: Tensor  # Ws
    step: int  # samples convolved in one call

    @classmethod
    def of(cls, ops: SetOps, conv: Conv, u: Tensor, weight: Tensor, out_numel: int) -> _Layer:
        fmt = memory_format(weight)
        w_own, w_set = (half.contiguous(memory_format=fmt) for half in weight.split(u.shape[1], dim=1))
        return cls(ops, conv, w_own, w_set, block_rows(u, max(u[0].numel(), out_numel), w_own.numel()))


# --- concat -----------------------------------------------------------------------------------------------------------


def _concat(ops: SetOps, conv: Conv, u: Tensor, sets: SetIndex) -> Tensor:
    """concat(u_i, s) in the memory format of the convolution, which cannot be told from u if it has one channel."""
    return ops.concat_set_mean(u, sets).contiguous(memory_format=conv.fmt)


def _concat_backward(
    ops: SetOps, conv: Conv, g: Tensor, u: Tensor, weight: Tensor, sets: SetIndex, need: Needs
) -> Gradients:
    grad_u = grad_weight = None
    if need[0]:
        like = empty_rows(u, u.shape[0], 2 * u.shape[1])  # dgrad needs only the shape: its memory is never touched
        grad_u = ops.concat_set_mean_backward(conv.grad_input(g, like, weight), sets)
    if need[1]:
        grad_weight = conv.grad_weight(g, _concat(ops, conv, u, sets), weight)
    return grad_u, grad_weight, sum_pixels(g) if need[2] else None


# --- split ------------------------------------------------------------------------------------------------------------


def _split(layer: _Layer, u: Tensor, bias: Tensor | None, sets: SetIndex, slope: Tensor | None) -> Tensor:
    ops, conv, w_own, w_set, step = layer
    t = conv.forward(ops.set_reduce(u, sets, mean=True), w_set, bias)
    y = _Rows(u.shape[0])
    for lo, hi in _sample_blocks(u, step):
        own = conv.forward(u[lo:hi], w_own)
        ops.set_add(own, t, sets, mean=False, out=y.slot(lo, hi, like=own), first=lo, slope=slope)
    return y.tensor


def _split_backward(layer: _Layer, g: Tensor, u: Tensor, sets: SetIndex, need: Needs) -> Gradients:
    """The gradients of `split`, with G the sum of a set's gradients.

    grad_u_i = dgrad(g_i; Wu) + dgrad(G; Ws) / K, grad_Wu = sum_i corr(u_i, g_i), grad_Ws = sum_b corr(s_b, G_b),
    grad_b = sum_b G_b.
    """
    ops, conv, w_own, w_set, step = layer
    g_sum = ops.set_reduce(g, sets, mean=False)
    grad_u, own, from_set = _Rows(u.shape[0]), _Sum(), _Sum()
    if need[0]:
        t = conv.grad_input(g_sum, u[: sets.num_sets], w_set)
    if need[1]:
        from_set.add(conv.grad_weight(g_sum, ops.set_reduce(u, sets, mean=True), w_set))
    for lo, hi in _sample_blocks(u, step):
        if need[0]:
            rows = conv.grad_input(g[lo:hi], u[lo:hi], w_own)
            ops.set_add(rows, t, sets, mean=True, out=grad_u.slot(lo, hi, like=rows), first=lo)
        if need[1]:
            own.add(conv.grad_weight(g[lo:hi], u[lo:hi], w_own))
    grad_weight = _join(own.total, from_set.total)
    return grad_u.made, grad_weight, sum_pixels(g_sum) if need[2] else None


# --- centered ---------------------------------------------------------------------------------------------------------


def _centered(layer: _Layer, u: Tensor, bias: Tensor | None, sets: SetIndex) -> Tensor:
    ops, conv, w_own, w_set, step = layer
    w_sum = w_own + w_set
    y = _Rows(u.shape[0])
    if sets.all_single:
        for lo, hi in _sample_blocks(u, step):
            y.put(lo, hi, conv.forward(u[lo:hi], w_sum, bias))
        return y.tensor
    for lo, hi, part in _set_blocks(sets, step):
        mean, dev = ops.center(u[lo:hi], part, from_mean=False)
        m = conv.forward(mean, w_sum, bias)
        d = conv.forward(dev, w_own) if dev.shape[0] else empty_rows(m, 0)
        ops.uncenter(m, d, part, out=y.slot(lo, hi, like=m))
    return y.tensor


def _centered_backward(layer: _Layer, g: Tensor, u: Tensor, sets: SetIndex, need: Needs) -> Gradients:
    """The gradients of `centered`; grad_u is the same algorithm, with dgrad.

    grad_Ws = sum_b corr(s_b, G_b), and grad_Wu = grad_Ws + sum_{i<K} corr(u_i - u_K, g_i - G/K), since the g_i - G/K of
    a set sum to zero: K correlations per set, where `split` takes K + 1.
    """
    ops, conv, w_own, w_set, step = layer
    w_sum = w_own + w_set
    grad_u, from_set, from_dev, grad_bias = _Rows(u.shape[0]), _Sum(), _Sum(), _Sum()
    if sets.all_single:
        for lo, hi in _sample_blocks(u, step):
            if need[0]:
                grad_u.put(lo, hi, conv.grad_input(g[lo:hi], u[lo:hi], w_sum))
            if need[1]:
                from_set.add(conv.grad_weight(g[lo:hi], u[lo:hi], w_own))
        return grad_u.made, _join(from_set.total, from_set.total), sum_pixels(g) if need[2] else None
    for lo, hi, part in _set_blocks(sets, step):
        if need[0]:
            g_mean, g_dev = ops.center(g[lo:hi], part, from_mean=False)
            m = conv.grad_input(g_mean, u[: g_mean.shape[0]], w_sum)
            d = conv.grad_input(g_dev, u[: g_dev.shape[0]], w_own) if g_dev.shape[0] else empty_rows(m, 0)
            ops.uncenter(m, d, part, out=grad_u.slot(lo, hi, like=m))
        if need[1] or need[2]:
            g_sum, g_dev = ops.center(g[lo:hi], part, from_mean=True)
            flat(g_sum, memory_format(g_sum)).mul_(part.sizes(g.dtype))
            if need[2]:
                grad_bias.add(sum_pixels(g_sum))
        if need[1]:
            s, u_dev = ops.center(u[lo:hi], part, from_mean=False)
            from_set.add(conv.grad_weight(g_sum, s, w_set))
            if u_dev.shape[0]:
                from_dev.add(conv.grad_weight(g_dev, u_dev, w_own))
    own = from_set.total
    if own is not None and from_dev.total is not None:
        own = own + from_dev.total
    return grad_u.made, _join(own, from_set.total), grad_bias.total


# --- parts ------------------------------------------------------------------------------------------------------------


class _Rows:
    """The samples of a result, computed block by block."""

    def __init__(self, rows: int):
        self.rows = rows
        self.made: Tensor | None = None

    def slot(self, lo: int, hi: int, like: Tensor) -> Tensor:
        """Where the samples lo ... hi-1 go: `like` itself if it holds all of them, so that it is updated in place."""
        if self.made is None:
            self.made = like if like.shape[0] == self.rows else empty_rows(like, self.rows)
        return self.made[lo:hi]

    def put(self, lo: int, hi: int, rows: Tensor) -> None:
        slot = self.slot(lo, hi, like=rows)
        if slot.data_ptr() != rows.data_ptr():
            slot.copy_(rows)

    @property
    def tensor(self) -> Tensor:
        assert self.made is not None
        return self.made


class _Sum:
    """The sum of gradients from several blocks, in float32 for low precision; None until something was added."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, term: Tensor) -> None:
        term = term.to(sum_dtype(term))
        self.total = term if self.total is None else self.total.add_(term)


def _join(own: Tensor | None, from_set: Tensor | None) -> Tensor | None:
    """grad_weight [Co,2C,k,k] from its halves, if they were computed."""
    return None if own is None or from_set is None else torch.cat([own, from_set], dim=1)


def _sample_blocks(u: Tensor, step: int) -> Iterator[tuple[int, int]]:
    """(first sample, one past the last) of consecutive blocks; in channels_last one block, since more gain nothing."""
    step = u.shape[0] if is_channels_last(memory_format(u)) else step
    for lo in range(0, u.shape[0], step):
        yield lo, min(u.shape[0], lo + step)


def _set_blocks(sets: SetIndex, step: int) -> Iterator[tuple[int, int, SetIndex]]:
    """(first sample, one past the last, the sets) of consecutive blocks of whole sets, about `step` samples each."""
    if sets.host_offsets is None or sets.num_rows <= step:
        yield 0, sets.num_rows, sets
        return
    first = 0
    for b in range(sets.num_sets):
        if b + 1 == sets.num_sets or sets.host_offsets[b + 2] - sets.host_offsets[first] > step:
            yield sets.host_offsets[first], sets.host_offsets[b + 1], sets.part(first, b + 1)
            first = b + 1

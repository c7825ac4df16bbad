"""The layer as arithmetic: three forms of InterConv, forward and backward, over a vendor convolution and a backend's
set ops.

With weight = [Wu | Ws] and s the set's mean (paper, Eq. 1-3), y_i = conv(u_i; Wu) + conv(s; Ws) + b:

* concat    the paper word for word: conv(concat(u_i, s); weight). 2N half-convolutions (C -> Co channels).
* split     conv(u_i; Wu) + t, where t = conv(s; Ws) + b is computed once a set. N + B.
* centered  m = conv(s; Wu + Ws) + b is the mean of the set's outputs, d_i = conv(u_i - u_K; Wu) their differences from
            the last one: y_K = m - (1/K) sum d, y_i = y_K + d_i. N. (Deviations from s instead of u_K cost the same,
            but then y_K = m - sum d multiplies the rounding error of s by K.)

The layer's adjoint in u is the layer itself with Wu and Ws transposed (dgrad in place of conv), so the backward of each
form makes grad_u as its forward makes y. Nothing is kept for the backward but u and weight; the set means are computed
anew.

* fused     a backend's own kernels, the set's part done where a tile of conv(u_i; Wu) is made: "triton" (float32 and
            below) as `split`, N + B, or N for K = 1; "cpp" (float32 on the CPU, k = 1 and 3) as `centered` for small
            sets, as `split` for large ones, and for k = 3 by fewer products. Only where the backend can (`can_fuse`).

All tensors here are dense in one memory format, no set is empty, and N > 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

import torch
from torch import Tensor

from .activation import NONE, Activation
from .convolution import Conv
from .layout import block_rows, empty_rows, flat, memory_format, sum_dtype, sum_pixels
from .sets import SetIndex

NAMES = ("auto", "concat", "split", "centered", "fused")
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def forward(
    ops: ModuleType,
    algorithm: str,
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    activation: Activation = NONE,
) -> Tensor:
    """act(y) [N,Co,H',W'] of u [N,C,H,W], weight [Co,2C,k,k] and bias [Co]."""
    if algorithm == "fused":
        y: Tensor = ops.fused_forward(conv, u, weight, bias, sets, activation)
        return y
    if algorithm == "concat":
        return activation(conv.forward(_concat(ops, conv, u, sets), weight, bias))
    w_own, w_set = _halves(weight)
    height, width = conv.output_size(u.shape[2:], weight.shape[2:])
    step = block_rows(u, max(u[0].numel(), weight.shape[0] * height * width), w_own.numel())
    if algorithm == "split":
        return _split(ops, conv, u, w_own, w_set, bias, sets, step, activation)
    return activation(_centered(ops, conv, u, w_own, w_set, bias, sets, step))


def backward(
    ops: ModuleType,
    algorithm: str,
    conv: Conv,
    g: Tensor,
    u: Tensor,
    weight: Tensor,
    sets: SetIndex,
    need: Sequence[bool],
) -> Gradients:
    """The gradients of u, weight and bias for g [N,Co,H',W'], each only where `need` says so."""
    if algorithm == "fused":
        grads: Gradients = ops.fused_backward(conv, g, u, weight, sets, need)
        return grads
    if algorithm == "concat":
        return _concat_backward(ops, conv, g, u, weight, sets, need)
    w_own, w_set = _halves(weight)
    step = block_rows(u, max(u[0].numel(), g[0].numel()), w_own.numel())
    form = _split_backward if algorithm == "split" else _centered_backward
    return form(ops, conv, g, u, w_own, w_set, sets, step, need)


# --- concat -----------------------------------------------------------------------------------------------------------


def _concat(ops: ModuleType, conv: Conv, u: Tensor, sets: SetIndex) -> Tensor:
    """concat(u_i, s) in the convolution's format, which one channel does not tell."""
    c: Tensor = ops.concat_set_mean(u, sets)
    return c.contiguous(memory_format=conv.fmt)


def _concat_backward(
    ops: ModuleType, conv: Conv, g: Tensor, u: Tensor, weight: Tensor, sets: SetIndex, need: Sequence[bool]
) -> Gradients:
    grad_u = grad_weight = None
    if need[0]:
        like = empty_rows(u, u.shape[0], 2 * u.shape[1])  # dgrad asks for a shape alone: never touched
        grad_u = ops.concat_set_mean_backward(conv.grad_input(g, like, weight), sets)
    if need[1]:
        grad_weight = conv.grad_weight(g, _concat(ops, conv, u, sets), weight)
    return grad_u, grad_weight, sum_pixels(g) if need[2] else None


# --- split ------------------------------------------------------------------------------------------------------------


def _split(
    ops: ModuleType,
    conv: Conv,
    u: Tensor,
    w_own: Tensor,
    w_set: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    step: int,
    activation: Activation,
) -> Tensor:
    # On a GPU the vendor adds a bias in a pass of its own; a backend with an epilogue adds it with the set's term.
    epilogue = {"bias": bias, "activation": activation} if ops.HAS_EPILOGUE else {}
    t = conv.forward(ops.set_reduce(u, sets, mean=True), w_set, None if epilogue else bias)
    y = _Rows(u.shape[0])
    for lo, hi in _sample_blocks(u, step):
        own = conv.forward(u[lo:hi], w_own)
        ops.set_add(own, t, sets, mean=False, out=y.slot(lo, hi, like=own), block=(lo, hi), **epilogue)
    return y.tensor if epilogue else activation(y.tensor)


def _split_backward(
    ops: ModuleType,
    conv: Conv,
    g: Tensor,
    u: Tensor,
    w_own: Tensor,
    w_set: Tensor,
    sets: SetIndex,
    step: int,
    need: Sequence[bool],
) -> Gradients:
    """grad_u_i = dgrad(g_i; Wu) + dgrad(G; Ws) / K, grad_Wu = sum_i corr(u_i, g_i), grad_Ws = sum_b corr(s_b, G_b),
    with G the set's summed gradient, which also sums to grad_b."""
    g_sum = ops.set_reduce(g, sets, mean=False)
    grad_u, own, from_set = _Rows(u.shape[0]), _Sum(), _Sum()
    if need[0]:
        t = conv.grad_input(g_sum, u[: sets.num_sets], w_set)
    if need[1]:
        from_set.add(conv.grad_weight(g_sum, ops.set_reduce(u, sets, mean=True), w_set))
    for lo, hi in _sample_blocks(u, step):
        if need[0]:
            rows = conv.grad_input(g[lo:hi], u[lo:hi], w_own)
            ops.set_add(rows, t, sets, mean=True, out=grad_u.slot(lo, hi, like=rows), block=(lo, hi))
        if need[1]:
            own.add(conv.grad_weight(g[lo:hi], u[lo:hi], w_own))
    grad_weight = _join(own.total, from_set.total)
    return grad_u.made, grad_weight, sum_pixels(g_sum) if need[2] else None


# --- centered ---------------------------------------------------------------------------------------------------------


def _centered(
    ops: ModuleType, conv: Conv, u: Tensor, w_own: Tensor, w_set: Tensor, bias: Tensor | None, sets: SetIndex, step: int
) -> Tensor:
    w_sum = w_own + w_set
    y = _Rows(u.shape[0])
    if sets.num_sets == sets.num_rows:  # every K = 1: a plain convolution with Wu + Ws
        for lo, hi in _sample_blocks(u, step):
            y.put(lo, hi, conv.forward(u[lo:hi], w_sum, bias))
        return y.tensor
    for lo, hi, part in _set_blocks(sets, step):
        mean, dev = ops.center(u[lo:hi], part, from_mean=False)
        m = conv.forward(mean, w_sum, bias)
        d = conv.forward(dev, w_own) if dev.shape[0] else empty_rows(m, 0)
        ops.uncenter(m, d, part, out=y.slot(lo, hi, like=m))
    return y.tensor


def _centered_backward(
    ops: ModuleType,
    conv: Conv,
    g: Tensor,
    u: Tensor,
    w_own: Tensor,
    w_set: Tensor,
    sets: SetIndex,
    step: int,
    need: Sequence[bool],
) -> Gradients:
    """grad_u: the same form, with dgrad. grad_Ws = sum_b corr(s_b, G_b); grad_Wu = grad_Ws + sum_{i<K} corr(u_i - u_K,
    g_i - G/K), since the g_i - G/K of a set sum to zero: K correlations a set, where `split` takes K + 1."""
    w_sum = w_own + w_set
    grad_u, from_set, from_dev, grad_bias = _Rows(u.shape[0]), _Sum(), _Sum(), _Sum()
    if sets.num_sets == sets.num_rows:
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
    """The samples of a result, made block by block."""

    def __init__(self, rows: int):
        self.rows = rows
        self.made: Tensor | None = None

    def slot(self, lo: int, hi: int, like: Tensor) -> Tensor:
        """Where the samples lo ... hi-1 go: `like` itself if it holds all of them, so that it is updated there."""
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
    """A running sum of gradients from several blocks, in float32 for low precision; None while nothing was added."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, term: Tensor) -> None:
        term = term.to(sum_dtype(term))
        self.total = term if self.total is None else self.total.add_(term)


def _join(own: Tensor | None, from_set: Tensor | None) -> Tensor | None:
    """grad_weight [Co,2C,k,k] from its halves, where they were made."""
    return None if own is None or from_set is None else torch.cat([own, from_set], dim=1)


def _halves(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Wu and Ws [Co,C,k,k], dense, of weight [Co,2C,k,k]."""
    own, from_set = weight.split(weight.shape[1] // 2, dim=1)
    fmt = memory_format(weight)
    return own.contiguous(memory_format=fmt), from_set.contiguous(memory_format=fmt)


def _sample_blocks(u: Tensor, step: int) -> Iterator[tuple[int, int]]:
    """(first sample, one past the last) of consecutive blocks. In channels_last a plain convolution gains nothing from
    blocks."""
    step = u.shape[0] if memory_format(u) == torch.channels_last else step
    for lo in range(0, u.shape[0], step):
        yield lo, min(u.shape[0], lo + step)


def _set_blocks(sets: SetIndex, step: int) -> Iterator[tuple[int, int, SetIndex]]:
    """(first sample, one past the last, the sets) of consecutive blocks of whole sets, about `step` samples each."""
    if sets.borders is None or sets.num_rows <= step:
        yield 0, sets.num_rows, sets
        return
    first = 0
    for b in range(sets.num_sets):
        if b + 1 == sets.num_sets or sets.borders[b + 2] - sets.borders[first] > step:
            yield sets.borders[first], sets.borders[b + 1], sets.part(first, b + 1)
            first = b + 1


def choose(
    ops: ModuleType, algorithm: str, direction: str, conv: Conv, u: Tensor, weight: Tensor, num_sets: int
) -> str:
    """`auto`, from shapes alone (nothing is read from the device): the form measured fastest (docs/design.md).

    `direction` is forward or backward. Where the backend's fused kernels are known to be fastest, those. Else: a set
    costs `split` one half-convolution more than `centered`, which pays with passes over memory: worth it for small sets
    and much arithmetic per value, k^2 C; in NCHW, whose convolutions cost more, for pairs always. With K = 1 `centered`
    is one plain convolution. One channel, a network's input, is so little beside y that `concat` costs nothing.

    Raises:
        ValueError: `fused` is asked for and the backend cannot, with the reason.
    """
    if algorithm == "fused" and (reason := ops.can_fuse(conv, u, weight)) is not None:
        raise ValueError(f"algorithm 'fused' cannot run here: {reason}")
    if algorithm != "auto":
        return algorithm
    if ops.can_fuse(conv, u, weight) is None and ops.fused_is_fastest(direction, conv, u, weight):
        return "fused"
    if u.shape[1] == 1 and u.device.type == "cpu":
        return "concat"
    mean_size = u.shape[0] / num_sets
    limit = min(8.0, weight.shape[2] * weight.shape[3] * u.shape[1] / 72)
    least = 1 if memory_format(u) == torch.channels_last else 2
    return "centered" if mean_size <= max(least, limit) else "split"

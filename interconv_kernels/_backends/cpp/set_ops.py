"""The set operations of backend "cpp": calls of the raw operators in csrc/. Contract: `SetOps` in ../contract.py."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...activation import leaky_relu_
from ...layout import empty_rows, flat, is_channels_last, memory_format
from ...sets import SetIndex

_ops: Any = torch.ops.interconv_cpp


def set_reduce(x: Tensor, sets: SetIndex, mean: bool) -> Tensor:
    fmt = memory_format(x)
    out = empty_rows(x, sets.num_sets)
    _ops.set_reduce(flat(x, fmt), sets.offsets, sets.set_ids, mean, flat(out, fmt))
    return out


def set_add(
    y: Tensor | None, t: Tensor, sets: SetIndex, mean: bool, out: Tensor, first: int = 0, slope: Tensor | None = None
) -> Tensor:
    fmt = memory_format(t if y is None else y)
    y_rows = None if y is None else flat(y, fmt)
    _ops.set_add(y_rows, flat(t, fmt), sets.offsets, sets.set_ids, mean, first, flat(out, fmt))
    return leaky_relu_(out, slope)


def concat_set_mean(u: Tensor, sets: SetIndex) -> Tensor:
    fmt = memory_format(u)
    out = empty_rows(u, u.shape[0], 2 * u.shape[1])
    _ops.concat_set_mean(flat(u, fmt), sets.offsets, sets.set_ids, _inner(u, fmt), flat(out, fmt))
    return out


def concat_set_mean_backward(g: Tensor, sets: SetIndex) -> Tensor:
    fmt = memory_format(g)
    out = empty_rows(g, g.shape[0], g.shape[1] // 2)
    _ops.concat_set_mean_backward(flat(g, fmt), sets.offsets, sets.set_ids, _inner(out, fmt), flat(out, fmt))
    return out


def _inner(x: Tensor, fmt: torch.memory_format) -> int:
    """How many values of x are adjacent before the set half begins: a pixel's channels, or the whole sample."""
    return max(1, x.shape[1] if is_channels_last(fmt) else math.prod(x.shape[1:]))


def center(x: Tensor, sets: SetIndex, from_mean: bool) -> tuple[Tensor, Tensor]:
    fmt = memory_format(x)
    mean, dev = empty_rows(x, sets.num_sets), empty_rows(x, sets.num_rows - sets.num_sets)
    _ops.center(flat(x, fmt), sets.offsets, sets.set_ids, from_mean, flat(mean, fmt), flat(dev, fmt))
    return mean, dev


def uncenter(mean: Tensor, dev: Tensor, sets: SetIndex, out: Tensor | None = None) -> Tensor:
    fmt = memory_format(mean)
    if out is None:
        out = empty_rows(mean, sets.num_rows)
    _ops.uncenter(flat(mean, fmt), flat(dev, fmt), sets.offsets, sets.set_ids, flat(out, fmt))
    return out

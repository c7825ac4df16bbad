"""The set operations: the launches of set_kernels.py. Contract: `SetOps` in ../contract.py."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ...layout import empty_rows, flat, memory_format, sum_dtype
from ...sets import SetIndex
from . import set_kernels
from .configs import SET_BLOCK_BYTES, SET_THREADS

PIECE = set_kernels.PIECE.value


def _launch(kernel: Any, rows: int, x: Tensor, *arguments: Any, **constants: Any) -> None:
    """One program for each block of columns of each row (or set) of x [*, M]."""
    block = SET_BLOCK_BYTES // x.element_size()
    grid = (rows * -(-x.shape[1] // block),)
    if grid[0] == 0:
        return
    acc = tl.float64 if sum_dtype(x) == torch.float64 else tl.float32
    warps = SET_THREADS // (32 if torch.version.hip is None else 64)
    with torch.cuda.device_of(x):
        # Products and sums stay apart, as in the other backends.
        kernel[grid](*arguments, **constants, ACC=acc, BLOCK=block, num_warps=warps, enable_fp_fusion=False)


def set_reduce(x: Tensor, sets: SetIndex, mean: bool) -> Tensor:
    fmt = memory_format(x)
    out = empty_rows(x, sets.num_sets)
    rows, out_rows = flat(x, fmt), flat(out, fmt)
    columns = rows.shape[1]
    pieces = None
    if sets.num_rows > PIECE:  # else no set is longer than a piece
        slots = -(-sets.num_rows // PIECE)
        pieces = torch.empty(slots, columns, dtype=sum_dtype(x), device=x.device)
        sources = (rows, sets.offsets, sets.set_ids)
        _launch(set_kernels.full_piece_kernel, slots, rows, *sources, pieces, sets.num_rows, columns)
    arguments = (rows, sets.offsets, pieces, out_rows, columns)
    _launch(set_kernels.set_reduce_kernel, sets.num_sets, rows, *arguments, MEAN=mean, HAS_PIECES=pieces is not None)
    return out


def set_add(
    y: Tensor | None, t: Tensor, sets: SetIndex, mean: bool, out: Tensor, first: int = 0, slope: Tensor | None = None
) -> Tensor:
    fmt = memory_format(t if y is None else y)
    out_rows = flat(out, fmt)
    y_rows = None if y is None else flat(y, fmt)
    sources = (y_rows, flat(t, fmt), slope, sets.offsets, sets.set_ids)
    channels = (1 if fmt == torch.channels_last else math.prod(out.shape[2:]), out.shape[1])  # columns each, how many
    flags = {"HAS_Y": y is not None, "MEAN": mean, "HAS_SLOPE": slope is not None}
    arguments = (*sources, out_rows, first, out_rows.shape[1], *channels)
    _launch(set_kernels.set_add_kernel, out.shape[0], out_rows, *arguments, **flags)
    return out


def concat_set_mean(u: Tensor, sets: SetIndex) -> Tensor:
    fmt = memory_format(u)
    out = empty_rows(u, u.shape[0], 2 * u.shape[1])
    rows = flat(u, fmt)
    arguments = (rows, sets.offsets, flat(out, fmt), rows.shape[1])
    _launch(set_kernels.concat_kernel, sets.num_sets, rows, *arguments, **_interleave(u, fmt))
    return out


def concat_set_mean_backward(g: Tensor, sets: SetIndex) -> Tensor:
    fmt = memory_format(g)
    out = empty_rows(g, g.shape[0], g.shape[1] // 2)
    rows = flat(out, fmt)
    arguments = (flat(g, fmt), sets.offsets, rows, rows.shape[1])
    _launch(set_kernels.concat_backward_kernel, sets.num_sets, rows, *arguments, **_interleave(out, fmt))
    return out


def _interleave(u: Tensor, fmt: torch.memory_format) -> dict[str, Any]:
    """How concat's row holds u's row: C columns at a time in channels_last, else whole."""
    spread = fmt == torch.channels_last
    return {"inner": u.shape[1] if spread else math.prod(u.shape[1:]), "SPREAD": spread}


def center(x: Tensor, sets: SetIndex, from_mean: bool) -> tuple[Tensor, Tensor]:
    fmt = memory_format(x)
    mean, dev = empty_rows(x, sets.num_sets), empty_rows(x, sets.num_rows - sets.num_sets)
    rows = flat(x, fmt)
    arguments = (rows, sets.offsets, flat(mean, fmt), flat(dev, fmt), rows.shape[1])
    _launch(set_kernels.center_kernel, sets.num_sets, rows, *arguments, FROM_MEAN=from_mean)
    return mean, dev


def uncenter(mean: Tensor, dev: Tensor, sets: SetIndex, out: Tensor | None = None) -> Tensor:
    fmt = memory_format(mean)
    if out is None:
        out = empty_rows(mean, sets.num_rows)
    rows = flat(mean, fmt)
    arguments = (rows, flat(dev, fmt), sets.offsets, flat(out, fmt), rows.shape[1])
    _launch(set_kernels.uncenter_kernel, sets.num_sets, rows, *arguments)
    return out

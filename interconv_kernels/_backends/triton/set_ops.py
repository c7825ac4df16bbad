"""The set operations: the launches of set_kernels.py. Contract: `SetOps` in ../contract.py."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ...layout import empty_rows, is_channels_last, memory_format, sum_dtype
from ...sets import SetIndex
from . import set_kernels
from .configs import SET_BLOCK_BYTES, SET_THREADS
from .launch import launch

PIECE = set_kernels.PIECE.value


def _launch(
    kernel: Any, rows: int, x: Tensor, pointers: tuple[Tensor | None, ...], *sizes: int, **constants: Any
) -> None:
    """One program for each block of columns of each row (or set) of x; the number of columns is the last size."""
    columns = math.prod(x.shape[1:])
    block = SET_BLOCK_BYTES // x.element_size()
    programs = rows * -(-columns // block)
    if programs == 0:
        return
    vector = 16 // x.element_size()
    constants |= {
        "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "BLOCK": block,
        "VECTOR": vector if columns % vector == 0 else 1,
        "num_warps": SET_THREADS // (32 if torch.version.hip is None else 64),
        "enable_fp_fusion": False,  # products and sums are rounded separately, as in the other backends
    }
    launch(kernel, programs, x, pointers, (*sizes, columns), constants)


def set_reduce(x: Tensor, sets: SetIndex, mean: bool) -> Tensor:
    out = empty_rows(x, sets.num_sets)
    slots = -(-sets.num_rows // PIECE) if sets.num_rows >= PIECE else 0  # else no set has a full piece
    pieces = torch.empty(slots, math.prod(x.shape[1:]), dtype=sum_dtype(x), device=x.device)
    if slots:
        _launch(set_kernels.full_piece_kernel, slots, x, (x, sets.offsets, sets.set_ids, pieces), sets.num_rows)
    _launch(set_kernels.set_reduce_kernel, sets.num_sets, x, (x, sets.offsets, pieces, out), MEAN=mean)
    return out


def set_add(
    y: Tensor | None, t: Tensor, sets: SetIndex, mean: bool, out: Tensor, first: int = 0, slope: Tensor | None = None
) -> Tensor:
    flags = {"HAS_Y": y is not None, "MEAN": mean, "HAS_SLOPE": slope is not None}
    pointers = (y, t, slope, sets.offsets, sets.set_ids, out)
    layout = _layout(t if y is None else y)
    _launch(set_kernels.set_add_kernel, out.shape[0], out, pointers, first, **layout, **flags)
    return out


def concat_set_mean(u: Tensor, sets: SetIndex) -> Tensor:
    out = empty_rows(u, u.shape[0], 2 * u.shape[1])
    _launch(set_kernels.concat_kernel, sets.num_sets, u, (u, sets.offsets, out), **_layout(u))
    return out


def concat_set_mean_backward(g: Tensor, sets: SetIndex) -> Tensor:
    out = empty_rows(g, g.shape[0], g.shape[1] // 2)
    _launch(set_kernels.concat_backward_kernel, sets.num_sets, out, (g, sets.offsets, out), **_layout(out))
    return out


def _layout(x: Tensor) -> dict[str, Any]:
    """The channels of x and their place in a row."""
    return {"C": x.shape[1], "CHANNELS_LAST": is_channels_last(memory_format(x))}


def center(x: Tensor, sets: SetIndex, from_mean: bool) -> tuple[Tensor, Tensor]:
    mean, dev = empty_rows(x, sets.num_sets), empty_rows(x, sets.num_rows - sets.num_sets)
    _launch(set_kernels.center_kernel, sets.num_sets, x, (x, sets.offsets, mean, dev), FROM_MEAN=from_mean)
    return mean, dev


def uncenter(mean: Tensor, dev: Tensor, sets: SetIndex, out: Tensor | None = None) -> Tensor:
    if out is None:
        out = empty_rows(mean, sets.num_rows)
    _launch(set_kernels.uncenter_kernel, sets.num_sets, mean, (mean, dev, sets.offsets, out))
    return out

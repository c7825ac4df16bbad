"""The kernels of csrc/halo on the emulator (emulated.cpp), called with torch tensors."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

ORDERS = ("in turn", "shuffled", "interleaved")
OPS = ("none", "sync", "sync_warp", "commit", "wait")
COUNTS = ("copied", "read", "written", "sectors", "wavefronts", "products", "barriers")
GUARD = 64  # values of NaN on both sides of the result


class _Call(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("u", "weight", "bias", "slope", "offsets", "y")]
        + [("strides", ctypes.c_int64 * 4)]
        + [
            (name, ctypes.c_int32)
            for name in "num_sets samples h w out_h out_w pad_h pad_w channels out_channels parts single transposed"
            " programs order left_out".split()
        ]
        + [("seed", ctypes.c_int64), ("left_out_index", ctypes.c_int64)]
        + [("counts", ctypes.c_int64 * len(COUNTS)), ("was_left_out", ctypes.c_int32), ("errors", ctypes.c_char * 1000)]
    )


class Result(NamedTuple):
    y: Tensor
    counts: dict[str, int]
    errors: list[str]
    was_left_out: bool


def run_layer(
    library: ctypes.CDLL,
    config: int,
    u: Tensor,
    weight: Tensor,
    lengths: list[int],
    bias: Tensor | None = None,
    slope: Tensor | None = None,
    padding: tuple[int, int] = (1, 1),
    transposed: bool = False,
    parts: int = 1,
    programs: int = 3,
    order: str = "in turn",
    seed: int = 0,
    leave_out: tuple[str, int] = ("none", 0),
) -> Result:
    """One launch: u [N,C,H,W] -> y [N,Co,H',W'], or `transposed` (grad_u) with the channels exchanged."""
    u = u.contiguous(memory_format=torch.channels_last)
    samples, channels, h, w = u.shape
    out_channels = weight.shape[1] // 2 if transposed else weight.shape[0]
    size = (h + 2 * padding[0] - 2, w + 2 * padding[1] - 2)
    numel = samples * out_channels * size[0] * size[1]
    memory = torch.full((numel + 2 * GUARD,), float("nan"), dtype=u.dtype)
    y = memory[GUARD : GUARD + numel].view(samples, *size, out_channels)
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    call = _Call(
        **{"u": u.data_ptr(), "weight": weight.data_ptr(), "offsets": offsets.data_ptr(), "y": y.data_ptr()},
        **{"bias": None if bias is None else bias.data_ptr(), "slope": None if slope is None else slope.data_ptr()},
        **{"strides": (ctypes.c_int64 * 4)(*weight.stride()), "num_sets": len(lengths), "samples": samples},
        **{"h": h, "w": w, "out_h": size[0], "out_w": size[1], "pad_h": padding[0], "pad_w": padding[1]},
        **{"channels": channels, "out_channels": out_channels, "parts": parts, "transposed": transposed},
        **{"single": max(lengths, default=0) <= 1, "programs": programs, "order": ORDERS.index(order), "seed": seed},
        **{"left_out": OPS.index(leave_out[0]), "left_out_index": leave_out[1]},
    )
    library.halo_layer(config, u.dtype == torch.float16, ctypes.byref(call))
    assert memory[:GUARD].isnan().all() and memory[-GUARD:].isnan().all()
    errors = call.errors.decode().splitlines()
    return Result(y.permute(0, 3, 1, 2), dict(zip(COUNTS, call.counts, strict=True)), errors, bool(call.was_left_out))

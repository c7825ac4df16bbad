"""The kernels of csrc/halo/weight_gradient.h on the emulator (emulated_weight_gradient.cpp), called with torch tensors."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

import interconv_kernels as ik

from .emulated import COUNTS, GUARD, OPS, ORDERS

LAUNCHES = ("own", "set", "add")  # the own half, the set half, the addition of the partial sums


class _Call(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in "u g offsets set_ids means totals weight bias".split()]
        + [("strides", ctypes.c_int64 * 4)]
        + [
            (name, ctypes.c_int32)
            for name in "num_sets samples h w out_h out_w pad_h pad_w channels out_channels single on_chip slices order"
            " left_out left_out_launch".split()
        ]
        + [(name, ctypes.c_int64) for name in ("seed", "left_out_index", "forgotten")]
        + [("counts", ctypes.c_int64 * (len(COUNTS) + 1) * len(LAUNCHES))]
        + [("was_left_out", ctypes.c_int32), ("errors", ctypes.c_char * 1000)]
    )


class Result(NamedTuple):
    weight: Tensor
    bias: Tensor
    counts: dict[str, dict[str, int]]  # of each launch, with its "programs"
    errors: list[str]
    was_left_out: bool


def run_weight_gradient(
    library: ctypes.CDLL,
    config: int,
    u: Tensor,
    g: Tensor,
    lengths: list[int],
    padding: tuple[int, int] = (1, 1),
    on_chip: bool = True,
    slices: int = 2,
    order: str = "in turn",
    seed: int = 0,
    leave_out: tuple[str, str, int] = ("own", "none", 0),
    forgotten: int = -1,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Result:
    """u [N,C,H,W], g [N,Co,H',W'] -> grad_weight [Co,2C,3,3] and grad_bias, by `slices` programs for each pair of tiles.

    `on_chip`: the first launch computes the sets' means of u and sums of g; without, they are given to the second.
    """
    u, g = (x.contiguous(memory_format=torch.channels_last) for x in (u, g))
    channels, out_channels = u.shape[1], g.shape[1]
    sizes = torch.tensor(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    set_ids = torch.arange(len(lengths)).repeat_interleave(sizes).to(torch.int32)
    means, totals = (_guarded((len(lengths), *x.shape[2:], x.shape[1]), x.dtype) for x in (u, g))
    if not on_chip:
        means[1].copy_(_reduce(u, lengths, mean=True)), totals[1].copy_(_reduce(g, lengths, mean=False))
    weight = _guarded((out_channels, 2 * channels, 3, 3), u.dtype)
    strides = torch.empty(weight[1].shape).contiguous(memory_format=memory_format).stride()
    bias = _guarded((out_channels,), u.dtype)
    call = _Call(
        **{name: x.data_ptr() for name, x in [("u", u), ("g", g), ("offsets", offsets), ("set_ids", set_ids)]},
        **{"means": means[1].data_ptr(), "totals": totals[1].data_ptr()},
        **{"weight": weight[1].data_ptr(), "bias": bias[1].data_ptr(), "strides": (ctypes.c_int64 * 4)(*strides)},
        **{"num_sets": len(lengths), "samples": u.shape[0], "h": u.shape[2], "w": u.shape[3]},
        **{"out_h": g.shape[2], "out_w": g.shape[3], "pad_h": padding[0], "pad_w": padding[1]},
        **{"channels": channels, "out_channels": out_channels, "single": max(lengths, default=0) <= 1},
        **{"on_chip": on_chip, "slices": slices, "order": ORDERS.index(order), "seed": seed, "forgotten": forgotten},
        **{"left_out_launch": LAUNCHES.index(leave_out[0]), "left_out": OPS.index(leave_out[1])},
        **{"left_out_index": leave_out[2]},
    )
    library.halo_weight_gradient(config, u.dtype == torch.float16, ctypes.byref(call))
    for memory, view in (means, totals, weight, bias):
        assert memory[:GUARD].isnan().all() and memory[GUARD + view.numel() :].isnan().all()
    counts = {
        launch: dict(zip((*COUNTS, "programs"), row, strict=True))
        for launch, row in zip(LAUNCHES, call.counts, strict=True)
    }
    grad_weight = torch.as_strided(weight[1], weight[1].shape, strides)
    return Result(grad_weight, bias[1], counts, call.errors.decode().splitlines(), bool(call.was_left_out))


def reference(u: Tensor, g: Tensor, lengths: list[int], padding: tuple[int, int] = (1, 1)) -> tuple[Tensor, Tensor]:
    """The gradients by the reference implementation, in float64."""
    weight = torch.zeros(g.shape[1], 2 * u.shape[1], 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(g.shape[1], dtype=torch.float64, requires_grad=True)
    ik.reference.interconv2d(u.double(), weight, bias, lengths, padding=padding).backward(g.double())
    assert weight.grad is not None and bias.grad is not None
    return weight.grad, bias.grad


def _guarded(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Memory of NaN, and a tensor in its middle."""
    numel = torch.Size(shape).numel()
    memory = torch.full((numel + 2 * GUARD,), float("nan"), dtype=dtype)
    return memory, memory[GUARD : GUARD + numel].view(shape)


def _reduce(x: Tensor, lengths: list[int], mean: bool) -> Tensor:
    """[N,C,H,W] -> channels_last rows [B,H,W,C], in float32; NaN for empty sets, which no kernel may read."""
    rows = x.permute(0, 2, 3, 1).float().split(lengths)
    return torch.stack([part.sum(0) / (len(part) if mean else min(len(part), 1)) for part in rows]).to(x.dtype)

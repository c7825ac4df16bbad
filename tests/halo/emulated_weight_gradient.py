"""The kernels of csrc/halo/weight_gradient.h on the emulator, called with torch tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch
from emulated import GUARD, OPS, ORDERS, ROOT, build, guarded
from torch import Tensor

LAUNCHES = ("own", "set", "add")  # the own half, the set half, the addition of the partial sums
COUNTS = ("copied", "read", "written", "sectors", "wavefronts", "products", "barriers", "copied_u", "copied_g")


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


class Config(NamedTuple):
    """A row of csrc/halo/weight_gradient_configs.h."""

    row: int
    channels: int
    columns: int
    tile_h: int
    tile_w: int
    warps: int


class Options(NamedTuple):
    """How the launches run.

    Attributes:
        on_chip: the first launch computes the sets' means of u and sums of g; without, they are given to the second.
        slices: programs that share the pixels, for each pair of a tile of u's channels and one of g's.
        order, seed: when warps are switched.
        leave_out: a launch, an operation, and which of its calls does nothing.
        forgotten: a program of the first launch whose partial sums are lost.
    """

    on_chip: bool = True
    slices: int = 2
    order: str = "in turn"
    seed: int = 0
    leave_out: tuple[str, str, int] = ("own", "none", 0)
    forgotten: int = -1


class Result(NamedTuple):
    weight: Tensor
    bias: Tensor
    counts: dict[str, dict[str, int]]  # of each launch
    errors: list[str]
    was_left_out: bool


def build_weight_gradient(source: Path = ROOT / "csrc" / "halo") -> ctypes.CDLL:
    return build(source, driver=Path(__file__).with_suffix(".cpp"))


def table(library: ctypes.CDLL) -> list[Config]:
    rows, fields = [], (ctypes.c_int * 5)()
    while library.weight_gradient_config(len(rows), fields):
        rows.append(Config(len(rows), *fields))
    return rows


def run(
    library: ctypes.CDLL,
    options: Options,
    u: Tensor,
    g: Tensor,
    weight: Tensor,
    lengths: list[int],
    config: int,
    padding: tuple[int, int],
) -> Result:
    """u [N,C,H,W] and g [N,Co,H',W'], channels_last -> the gradients, as dense as `weight` [Co,2C,3,3]."""
    sizes = torch.tensor(lengths, dtype=torch.int64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]).to(torch.int32)
    set_ids = torch.arange(len(lengths)).repeat_interleave(sizes).to(torch.int32)
    (means, _), (totals, _) = zones = [guarded((len(lengths), *x.shape[1:]), x.dtype) for x in (u, g)]
    if not options.on_chip:
        means.copy_(_reduce(u, lengths, mean=True)), totals.copy_(_reduce(g, lengths, mean=False))
    flat_weight, flat_bias = (guarded((1, n, 1, 1), u.dtype) for n in (weight.numel(), weight.shape[0]))
    pointers = {"u": u, "g": g, "offsets": offsets, "set_ids": set_ids, "means": means, "totals": totals}
    pointers |= {"weight": flat_weight[0], "bias": flat_bias[0]}
    numbers = {"num_sets": len(lengths), "samples": u.shape[0], "channels": u.shape[1], "h": u.shape[2]}
    numbers |= {"w": u.shape[3], "out_channels": g.shape[1], "out_h": g.shape[2], "out_w": g.shape[3]}
    numbers |= {"pad_h": padding[0], "pad_w": padding[1], "single": set(lengths) == {1}, "on_chip": options.on_chip}
    numbers |= {"slices": options.slices, "order": ORDERS.index(options.order), "seed": options.seed}
    numbers |= {"left_out_launch": LAUNCHES.index(options.leave_out[0]), "left_out": OPS.index(options.leave_out[1])}
    call = _Call(
        **{name: x.data_ptr() for name, x in pointers.items()},
        **numbers,
        strides=(ctypes.c_int64 * 4)(*weight.stride()),
        left_out_index=options.leave_out[2],
        forgotten=options.forgotten,
    )
    library.halo_weight_gradient(config, u.dtype == torch.float16, ctypes.byref(call))
    for _, memory in [*zones, flat_weight, flat_bias]:
        assert memory[:GUARD].isnan().all()
        assert memory[-GUARD:].isnan().all()
    counts = {
        launch: dict(zip((*COUNTS, "programs"), row, strict=True))
        for launch, row in zip(LAUNCHES, call.counts, strict=True)
    }
    grad_weight = torch.as_strided(flat_weight[0], weight.shape, weight.stride())
    return Result(
        grad_weight, flat_bias[0].flatten(), counts, call.errors.decode().splitlines(), bool(call.was_left_out)
    )


def _reduce(x: Tensor, lengths: list[int], mean: bool) -> Tensor:
    """[N,C,H,W] -> [B,C,H,W], in float32; NaN for empty sets, which no kernel may read."""
    parts = x.float().split(lengths)
    return torch.stack([part.sum(0) / (len(part) if mean else min(len(part), 1)) for part in parts]).to(x.dtype)

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
        [(name, ctypes.c_void_p) for name in ["u", "g", "offsets", "set_ids", "means", "totals", "weight", "bias"]]
        + [("strides", ctypes.c_int64 * 4)]
        + [
            (name, ctypes.c_int32)
            for name in (
                *("num_sets", "samples", "h", "w", "out_h", "out_w", "pad_h", "pad_w", "channels", "out_channels"),
                *("single", "on_chip", "slices", "order", "left_out", "left_out_launch"),
            )
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
    kernel: int


class Options(NamedTuple):
    """How the launches run.

    Attributes:
        slices: programs that share the pixels, for each pair of a tile of u's channels and one of g's.
        order, seed: when warps are switched.
        leave_out: a launch, an operation, and which of its calls does nothing.
        forgotten: a program of the first launch whose partial sums are lost.
    """

    slices: int = 2
    order: str = "in turn"
    seed: int = 0
    leave_out: tuple[str, str, int] = ("own", "none", 0)
    forgotten: int = -1


class Report(NamedTuple):
    counts: dict[str, dict[str, int]]  # of each launch
    errors: list[str]
    was_left_out: bool


def build_weight_gradient(source: Path = ROOT / "csrc" / "halo") -> ctypes.CDLL:
    return build(source, driver=Path(__file__).with_suffix(".cpp"))


def table(library: ctypes.CDLL) -> list[Config]:
    rows, fields = [], (ctypes.c_int * 6)()
    while library.weight_gradient_config(len(rows), fields):
        rows.append(Config(len(rows), *fields))
    return rows


def launch(
    library: ctypes.CDLL,
    options: Options,
    u: Tensor,
    g: Tensor,
    means: Tensor | None,
    totals: Tensor | None,
    offsets: Tensor,
    set_ids: Tensor,
    pad_h: int,
    pad_w: int,
    single: bool,
    grad_weight: Tensor,
    grad_bias: Tensor | None,
    config: int | None = None,
) -> Report:
    """The raw op halo_weight_gradient; `config`: a row of the table."""
    on_chip = means is None
    zones = [guarded((len(offsets) - 1, *x.shape[1:]), x.dtype) for x in (u, g)] if on_chip else []
    if on_chip:
        means, totals = (x for x, _ in zones)
    if config is None:
        config = library.pick_weight_gradient(grad_weight.shape[2], u.shape[1], g.shape[1])
    pointers = {"u": u, "g": g, "offsets": offsets, "set_ids": set_ids, "means": means, "totals": totals}
    pointers |= {"weight": grad_weight, "bias": grad_bias}
    numbers = {"num_sets": len(offsets) - 1, "samples": u.shape[0], "channels": u.shape[1], "h": u.shape[2]}
    numbers |= {"w": u.shape[3], "out_channels": g.shape[1], "out_h": g.shape[2], "out_w": g.shape[3]}
    numbers |= {"pad_h": pad_h, "pad_w": pad_w, "single": single, "on_chip": on_chip, "slices": options.slices}
    numbers |= {"order": ORDERS.index(options.order), "seed": options.seed, "forgotten": options.forgotten}
    launch, op, index = options.leave_out
    call = _Call(
        **{name: None if x is None else x.data_ptr() for name, x in pointers.items()},
        **numbers,
        left_out_launch=LAUNCHES.index(launch),
        left_out=OPS.index(op),
        left_out_index=index,
        strides=(ctypes.c_int64 * 4)(*grad_weight.stride()),
    )
    library.halo_weight_gradient(config, u.dtype == torch.float16, ctypes.byref(call))
    for _, memory in zones:
        assert memory[:GUARD].isnan().all()
        assert memory[-GUARD:].isnan().all()
    counts = {
        launch: dict(zip((*COUNTS, "programs"), row, strict=True))
        for launch, row in zip(LAUNCHES, call.counts, strict=True)
    }
    return Report(counts, call.errors.decode().splitlines(), bool(call.was_left_out))

"""The kernels of csrc/halo on the emulator (emulated.cpp), called with torch tensors as the raw op halo_layer is."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).parent / "emulated.cpp"
BUILD = ROOT / "build" / "halo"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ORDERS = ("in turn", "shuffled", "interleaved")
OPS = ("none", "sync", "sync_warp", "commit", "wait", "fence_async", "fence_products", "commit_products")
OPS += ("wait_products", "arrive_at", "wait_at")
COUNTS = ("copied", "read", "written", "sectors", "wavefronts", "products", "barriers", "copied_u")
GUARD = 64  # values of NaN on both sides of the result


class _Call(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("u", "weight", "bias", "slope", "offsets", "set_ids", "y")]
        + [("strides", ctypes.c_int64 * 4)]
        + [
            (name, ctypes.c_int32)
            for name in (
                *("num_sets", "samples", "h", "w", "out_h", "out_w", "pad_h", "pad_w", "channels", "out_channels"),
                *("parts", "single", "transposed", "programs", "order", "left_out"),
            )
        ]
        + [("seed", ctypes.c_int64), ("left_out_index", ctypes.c_int64)]
        + [("counts", ctypes.c_int64 * len(COUNTS)), ("was_left_out", ctypes.c_int32), ("errors", ctypes.c_char * 1000)]
    )


class Options(NamedTuple):
    """How a launch runs.

    Attributes:
        programs: thread blocks for each column tile, at most as many as there are items of work.
        parts: of the samples; a program takes tiles of a part. At most as many as there are samples.
        order, seed: when warps are switched.
        leave_out: an operation, and which of its calls does nothing.
    """

    programs: int = 3
    parts: int = 2
    order: str = "in turn"
    seed: int = 0
    leave_out: tuple[str, int] = ("none", 0)


class Report(NamedTuple):
    counts: dict[str, int]
    errors: list[str]
    was_left_out: bool


def build(source: Path = ROOT / "csrc" / "halo", flags: tuple[str, ...] = (), driver: Path = DRIVER) -> ctypes.CDLL:
    """The library for kernels in the folder `source`, compiled once for each version of the code."""
    import fcntl

    files = [driver, *sorted(source.iterdir()), source.parent / "inline.h"]
    content = b"".join(file.read_bytes() for file in files) + " ".join(flags).encode()
    library = BUILD / f"{hashlib.sha256(content).hexdigest()[:16]}.so"
    BUILD.mkdir(parents=True, exist_ok=True)
    with library.with_suffix(".lock").open("w") as lock:  # several processes run the tests
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            part = library.with_suffix(".part")
            command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O1", "-fPIC", "-shared", f"-I{source}", *flags]
            subprocess.run([*command, str(driver), "-o", str(part)], check=True)
            part.rename(library)
    return ctypes.CDLL(str(library))


def mutate(folder: Path, files: tuple[str, ...], pattern: str, replacement: str, table: str, row: int = 0) -> Path:
    """A copy of the kernels with one change in one of the files, and one row of the table, which is compiled faster."""
    source = folder / "halo"
    shutil.copytree(ROOT / "csrc" / "halo", source)
    shutil.copy(ROOT / "csrc" / "inline.h", folder)
    changes = 0
    for name in files:
        changed, count = re.subn(pattern, replacement, (source / name).read_text())
        (source / name).write_text(changed)
        changes += count
    assert changes == 1
    text = (source / table).read_text()
    rows = re.search(r"(?<=onfigs\[\] = \{\n).*?(?=\n\};)", text, re.DOTALL)
    assert rows is not None
    one = re.findall(r"^    \{\{.*?\}, *\n? *\".*?\"\},?$", rows[0], re.DOTALL | re.MULTILINE)[row]
    (source / table).write_text(text.replace(rows[0], one))
    return source


def launch(
    library: ctypes.CDLL,
    options: Options,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    offsets: Tensor,
    set_ids: Tensor,
    config: int,
    pad_h: int,
    pad_w: int,
    transposed: bool,
    single: bool,
    out: Tensor,
) -> Report:
    """The raw op halo_layer."""
    pointers = {
        "u": u,
        "weight": weight,
        "bias": bias,
        "slope": slope,
        "offsets": offsets,
        "set_ids": set_ids,
        "y": out,
    }
    numbers = {"num_sets": len(offsets) - 1, "samples": u.shape[0], "channels": u.shape[1], "h": u.shape[2]}
    numbers |= {"w": u.shape[3], "out_channels": out.shape[1], "out_h": out.shape[2], "out_w": out.shape[3]}
    numbers |= {"pad_h": pad_h, "pad_w": pad_w, "transposed": transposed, "single": single}
    numbers |= {
        "programs": options.programs,
        "parts": min(options.parts, u.shape[0]),
        "order": ORDERS.index(options.order),
    }
    numbers |= {"seed": options.seed, "left_out": OPS.index(options.leave_out[0])}
    call = _Call(
        **{name: None if x is None else x.data_ptr() for name, x in pointers.items()},
        **numbers,
        strides=(ctypes.c_int64 * 4)(*weight.stride()),
        left_out_index=options.leave_out[1],
    )
    library.halo_layer(config, DTYPES.index(u.dtype), ctypes.byref(call))
    counts = dict(zip(COUNTS, call.counts, strict=True))
    return Report(counts, call.errors.decode().splitlines(), bool(call.was_left_out))


def guarded(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A channels_last tensor [N,C,H,W], and the memory that it lies in, between guard zones of NaN."""
    n, c, h, w = shape
    memory = torch.full((n * c * h * w + 2 * GUARD,), float("nan"), dtype=dtype)
    return memory[GUARD:-GUARD].view(n, h, w, c).permute(0, 3, 1, 2), memory

"""What `ik.tune()` measured on this GPU: a JSON file, by device and triton version, then by layer.

A layer's key holds what decides its speed and nothing that changes from batch to batch: never N, B or the set sizes.
"""

from __future__ import annotations

import functools
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from ...convolution import Conv
from .configs import TILES, Tile
from .conv_ops import precision

Record = dict[str, Any]
Table = dict[str, dict[str, Record]]  # {"device | triton version": {layer key: record}}


def path() -> Path:
    """The file: interconv_kernels/tuned.json in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interconv_kernels" / "tuned.json"


@functools.cache
def table() -> Table:
    """The file's content, read once; empty where there is none. Raises ValueError if it is no such table."""
    try:
        content: Table = json.loads(path().read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path()} is not JSON ({error}): expected what ik.tune() wrote; delete it or tune anew"
        ) from None
    return content


def save(device: torch.device, records: dict[str, Record]) -> None:
    """Adds records of layers to the file, which is replaced at once, never half written."""
    content = table()
    content.setdefault(machine(device), {}).update(records)
    path().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path().parent, suffix=".json", delete=False) as file:
        json.dump(content, file, indent=1, sort_keys=True)
    os.replace(file.name, path())


@functools.cache
def machine(device: torch.device) -> str:
    """The device's name and triton's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} (interpreter)"
    return f"{name} | triton {triton.__version__}"


def layer_key(direction: str, conv: Conv, u: Tensor, weight: Tensor) -> str:
    """`direction` is forward or backward. H W counts to the nearest power of two."""

    def pair(values: tuple[int, ...]) -> str:
        return "x".join(map(str, values))

    area = round(math.log2(max(1, u.shape[2] * u.shape[3])))
    dtype = str(u.dtype).removeprefix("torch.") + (f" {precision(u)}" if u.dtype == torch.float32 else "")
    return (
        f"{direction} C{u.shape[1]} Co{weight.shape[0]} k{pair(weight.shape[2:])} stride{pair(conv.stride)}"
        f" dilation{pair(conv.dilation)} {dtype} {str(conv.fmt).removeprefix('torch.')} HW2^{area}"
    )


def record(direction: str, conv: Conv, u: Tensor, weight: Tensor) -> Record | None:
    """What was measured fastest for this layer here: {"algorithm", "tiles", "milliseconds"}, or None."""
    here = table().get(machine(u.device))
    return None if not here else here.get(layer_key(direction, conv, u, weight))


def tile(kernel: str, direction: str, conv: Conv, u: Tensor, weight: Tensor) -> Tile | None:
    """The tile measured fastest for a kernel of this layer; None where nobody measured."""
    found = record(direction, conv, u, weight)
    name = found and found["tiles"].get(kernel)
    return next((row for row in TILES if row.name == name), None)


@contextmanager
def trying(device: torch.device, key: str, candidate: Record) -> Iterator[None]:
    """Within it, the layers of that key run as `candidate` says."""
    here = table().setdefault(machine(device), {})
    before = here.get(key)
    here[key] = candidate
    try:
        yield
    finally:
        if before is None:
            del here[key]
        else:
            here[key] = before


def fused_is_fastest(direction: str, conv: Conv, u: Tensor, weight: Tensor) -> bool:
    """Whether `auto` takes the fused kernels: only where they were measured fastest."""
    found = record(direction, conv, u, weight)
    return found is not None and found["algorithm"] == "fused"

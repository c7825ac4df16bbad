"""What `ik.tune()` measured on this GPU: a JSON file, by device and triton version, then by kind of layer.

The key of a layer holds what decides its speed and nothing that changes from batch to batch: never N, B or set sizes.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import triton
from torch import Tensor

from ..._files import replacing
from ...convolution import Conv
from ..contract import Direction, Record
from .configs import TILES, Tile
from .conv_launch import precision

Table = dict[str, dict[str, Record]]  # {"device | triton version": {layer key: record}}
_overrides: dict[tuple[str, str], Record] = {}  # by machine and layer key: what `ik.tune` tries at the moment


def path() -> Path:
    """The file: interconv_kernels/tuned.json in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interconv_kernels" / "tuned.json"


@functools.cache
def table() -> Table:
    """The content of the file, read once; empty if there is none.

    Raises:
        ValueError: the file is not JSON.
    """
    try:
        content: Table = json.loads(path().read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path()} is not JSON ({error}): expected what ik.tune() wrote; delete it or tune again"
        ) from None
    return content


def save(device: torch.device, records: dict[str, Record]) -> None:
    """Adds records of layers to the file, which is replaced as a whole."""
    table.cache_clear()  # another process may have added records since
    content = table()
    name = machine(device)
    content = {**content, name: {**content.get(name, {}), **records}}
    with replacing(path()) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True))
    table.cache_clear()


@functools.cache
def machine(device: torch.device) -> str:
    """The device's name and triton's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} (interpreter)"
    return f"{name} | triton {triton.__version__}"


def layer_key(direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> str:
    """The kind of layer, with H W rounded to the nearest power of two."""

    def pair(values: tuple[int, ...]) -> str:
        return "x".join(map(str, values))

    area = round(math.log2(max(1, u.shape[2] * u.shape[3])))
    dtype = str(u.dtype).removeprefix("torch.") + (f" {precision(u)}" if u.dtype == torch.float32 else "")
    return (
        f"{direction} C{u.shape[1]} Co{weight.shape[0]} k{pair(weight.shape[2:])} stride{pair(conv.stride)}"
        f" dilation{pair(conv.dilation)} {dtype} {str(conv.fmt).removeprefix('torch.')} HW2^{area}"
    )


def measured(direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> Record | None:
    """What was measured fastest for this kind of layer: {"algorithm", "tiles", "milliseconds"}, or None."""
    name = machine(u.device)
    here = table().get(name)
    if not here and not _overrides:
        return None
    key = layer_key(direction, conv, u, weight)
    return _overrides.get((name, key)) or (here or {}).get(key)


def tile(kernel: str, direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> Tile | None:
    """The tile measured fastest for a kernel of this layer, or None if it was not measured."""
    found = measured(direction, conv, u, weight)
    if found is None:
        return None
    name = found["tiles"].get(kernel)
    return next((row for row in TILES if row.name == name), None)


@contextmanager
def override(device: torch.device, key: str, candidate: Record) -> Iterator[None]:
    """Within the block, layers of that kind run as `candidate` says."""
    place = (machine(device), key)
    _overrides[place] = candidate
    try:
        yield
    finally:
        del _overrides[place]

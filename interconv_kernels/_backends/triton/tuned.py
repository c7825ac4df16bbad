"""What `ik.tune()` measured on this GPU: a JSON file, by device and triton version, then by kind of layer.

The key of a layer holds what decides its speed and nothing that changes from batch to batch: never N, B or set sizes.

The file only makes layers faster. Whatever is wrong with it (damaged, of another structure, a folder, not readable, no
space left) is logged once, and the layers run with their defaults.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from ..._files import write_text
from ...convolution import Conv
from ..contract import Direction, Record
from .configs import TILES, Tile
from .conv_launch import precision

logger = logging.getLogger("interconv_kernels")
Table = dict[str, dict[str, Record]]  # {"device | triton version": {layer key: record}}
_overrides: dict[tuple[str, str], Record] = {}  # by machine and layer key: what is forced at the moment


def path() -> Path:
    """The file: interconv_kernels/tuned.json in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interconv_kernels" / "tuned.json"


@functools.cache
def table() -> Table:
    """The content of the file, read once, and what this process measured since; empty if the file cannot be used."""
    return _read()


def save(device: torch.device, records: dict[str, Record]) -> None:
    """Adds records of layers to those of this process and to the file, and keeps what other processes wrote there."""
    name = machine(device)
    table().setdefault(name, {}).update(records)
    try:
        with _locked(path()):
            content = _read()
            content.setdefault(name, {}).update(records)
            write_text(path(), json.dumps(content, indent=1, sort_keys=True))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        _warn_once(f"the measurements of ik.tune() cannot be saved ({error}): they hold for this process only")


def _read() -> Table:
    try:
        content = json.loads(path().read_text(encoding="utf-8"))
        if not _is_table(content):
            raise ValueError("it has another structure")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home directory, or nested too deeply
        _warn_once(f"the measurements of ik.tune() are not used ({error}): delete {_path_text()}, or tune again")
        return {}
    table: Table = content
    return table


def _is_table(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(layers, dict) and all(map(_is_record, layers.values())) for layers in content.values()
    )


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and record.get("algorithm") in ("fused", "vendor")
        and isinstance(record.get("tiles"), dict)
    )


def _path_text() -> str:
    try:
        return str(path())
    except RuntimeError:
        return "tuned.json"


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Only one process at a time is in this block; where files cannot be locked, several may be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as stream:
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:  # Windows, and some network file systems
            logger.debug("%s cannot be locked: %s", file, error)
        yield


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

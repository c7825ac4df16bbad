"""What `ik.tune()` measured: a JSON file, by GPU and versions of the backends, then by kind of layer.

The key of a layer holds what decides its speed, and whether a backend can compute it, and nothing that changes from
batch to batch: never N, B or set sizes.

The file only makes layers faster. Whatever is wrong with it (damaged, of another structure, such as that of an older
version, a folder, not readable, no space left) is logged once, and the layers run with their defaults.
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
from typing import Any, Literal, TypeAlias, TypedDict

import torch
from torch import Tensor

from ._backends import registry
from ._backends.contract import Direction
from ._files import write_text
from .convolution import Conv, precision

logger = logging.getLogger("interconv_kernels")


class Candidate(TypedDict):
    """A way in which a backend can compute a kind of layer.

    Attributes:
        algorithm: "fused", its own kernels for the whole layer, or "vendor", the vendor's convolution with its set
            operations.
        tiles: {part of the fused layer: tile} (`TunableLayer.candidates`); empty for "vendor".
    """

    algorithm: Literal["fused", "vendor"]
    tiles: dict[str, str]


class Record(TypedDict):
    """What was measured for a kind of layer in one direction.

    Attributes:
        fastest: the backend of the fastest candidate.
        best: the fastest candidate of each backend.
        milliseconds: the median time of every candidate that was right, by "<backend> vendor" or "<backend> <tiles>".
    """

    fastest: str
    best: dict[str, Candidate]
    milliseconds: dict[str, float]


Table: TypeAlias = dict[str, dict[str, Record]]  # {machine: {layer key: record}}
_overrides: dict[tuple[str, str], Record] = {}  # by machine and layer key: what is forced at the moment


# --- the record of a layer --------------------------------------------------------------------------------------------


def measured(direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> Record | None:
    """What was measured for this kind of layer on this GPU, or None."""
    name = machine(u.device)
    if name is None:
        return None
    here = table().get(name)
    if not here and not _overrides:
        return None
    key = layer_key(direction, conv, u, weight)
    return _overrides.get((name, key)) or (here or {}).get(key)


@contextmanager
def override(device: torch.device, key: str, backend: str, candidate: Candidate) -> Iterator[None]:
    """Within the block, layers of that kind run as if this candidate had been measured as the only one."""
    place = (_machine_of(device), key)
    _overrides[place] = {"fastest": backend, "best": {backend: candidate}, "milliseconds": {}}
    try:
        yield
    finally:
        del _overrides[place]


@functools.cache
def machine(device: torch.device) -> str | None:
    """The device's name and the backends that can be tuned there, with their versions; None if there are none.

    A record is for kernels that were found right, so those of another version do not count.
    """
    backends = [f"{name} {registry.BACKENDS[name].version()}" for name in registry.tunable(device)]
    if not backends:
        return None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return " | ".join([name, *backends])


def layer_key(direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> str:
    """The kind of layer, with H W rounded to the nearest power of two."""
    channels, area = u.shape[1], math.prod(u.shape[2:])
    how = precision(u) if u.dtype == torch.float32 else ""
    return _layer_key(direction, conv, channels, area, weight.shape[0], weight.shape[2:], u.dtype, how)


@functools.lru_cache(maxsize=4096)  # the text takes longer to make than to find
def _layer_key(
    direction: Direction,
    conv: Conv,
    channels: int,
    area: int,
    out_channels: int,
    kernel: tuple[int, ...],
    dtype: torch.dtype,
    precision: str,
) -> str:
    stride, padding, dilation, size = ("x".join(map(str, pair)) for pair in (*conv[:3], kernel))
    return (
        f"{direction} C{channels} Co{out_channels} k{size} stride{stride} padding{padding} dilation{dilation}"
        f" {' '.join([_name(dtype), *[precision] * bool(precision)])} {_name(conv.fmt)}"
        f" HW2^{round(math.log2(max(1, area)))}"
    )


def _name(constant: torch.dtype | torch.memory_format) -> str:
    return str(constant).removeprefix("torch.")


# --- the file ---------------------------------------------------------------------------------------------------------


def path() -> Path:
    """The file: interconv_kernels/tuned.json in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interconv_kernels" / "tuned.json"


@functools.cache
def table() -> Table:
    """The content of the file, read once, and what this process measured since; empty if the file cannot be used."""
    return _read()


def save(device: torch.device, records: dict[str, Record]) -> None:
    """Adds records of layers to those of this process and to the file, and keeps what other processes wrote there."""
    name = _machine_of(device)
    table().setdefault(name, {}).update(records)
    try:
        with _locked(path()):
            content = _read()
            content.setdefault(name, {}).update(records)
            write_text(path(), json.dumps(content, indent=1, sort_keys=True))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        _warn_once(f"the measurements of ik.tune() cannot be saved ({error}): they hold for this process only")


def _machine_of(device: torch.device) -> str:
    name = machine(device)
    assert name is not None, f"no backend can be tuned on {device}"
    return name


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
    best = record.get("best") if isinstance(record, dict) else None
    return (
        isinstance(best, dict)
        and best.keys() <= registry.BACKENDS.keys()
        and all(map(_is_candidate, best.values()))
        and record.get("fastest") in list(best)
    )


def _is_candidate(candidate: Any) -> bool:
    return (
        isinstance(candidate, dict)
        and candidate.get("algorithm") in ("fused", "vendor")
        and isinstance(candidate.get("tiles"), dict)
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

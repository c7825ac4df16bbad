"""Checkpoints: written completely or not at all, and refused if a bit of them has changed since."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interconv_kernels._files import replacing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint, with a digest of what it holds, completely or not at all.

    Args:
        path: the file.
        state: tensors and plain values, in dicts and lists.

    Raises:
        OSError: it cannot be written; the disk may be full.
    """
    try:
        with replacing(path) as partial:
            torch.save({"state": state, "digest": digest(state)}, partial)
    except RuntimeError as error:  # torch's writer for an OSError
        raise OSError(f"{path}: cannot be written ({str(error).splitlines()[0]}); is the disk full?") from error


def load_checkpoint(path: Path, device: torch.device | str, mapped: bool = False) -> dict[str, Any]:
    """Reads a checkpoint: only tensors and plain values, without running code.

    Args:
        path: the file.
        device: where the tensors go.
        mapped: the tensors stay in the file, whose memory the processes that read it share.

    Raises:
        ValueError: the file cannot be read, is not as it was written, or holds weights that are not finite.
    """
    if not path.is_file():  # to open a pipe could block for ever
        raise ValueError(f"{path}: no regular file, expected a checkpoint")
    try:
        stored = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
        state: dict[str, Any] = stored["state"]
        expected = stored["digest"]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # zip and pickle decoders raise anything
        raise ValueError(f"{path}: cannot be read as a checkpoint ({type(error).__name__})") from error
    if digest(state) != expected:
        raise ValueError(f"{path}: has changed since it was written, expected its digest {expected[:12]}...")
    for name, values in state.get("network", {}).items():
        if not values.isfinite().all():
            raise ValueError(f"{path}: {name} holds values that are not finite, expected trained weights")
    return state


def digest(value: Any) -> str:
    """A digest of tensors and plain values, the same on every device.

    Args:
        value: a tensor or a plain value, or dicts, lists and tuples of them.
    """
    found = hashlib.sha256()
    _add(found, value)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        found.update(repr((value.dtype, tuple(value.shape))).encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, dict):
        for key, member in value.items():
            found.update(repr(key).encode())
            _add(found, member)
    elif isinstance(value, (list, tuple)):
        found.update(repr(len(value)).encode())
        for member in value:
            _add(found, member)
    else:
        found.update(repr(value).encode())

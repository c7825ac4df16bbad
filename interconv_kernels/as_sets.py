"""`Sets` from what a caller may pass for them."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ._index_tensors import short
from .sets import Sets

if TYPE_CHECKING:
    from .typing import SetsLike


def as_sets(sets: SetsLike, num_samples: int, device: torch.device) -> Sets:
    """Converts what a caller may pass for `sets` to `Sets` that fit u [N, ...] on `device`.

    Args:
        sets: a `Sets`, returned as it is; one int, the size of equal sets; an integer tensor, offsets; any other
            sequence of integers, lengths.
        num_samples: N.
        device: of u.

    Raises:
        TypeError: as the constructors of `Sets`.
        ValueError: likewise, and if the sets have another number of samples than N or are on another device.
    """
    if isinstance(sets, Sets):
        if sets.num_samples != num_samples:
            raise ValueError(
                f"{sets} holds {sets.num_samples} samples, but u has N = {num_samples}: expected the same number"
            )
        if sets.device != device:
            raise ValueError(
                f"sets are on {sets.device}, u is on {device}: expected one device (use sets.to(u.device))"
            )
        return sets
    if isinstance(sets, bool) or sets is None or isinstance(sets, (str, float)):
        raise TypeError(
            f"sets = {sets!r}: expected ik.Sets, a list of lengths, a tensor of offsets, or one int (equal sets)"
        )
    if isinstance(sets, Tensor) and sets.dim() == 1:
        return Sets.from_offsets(sets, num_samples, device)
    try:
        size = index(sets)  # type: ignore[arg-type]
    except TypeError:
        made = Sets.from_lengths(sets, device)  # type: ignore[arg-type]
        if made.num_samples != num_samples:
            raise ValueError(
                f"set lengths {short(made.lengths)} sum to {made.num_samples}: expected the number of samples,"
                f" N = {num_samples}"
            ) from None
        return made
    return Sets.from_size(size, num_samples, device)


_of_jagged = WeakTensorKeyDictionary()  # offsets tensor -> Sets, for as long as the tensor lives


def sets_of_jagged(offsets: Tensor, num_samples: int, device: torch.device) -> Sets:
    """The `Sets` of a jagged nested tensor, created once for each offsets tensor, which all layers share."""
    if torch.compiler.is_compiling():
        return Sets.from_offsets(offsets, num_samples, device)
    sets = _of_jagged.get(offsets)
    if sets is None:
        sets = _of_jagged[offsets] = Sets.from_offsets(offsets, num_samples, device)
    return sets

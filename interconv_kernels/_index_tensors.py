"""How `Sets` makes its index tensors from the integers that a caller gives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import index
from typing import Any

import torch
from torch import Tensor

from ._traced_sets import check_integer_tensor


def host_integers(values: Any, what: str) -> list[int]:
    """`values` as Python integers with at most one transfer; bools, floats and nested values are refused."""
    if isinstance(values, Tensor):
        check_integer_tensor(values, what)
        return values.tolist()
    try:
        items = list(values)
    except TypeError:
        raise TypeError(f"{what} = {values!r}: expected a sequence of integers or an integer tensor") from None
    integers = []
    for position, item in enumerate(items):
        try:
            if isinstance(item, bool):
                raise TypeError
            integers.append(item if isinstance(item, int) else index(item))  # torch.compile makes constants by index()
        except TypeError:
            raise TypeError(f"{what}[{position}] = {item!r} ({type(item).__name__}): expected an integer") from None
    return integers


def index_tensors(sizes: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """offsets int32 [B+1] and set_ids int32 [N] on the device, without waiting for it."""
    counts = torch.tensor([0, *sizes], dtype=torch.int64, device="cpu")
    offsets = counts.cumsum(0).to(torch.int32)
    numbers = torch.arange(len(sizes), dtype=torch.int32, device="cpu")
    ids = torch.repeat_interleave(numbers, counts[1:], output_size=sum(sizes))
    if device.type == "cuda" and type(ids) is Tensor:  # no FakeTensor; a copy from memory that is not pinned would wait
        offsets, ids = offsets.pin_memory(), ids.pin_memory()
    return offsets.to(device, non_blocking=True), ids.to(device, non_blocking=True)


def outside_inference_mode() -> AbstractContextManager[object]:
    """For tensors that autograd will save: it cannot save those made in inference mode."""
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        return torch.inference_mode(False)
    return nullcontext()


def short(numbers: Sequence[int], max_shown: int = 8) -> str:
    shown = ", ".join(map(str, numbers[:max_shown]))
    return f"[{shown}]" if len(numbers) <= max_shown else f"[{shown}, ... {len(numbers)} in all]"

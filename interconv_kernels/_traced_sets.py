"""The index tensors of `Sets` from a tensor of offsets in compiled code: one graph for all values."""

from __future__ import annotations

import torch
from torch import Tensor


def traced_index_tensors(
    offsets: Tensor, num_samples: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four tensors of `Sets` as torch operations. The values are checked when the graph runs (RuntimeError).

    Empty sets are allowed on the CPU alone: to leave them out is to wait for the device.

    Args:
        offsets: integers [B+1].
        num_samples: N.
        device: of the index tensors.

    Raises:
        TypeError: `offsets` is not a vector of integers.
        ValueError: it is empty.
    """
    check_integer_tensor(offsets, "offsets")
    if offsets.shape[0] == 0:
        raise ValueError("offsets []: expected B+1 integers starting with 0")
    may_be_empty = device.type == "cpu"
    ordered = (offsets.diff() >= (0 if may_be_empty else 1)).all()
    kind = "nondecreasing integers" if may_be_empty else "integers, each larger than the one before,"
    valid = (offsets[0] == 0) & ordered & (offsets[-1] == num_samples)
    torch._assert_async(valid, f"offsets: expected {kind} from 0 to N, the number of samples")
    offsets = offsets.to(device, torch.int32)
    sizes = offsets.diff()
    numbers = torch.arange(sizes.shape[0], dtype=torch.int32, device=device)
    ids = torch.repeat_interleave(numbers, sizes, output_size=num_samples)
    if not may_be_empty:
        return offsets, ids, offsets, ids
    live = sizes > 0
    live_offsets = torch.cat([offsets[:1], offsets[1:][live]])
    live_ids = (live.cumsum(0, dtype=torch.int32) - 1).index_select(0, ids)
    return offsets, ids, live_offsets, live_ids


def check_integer_tensor(values: Tensor, what: str) -> None:
    """Raises TypeError if a tensor is not a vector of integers."""
    if values.dim() != 1 or values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(
            f"{what}: got a tensor of dtype {values.dtype} and shape {tuple(values.shape)}:"
            " expected integers, shape [n]"
        )

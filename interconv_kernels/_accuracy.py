"""Which errors are allowed: a small multiple of the error of the same layer in plain torch, plus a few roundings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .reference import relative_error

TIMES_TORCH = 4  # how many times torch's own error is allowed
# Relative to the largest value. TF32 has the 10 bits of float16.
ROUNDINGS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2 * 2**-7, torch.float16: 2 * 2**-10}
TF32_ROUNDINGS = ROUNDINGS[torch.float16]


def roundings(dtype: torch.dtype, device: torch.device) -> float:
    """The error that a correct result in this dtype can have, with float32 as torch's switch for TF32 says."""
    uses_tf32 = dtype == torch.float32 and device.type == "cuda" and _switch().fp32_precision == "tf32"
    return TF32_ROUNDINGS if uses_tf32 else ROUNDINGS[dtype]


def allowed_errors(torchs: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """The allowed relative error of each quantity.

    Args:
        torchs: what plain torch computes on the device, in the dtype that is tested.
        exact: the same quantities in float64.
    """
    return [
        TIMES_TORCH * relative_error(own, want) + roundings(own.dtype, own.device)
        for own, want in zip(torchs, exact, strict=True)
    ]


def with_gradients(function: Callable[..., Tensor], tensors: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """y = function(*tensors), then the gradient of each tensor for the gradient `g` of y."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, g)]


@contextmanager
def float32_as(precision: str) -> Iterator[None]:
    """Within the block, convolutions multiply float32 as "ieee" or "tf32", by torch's switch."""
    switch = _switch()
    before = switch.fp32_precision
    switch.fp32_precision = precision
    try:
        yield
    finally:
        switch.fp32_precision = before


def _switch():  # type: ignore[no-untyped-def]
    return torch.backends.cudnn.conv  # type: ignore[attr-defined]

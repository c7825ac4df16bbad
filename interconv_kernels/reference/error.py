"""How far a result is from a reference result."""

from __future__ import annotations

from torch import Tensor


def relative_error(got: Tensor, want: Tensor) -> float:
    """max |got - want| / max |want|, computed in float64 on the CPU.

    Args:
        got: the result, of any dtype and device.
        want: the reference result, usually float64.

    Returns:
        The error: 0 for empty tensors, infinity where the shapes differ (or where all of `want` is 0 and `got` is not),
        NaN where a value is NaN. Test it as `error <= allowed`, which NaN fails.
    """
    if got.shape != want.shape:
        return float("inf")
    if got.numel() == 0:
        return 0.0
    exact = want.detach().double().cpu()
    difference = float((got.detach().double().cpu() - exact).abs().max())
    return difference and difference / float(exact.abs().max()) if exact.any() else difference and float("inf")

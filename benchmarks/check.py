"""Results are checked before they are timed: output and gradients against reference results.

For layers the reference is `interconv_kernels.reference.interconv` in float64. The allowed relative error is eight
times the error that the authors' layer in plain torch makes on the same values, device and dtype, plus a few roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interconv_kernels.reference import concat_interconv, interconv, relative_error

from .baselines import MEMORY_FORMATS, Implementation, MemoryFormat
from .suites import Case, Direction

ERROR_FACTOR = 8
ROUNDINGS = {torch.float64: 1e-13, torch.float32: 4e-6, torch.bfloat16: 2 * 2**-7, torch.float16: 2 * 2**-10}
GRADIENTS = ("grad_u", "grad_weight", "grad_bias")
WITHOUT_AUTOGRAD = "y without autograd"  # fused layers may run another kernel for it than for y


class Inputs(NamedTuple):
    """The inputs of an implementation, and a gradient of its output."""

    u: Tensor
    weight: Tensor
    bias: Tensor
    grad_y: Tensor

    def to(self, memory_format: MemoryFormat, device: torch.device) -> Inputs:
        """A copy in this memory format and on this device; u, weight and bias require gradients."""
        fmt = MEMORY_FORMATS[memory_format]
        if fmt == torch.channels_last and self.u.dim() == 5:
            fmt = torch.channels_last_3d
        u, weight, grad_y = (
            x.detach().to(device, memory_format=fmt, copy=True) for x in (self.u, self.weight, self.grad_y)
        )
        bias = self.bias.detach().to(device, copy=True)
        return Inputs(u.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), grad_y)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self)


class Expected(NamedTuple):
    """Reference results, and the relative error that is allowed for each."""

    values: dict[str, Tensor]
    allowed: dict[str, float]


def make_inputs(case: Case, dtype: torch.dtype) -> Inputs:
    """Random inputs of a case on the CPU, the same each time."""
    layer, random = case.layer, torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    terms = 2 * layer.in_channels * layer.taps
    kernel = [layer.kernel] * len(layer.size)
    u = values(case.samples, layer.in_channels, *layer.size)
    weight = values(layer.out_channels, 2 * layer.in_channels, *kernel) / terms**0.5
    grad_y = values(case.samples, layer.out_channels, *layer.out_size)
    return Inputs(*(x.to(dtype) for x in (u, weight, values(layer.out_channels), grad_y)))


def expect(case: Case, inputs: Inputs, device: torch.device, directions: Sequence[Direction]) -> Expected:
    """The reference results in float64 on the CPU, and the allowed errors in the inputs' dtype on the device."""
    needed: list[Direction] = ["both"] if any(direction != "fwd" for direction in directions) else ["fwd"]
    options: dict[str, Any] = {"lengths": case.lengths, "stride": case.layer.stride}
    exact = Inputs(*(x.detach().double().requires_grad_() for x in inputs))
    values = compute(partial(interconv, **options), exact, needed)
    plain = compute(partial(concat_interconv, **options), inputs.to("contiguous", device), needed)
    rounding = ROUNDINGS[inputs.u.dtype]
    allowed = {name: ERROR_FACTOR * relative_error(plain[name], want) + rounding for name, want in values.items()}
    if needed == ["both"]:
        values[WITHOUT_AUTOGRAD], allowed[WITHOUT_AUTOGRAD] = values["y"], allowed["y"]
    return Expected(values, allowed)


def compute(implementation: Implementation, inputs: Inputs, directions: Sequence[Direction]) -> dict[str, Tensor]:
    """The results of an implementation, run as each direction runs it.

    Args:
        implementation: what to run.
        inputs: its inputs.
        directions: "fwd" runs it without autograd; "bwd" and "both" run the forward and the backward.
    """
    u, weight, bias, grad_y = inputs
    results = {}
    if "fwd" in directions:
        with torch.no_grad():
            results[WITHOUT_AUTOGRAD] = implementation(u, weight, bias)
    if any(direction != "fwd" for direction in directions):
        y = implementation(u, weight, bias)
        gradients = torch.autograd.grad(y, (u, weight, bias), grad_y)
        results |= {"y": y.detach(), **dict(zip(GRADIENTS, gradients, strict=True))}
    return results


def describe_errors(compute_results: Callable[[], dict[str, Tensor]], expected: Expected) -> str:
    """Runs an implementation and describes what is wrong with its results.

    Args:
        compute_results: returns results by name, all of which are in `expected`.
        expected: what they are compared with.

    Returns:
        The errors, or "" if all results are right. An exception counts as an error: other implementations are still
        measured.
    """
    try:
        results = compute_results()
    except Exception as exception:  # of any type: torch's and Triton's compilers raise many
        return f"{type(exception).__name__}: {(str(exception) or 'no message').splitlines()[0]}"
    errors = {name: relative_error(value, expected.values[name]) for name, value in results.items()}
    return ", ".join(
        f"{name} has a relative error of {error:.1e} ({expected.allowed[name]:.0e} allowed)"
        for name, error in errors.items()
        if not error <= expected.allowed[name]  # also true for NaN
    )

"""Results are right before they are timed: each form's output and gradients against the float64 oracle.

What is allowed is eight times the error that the authors' layer in plain torch makes on the same values, device and
dtype, and a few roundings. Errors are the largest difference over the largest value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

import interconv_kernels as ik

from .peers import LAYOUTS, Form
from .suites import Case

NAMES = ("y", "grad_u", "grad_weight", "grad_bias")
TIMES_TORCHS = 8
SLACK = {torch.float64: 1e-13, torch.float32: 4e-6, torch.bfloat16: 2 * 2**-7, torch.float16: 2 * 2**-10}


class Inputs(NamedTuple):
    """What a form takes, and a gradient for its result."""

    u: Tensor
    weight: Tensor
    bias: Tensor
    g: Tensor

    def to(self, layout: str, device: torch.device) -> Inputs:
        """A copy there, in that layout; u, weight and bias ask for gradients."""
        fmt = LAYOUTS[layout]
        u, weight, g = (x.detach().to(device, memory_format=fmt, copy=True) for x in (self.u, self.weight, self.g))
        bias = self.bias.detach().to(device, copy=True)
        return Inputs(u.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), g)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self)


class Standard(NamedTuple):
    """What a case's results are held to."""

    want: list[Tensor]  # in the order of NAMES; y alone where no gradient is measured
    allowed: list[float]


def make_inputs(case: Case, dtype: torch.dtype) -> Inputs:
    """Random values of a case, the same every time, on the CPU."""
    layer, random = case.layer, torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    depth = 2 * layer.in_channels * layer.kernel**2
    u = values(case.samples, layer.in_channels, layer.height, layer.width)
    weight = values(layer.out_channels, 2 * layer.in_channels, layer.kernel, layer.kernel) / depth**0.5
    g = values(case.samples, layer.out_channels, layer.out_height, layer.out_width)
    return Inputs(*(x.to(dtype) for x in (u, weight, values(layer.out_channels), g)))


def make_standard(case: Case, inputs: Inputs, plain: Form, device: torch.device, gradients: bool) -> Standard:
    """The oracle's results in float64 on the CPU, and what `plain`'s error allows."""

    def oracle(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ik.reference.interconv2d(u, weight, bias, case.lengths, case.layer.stride)

    exact = Inputs(*(x.detach().double().requires_grad_() for x in inputs))
    want = results(oracle, exact, gradients)
    slack = SLACK[inputs.u.dtype]
    plains = results(plain, inputs.to("NCHW", device), gradients)
    return Standard(want, [TIMES_TORCHS * error(a, b) + slack for a, b in zip(plains, want, strict=True)])


def results(form: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Inputs, gradients: bool) -> list[Tensor]:
    """y, and the gradients of u, weight and bias if asked for."""
    u, weight, bias, g = inputs
    if not gradients:
        with torch.no_grad():
            return [form(u, weight, bias)]
    y = form(u, weight, bias)
    return [y.detach(), *torch.autograd.grad(y, (u, weight, bias), g)]


def error(got: Tensor, want: Tensor) -> float:
    """The largest difference over the largest value; infinite where shapes differ, NaN where a value is NaN."""
    if got.shape != want.shape:
        return float("inf")
    got, want = got.detach().double().cpu(), want.detach().double()
    return float((got - want).abs().max() / want.abs().max())


def complaint(form: Form, inputs: Inputs, standard: Standard, directions: Iterable[str]) -> str:
    """What is wrong with a form's results, in the way that each direction runs it, or "". A form that fails is wrong
    too."""
    wrong = []
    for gradients in sorted({direction != "fwd" for direction in directions}):
        try:
            got = results(form, inputs, gradients)
        except Exception as failure:  # of any kind, from any library: it is shown, and the others are still measured
            return f"{type(failure).__name__}: {(str(failure) or 'no message').splitlines()[0]}"
        for name, a, b, allowed in zip(NAMES, got, standard.want, standard.allowed, strict=False):
            found = error(a, b)
            if not found <= allowed:
                how = "" if gradients else " without autograd"
                wrong.append(f"{name}{how} is wrong by {found:.1e} ({allowed:.0e} allowed)")
    return ", ".join(wrong)

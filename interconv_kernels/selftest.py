"""Checks that the layer is right on this machine: `python -m interconv_kernels.selftest`.

Every backend that can run here, every algorithm and dtype, forward and all gradients, is tested against the float64
reference implementation on the CPU. Prints a table with one row per backend, algorithm and dtype: the largest error
over all cases, relative to the largest value, and the allowed error, which is four times the error of the same layer in
plain torch on the same device and in the same dtype, plus a few roundings. The exit status is 1 if an error is larger.

With TRITON_INTERPRET=1 it tests backend "triton" alone, on the CPU, in Triton's interpreter, which takes minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from . import reference
from ._backends import triton as triton_backend
from ._backends.registry import backends
from .functional import interconv2d
from .typing import Algorithm, BackendName

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LENGTHS = [3, 1, 0, 8, 2]
QUANTITIES = ("y", "grad_u", "grad_weight", "grad_bias")
TIMES_TORCH = 4  # how many times torch's own error is allowed
ROUNDINGS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2 * 2**-7, torch.float16: 2 * 2**-10}


class Case(NamedTuple):
    """A layer and the size of its input."""

    channels: int
    out_channels: int
    kernel: int
    stride: int
    dilation: int
    size: tuple[int, int]
    fmt: torch.memory_format


CASES = (
    Case(16, 16, 3, 1, 1, (12, 9), torch.channels_last),
    Case(32, 16, 1, 1, 1, (10, 9), torch.channels_last),
    Case(16, 16, 3, 1, 1, (12, 9), torch.contiguous_format),
    Case(23, 20, 3, 2, 1, (9, 11), torch.channels_last),
    Case(8, 24, 5, 1, 2, (11, 10), torch.channels_last),
    Case(5, 7, 1, 1, 1, (10, 9), torch.contiguous_format),
    Case(8, 8, 7, 1, 1, (8, 9), torch.channels_last),
)


class Check(NamedTuple):
    """The result of one backend, algorithm and dtype, for the case that comes nearest to its bound (or exceeds it).

    Attributes:
        backend: its name.
        algorithm: its name.
        dtype: of u, weight and bias.
        errors: the relative error of y, grad_u, grad_weight and grad_bias; empty if no case was run.
        allowed: the largest error allowed of each.
        skipped: "", or the reason why no case was run.
    """

    backend: BackendName
    algorithm: Algorithm
    dtype: torch.dtype
    errors: tuple[float, ...]
    allowed: tuple[float, ...]
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether every error is allowed; NaN is not."""
        return all(error <= allowed for error, allowed in zip(self.errors, self.allowed, strict=True))

    @property
    def error(self) -> float:
        """The largest of the errors."""
        return max(self.errors, default=0.0)


def run(device: torch.device, quick: bool = False) -> Iterator[Check]:
    """Checks everything that can run on a device, one result after the other.

    Args:
        device: a torch device.
        quick: only algorithm "auto" in float32, on two cases.
    """
    algorithms = ALGORITHMS[:1] if quick else ALGORITHMS  # "auto" is the first
    dtypes, cases = ((torch.float32,), CASES[:2]) if quick else (DTYPES, CASES)
    for backend, report in backends().items():
        if report.get(device.type) != "ready" or (triton_backend.interpreted() and backend != "triton"):
            continue
        for algorithm in algorithms:
            for dtype in dtypes:
                yield _check(backend, algorithm, dtype, device, cases)


def _check(
    backend: BackendName, algorithm: Algorithm, dtype: torch.dtype, device: torch.device, cases: Sequence[Case]
) -> Check:
    worst: dict[str, tuple[float, float]] = {}
    skipped = ""
    for case in cases:
        tensors, g = _inputs(case, dtype)
        options = {"stride": case.stride, "dilation": case.dilation}

        def layer(u: Tensor, weight: Tensor, bias: Tensor, options: dict[str, int] = options) -> Tensor:
            return interconv2d(u, weight, bias, LENGTHS, **options, algorithm=algorithm, backend=backend)

        def naive(u: Tensor, weight: Tensor, bias: Tensor, options: dict[str, int] = options) -> Tensor:
            return reference.interconv2d(u, weight, bias, LENGTHS, **options)

        def plain(u: Tensor, weight: Tensor, bias: Tensor, options: dict[str, int] = options) -> Tensor:
            return reference.concat_interconv2d(u, weight, bias, LENGTHS, **options)

        try:
            got = _with_gradients(layer, [x.to(device) for x in tensors], g.to(device))
        except ValueError as refusal:  # an algorithm that a backend does not have here, such as fused in float64
            skipped = str(refusal)
            continue
        exact = _with_gradients(naive, [x.double() for x in tensors], g.double())
        torchs = _with_gradients(plain, [x.to(device) for x in tensors], g.to(device))
        for name, a, b, c in zip(QUANTITIES, got, exact, torchs, strict=True):
            allowed = TIMES_TORCH * reference.relative_error(c, b) + ROUNDINGS[dtype]
            error = reference.relative_error(a, b)
            before = worst.get(name, (0.0, allowed))
            if not error / allowed <= before[0] / before[1]:  # NaN is worse than anything
                worst[name] = (error, allowed)
            else:
                worst.setdefault(name, before)
    if not worst:
        return Check(backend, algorithm, dtype, (), (), skipped)
    errors, bounds = zip(*(worst[name] for name in QUANTITIES), strict=True)
    return Check(backend, algorithm, dtype, errors, bounds)


def _inputs(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """u, weight and bias, and a gradient for y, on the CPU."""
    random = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    k, depth = case.kernel, 2 * case.channels * case.kernel**2
    u = values(sum(LENGTHS), case.channels, *case.size).to(dtype).contiguous(memory_format=case.fmt)
    weight = (values(case.out_channels, 2 * case.channels, k, k) / depth**0.5).to(dtype)
    size = [(n - 1) // case.stride + 1 for n in case.size]
    return [u, weight, values(case.out_channels).to(dtype)], values(sum(LENGTHS), case.out_channels, *size).to(dtype)


def _with_gradients(function: Callable[..., Tensor], tensors: list[Tensor], g: Tensor) -> list[Tensor]:
    tensors = [x.detach().requires_grad_() for x in tensors]
    y = function(*tensors)
    return [y.detach(), *torch.autograd.grad(y, tensors, g)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m interconv_kernels.selftest", description=__doc__.split("\n\n")[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="a torch device (default here: %(default)s)")
    device = torch.device(parser.parse_args(arguments).device)
    if triton_backend.interpreted():
        from ._backends.triton.interpreter import fix_bfloat16

        fix_bfloat16()
    for name, report in backends().items():
        print(f"{name:8} {report['version']}: {report.get(device.type, 'no such device')}")
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"\ntorch {torch.__version__} on {device_name}: error (allowed), relative to the largest value\n")
    print(f"{'backend':8} {'algorithm':9} {'dtype':9} " + " ".join(f"{name:>17}" for name in QUANTITIES))
    wrong = 0
    for check in run(device):
        head = f"{check.backend:8} {check.algorithm:9} {str(check.dtype).removeprefix('torch.'):9}"
        if check.skipped:
            print(f"{head} not run: {check.skipped}")
            continue
        wrong += not check.passed
        cells = (f"{error:8.1e} ({allowed:.0e})" for error, allowed in zip(check.errors, check.allowed, strict=True))
        print(f"{head} {' '.join(cells)}{'' if check.passed else '  WRONG'}", flush=True)
    print(f"\n{'all passed' if not wrong else f'{wrong} rows are wrong'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m interconv_kernels.selftest`: is the layer right on this machine? Every backend that can run here, every
algorithm and dtype, forward and all gradients, against the float64 oracle on the CPU.

Prints a table, a row for each backend, algorithm and dtype: the largest error over the cases, relative to the largest
value, and beside it what was allowed, which is four times the error of the same layer in plain torch on the same device
and in the same dtype, and a few roundings. The exit status is 1 if a row is above.

With TRITON_INTERPRET=1 it is backend "triton" alone, on the CPU, in Triton's interpreter: minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from ._backends import backends
from ._backends import triton as triton_backend
from .functional import interconv2d

ALGORITHMS = ("concat", "split", "centered", "fused", "auto")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LENGTHS = [3, 1, 0, 8, 2]


class Case(NamedTuple):
    """A layer: C, Co, kernel, stride, dilation, H x W, memory format."""

    channels: int
    out_channels: int
    kernel: int
    stride: int
    dilation: int
    size: tuple[int, int]
    fmt: torch.memory_format


CASES = (
    Case(16, 16, 3, 1, 1, (12, 9), torch.channels_last),
    Case(16, 16, 3, 1, 1, (12, 9), torch.contiguous_format),
    Case(23, 20, 3, 2, 1, (9, 11), torch.channels_last),
    Case(8, 24, 5, 1, 2, (11, 10), torch.channels_last),
    Case(32, 16, 1, 1, 1, (10, 9), torch.channels_last),
    Case(5, 7, 1, 1, 1, (10, 9), torch.contiguous_format),
    Case(8, 8, 7, 1, 1, (8, 9), torch.channels_last),
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the matrix; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m interconv_kernels.selftest", description=__doc__.split("\n\n")[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="a torch device (default here: %(default)s)")
    device = torch.device(parser.parse_args(arguments).device)
    if triton_backend.interpreted():
        from ._backends.triton.interpreter import mend

        mend()
    for name, report in backends().items():
        print(f"{name:8} {report['version']}: {report.get(device.type, 'no such device')}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"\ntorch {torch.__version__} on {name}: error (allowed), relative to the largest value\n")
    print(f"{'backend':8} {'algorithm':9} {'dtype':9} {'y':>17} {'grad_u':>17} {'grad_weight':>17} {'grad_bias':>17}")
    wrong = 0
    for backend, algorithm, dtype, errors in rows(device):
        if isinstance(errors, str):
            print(f"{backend:8} {algorithm:9} {_name(dtype):9} not run: {errors}")
            continue
        right = all(error <= allowed for error, allowed in errors)
        wrong += not right
        cells = " ".join(f"{error:8.1e} ({allowed:.0e})" for error, allowed in errors)
        print(f"{backend:8} {algorithm:9} {_name(dtype):9} {cells}{'' if right else '  WRONG'}", flush=True)
    print(f"\n{'all right' if not wrong else f'{wrong} rows are wrong'}")
    return 1 if wrong else 0


Errors = list[tuple[float, float]]  # (error, allowed) of y, grad_u, grad_weight, grad_bias


def rows(device: torch.device) -> Iterator[tuple[str, str, torch.dtype, Errors | str]]:
    """(backend, algorithm, dtype, its errors or why it was not run) for all that could run on the device."""
    for backend, report in backends().items():
        if report.get(device.type) != "ready" or (triton_backend.interpreted() and backend != "triton"):
            continue
        for algorithm in ALGORITHMS:
            for dtype in DTYPES:
                yield backend, algorithm, dtype, _worst(backend, algorithm, dtype, device)


def _worst(backend: str, algorithm: str, dtype: torch.dtype, device: torch.device) -> Errors | str:
    found: list[Errors] = []
    refusal = ""
    for case in CASES:
        tensors, g = _tensors(case, dtype)
        options = {"stride": case.stride, "dilation": case.dilation}

        def layer(u: Tensor, weight: Tensor, bias: Tensor, options: dict[str, int] = options) -> Tensor:
            return interconv2d(u, weight, bias, LENGTHS, **options, algorithm=algorithm, backend=backend)  # type: ignore[arg-type]

        def oracle(u: Tensor, weight: Tensor, bias: Tensor, options: dict[str, int] = options) -> Tensor:
            return reference.interconv2d(u, weight, bias, LENGTHS, **options)

        def plain(u: Tensor, weight: Tensor, bias: Tensor, case: Case = case) -> Tensor:
            means = [x.mean(0, keepdim=True).expand_as(x) for x in u.split(LENGTHS) if len(x)]
            padding = case.dilation * (case.kernel // 2)
            return F.conv2d(torch.cat([u, torch.cat(means)], 1), weight, bias, case.stride, padding, case.dilation)

        try:
            got = _with_gradients(layer, [x.to(device) for x in tensors], g.to(device))
        except ValueError as error:  # an algorithm that a backend has not for such a case, such as fused for float64
            refusal = str(error)
            continue
        exact = _with_gradients(oracle, [x.double() for x in tensors], g.double())
        torchs = _with_gradients(plain, [x.to(device) for x in tensors], g.to(device))
        slack = {torch.float64: 1e-13, torch.float32: 1e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
        found.append([(_error(a, b), 4 * _error(c, b) + slack) for a, b, c in zip(got, exact, torchs, strict=True)])
    if not found:
        return refusal
    # The case nearest to what it was allowed speaks for all.
    return [max(each, key=lambda pair: pair[0] / pair[1]) for each in zip(*found, strict=True)]


def _tensors(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """u, weight and bias, and a gradient for y, on the CPU."""
    random = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    k, depth = case.kernel, 2 * case.channels * case.kernel**2
    u = values(sum(LENGTHS), case.channels, *case.size).to(dtype).contiguous(memory_format=case.fmt)
    weight = (values(case.out_channels, 2 * case.channels, k, k) / depth**0.5).to(dtype)
    size = [(n - 1) // case.stride + 1 for n in case.size]
    return [u, weight, values(case.out_channels).to(dtype)], values(sum(LENGTHS), case.out_channels, *size).to(dtype)


def _with_gradients(function: object, tensors: list[Tensor], g: Tensor) -> list[Tensor]:
    tensors = [x.detach().requires_grad_() for x in tensors]
    y = function(*tensors)  # type: ignore[operator]
    return [y.detach(), *torch.autograd.grad(y, tensors, g)]


def _error(got: Tensor, want: Tensor) -> float:
    """The largest error over the largest value; not a number stays one, and is never allowed."""
    got, want = got.double().cpu(), want.double().cpu()
    return float((got - want).abs().max() / want.abs().max())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(main())

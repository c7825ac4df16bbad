"""Measures one case: checks each implementation, then times all of them, interleaved, on inputs that are not cached."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .baselines import MEMORY_FORMATS, Implementation, MemoryFormat, make_implementations
from .check import Inputs, compute, describe_errors, expect, make_inputs
from .machine import min_work
from .results import Measurement
from .suites import DIRECTIONS, Case, Direction
from .timing import Call, capture, interleave, peak_bytes, saved_bytes

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
MAX_COPIES = 64  # of the inputs of a layer so small that it would take more to fill the cache


class Settings(NamedTuple):
    """How cases are measured.

    Attributes:
        device: where.
        dtype: of inputs and weights.
        directions: each is measured separately.
        memory_formats: each is measured separately.
        repeats: timed rounds.
        cuda_graphs: whether to time CUDA graphs, so that launches take no time on the host.
    """

    device: torch.device
    dtype: torch.dtype
    directions: Sequence[Direction]
    memory_formats: Sequence[MemoryFormat]
    repeats: int
    cuda_graphs: bool


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `make_settings` reads."""
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--dtype", choices=DTYPES, default="float32", help="tf32: float32 on tensor cores; default: %(default)s")
    help_ = "fwd: without autograd; bwd: gradients only; both: a training step; default: both"
    add("--directions", nargs="+", choices=DIRECTIONS, default=["both"], metavar="fwd|bwd|both", help=help_)
    help_ = "default: contiguous channels_last"
    add("--memory-formats", nargs="+", choices=MEMORY_FORMATS, default=[*MEMORY_FORMATS], metavar="FORMAT", help=help_)
    add("--repeats", type=int, help="timed rounds; default: 7 on the CPU, 50 on CUDA")
    add("--no-cuda-graphs", action="store_true", help="include the time that the host takes to launch kernels")


def make_settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Settings:
    """The settings; on CUDA, sets torch's switches too. Exits with status 2 if this machine does not support them."""
    device = torch.device(args.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            parser.error("--device cuda: torch finds no CUDA device (`python -m benchmarks predict` needs none)")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.dtype == "tf32"
        torch.backends.cudnn.benchmark = True
    elif args.dtype == "tf32":
        parser.error("--dtype tf32 is a precision of GPUs: expected --device cuda")
    repeats = args.repeats or (50 if device.type == "cuda" else 7)
    graphs = device.type == "cuda" and not args.no_cuda_graphs
    return Settings(device, DTYPES[args.dtype], args.directions, args.memory_formats, repeats, graphs)


def measure_case(case: Case, names: Sequence[str], settings: Settings) -> tuple[list[Measurement], list[str]]:
    """Checks and measures implementations.

    Args:
        case: what they compute.
        names: of implementations; those that are not for such sets are left out.
        settings: how to measure.

    Returns:
        The measurements, and a message for each implementation that is wrong, which is not measured.
    """
    inputs, measurements, errors = make_inputs(case, settings.dtype), [], []
    expected = expect(case, inputs, settings.device, settings.directions)
    for memory_format in settings.memory_formats:
        right = {}
        for name, implementation in make_implementations(case, memory_format, settings.device, names).items():
            formatted = inputs.to(memory_format, settings.device)
            error = describe_errors(partial(compute, implementation, formatted, settings.directions), expected)
            if error:
                errors.append(f"{case}, {memory_format}, {name}: {error}")
            else:
                right[name] = implementation
        if right:
            measurements += measure_implementations(case, memory_format, right, inputs, settings)
    return measurements, errors


def measure_implementations(
    case: Case,
    memory_format: MemoryFormat,
    implementations: Mapping[str, Implementation],
    inputs: Inputs,
    settings: Settings,
) -> list[Measurement]:
    """Measures implementations in each direction, without a check."""
    device = settings.device
    num_copies = 1 if device.type == "cuda" else min(MAX_COPIES, 2 + last_level_cache_bytes() // inputs.nbytes)
    copies = [inputs.to(memory_format, device) for _ in range(num_copies)]
    measurements = []
    for direction in settings.directions:
        runs = {name: _Run(each, direction, copies) for name, each in implementations.items()}
        memory = {name: _memory(run, device) for name, run in runs.items()}
        if settings.cuda_graphs:
            calls, before = _captured(runs)
        else:
            calls = {name: run.call for name, run in runs.items()}
            before = {name: run.before for name, run in runs.items()}
        times = interleave(calls, settings.repeats, device, before)
        work = min_work(case, direction, inputs.u.itemsize)
        for name, quantiles in times.items():
            peak, saved = memory[name]
            details = {**case.layer._asdict(), "saved_bytes": saved, **work._asdict()}
            measured = (str(case), name, memory_format, direction, list(case.lengths))
            measurements.append(Measurement(*measured, *quantiles, peak, details))
    return measurements


class _Run:
    """An implementation in one direction: `before`, which is not timed, takes the next copy of the inputs."""

    def __init__(self, implementation: Implementation, direction: Direction, copies: Sequence[Inputs]):
        self.implementation, self.direction = implementation, direction
        self.copies = itertools.cycle(copies)

    def before(self) -> None:
        self.inputs = next(self.copies)
        if self.direction == "bwd":
            self.y = self.forward()

    def call(self) -> object:
        if self.direction == "fwd":
            with torch.no_grad():
                return self.forward()
        y = self.y if self.direction == "bwd" else self.forward()
        return torch.autograd.grad(y, self.inputs[:3], self.inputs.grad_y)

    def forward(self) -> Tensor:
        return self.implementation(*self.inputs[:3])


def _memory(run: _Run, device: torch.device) -> tuple[int, int]:
    """(peak bytes of a call, bytes saved for the backward)."""
    run.before()
    peak = peak_bytes(run.call, device)
    run.before()
    return peak, 0 if run.direction == "fwd" else saved_bytes(run.forward, run.inputs[:3])


def _captured(runs: Mapping[str, _Run]) -> tuple[dict[str, Call], dict[str, Call]]:
    """(what is timed, what runs before it) as CUDA graphs."""
    calls, before = {}, {}
    for name, run in runs.items():
        if run.direction == "bwd":
            before[name], calls[name] = capture([run.before, run.call])
        else:
            run.before()  # it only takes the inputs, so there is nothing to capture
            [calls[name]] = capture([run.call])
    return calls, before


def last_level_cache_bytes() -> int:
    """The size of the processor's last-level cache, or 64 MiB if the system does not report it."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.removesuffix("K")) * 1024 for size in sizes), default=2**26)

"""One case measured: every form checked, then timed in turns with the others, on inputs that are not in the cache."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import peers
from .check import Inputs, complaint, make_inputs, make_standard
from .machine import needed
from .peers import LAYOUTS, Form
from .results import Row
from .suites import Case
from .timing import Run, capture, peak_bytes, saved_bytes, take_turns

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
DIRECTIONS = ("fwd", "bwd", "both")
MOST_COPIES = 64  # of the inputs of a layer so small that more would be needed to fill the cache


class Settings(NamedTuple):
    """How cases are measured."""

    device: torch.device
    dtype: torch.dtype
    directions: Sequence[str]
    layouts: Sequence[str]
    repeats: int
    cuda_graphs: bool


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `Settings` are made from."""
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=DTYPES, default="float32", help="tf32: float32 on tensor cores; default: %(default)s")
    add("--direction", choices=DIRECTIONS, nargs="+", default=["both"], metavar="fwd|bwd|both")
    add("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    add("--repeats", type=int, help="turns; default: 7 on the CPU, 50 on CUDA")
    add("--no-cuda-graphs", action="store_true", help="time what the host needs to launch kernels, too")


def prepare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Settings:
    """The settings; on CUDA, torch's switches are set for them. Exits with status 2 where they make no sense here."""
    device = torch.device(args.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            parser.error("--device cuda: torch sees no CUDA device here (`python -m benchmarks predict` needs none)")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.dtype == "tf32"
        torch.backends.cudnn.benchmark = True
    elif args.dtype == "tf32":
        parser.error("--dtype tf32: a precision of GPUs; expected --device cuda")
    repeats = args.repeats or (50 if device.type == "cuda" else 7)
    graphs = device.type == "cuda" and not args.no_cuda_graphs
    return Settings(device, DTYPES[args.dtype], args.direction, args.layouts, repeats, graphs)


def measure_case(case: Case, names: Sequence[str], settings: Settings) -> tuple[list[Row], list[str]]:
    """Rows for the named forms that are for such sets, and what was refused and why."""
    inputs, rows, refused = make_inputs(case, settings.dtype), [], []
    standard = make_standard(case, inputs, peers.plain(case), settings.device, needs_gradients(settings.directions))
    for layout in settings.layouts:
        right = {}
        for name, form in peers.make_forms(case, layout, settings.device, names).items():
            why = complaint(form, inputs.to(layout, settings.device), standard, settings.directions)
            if why:
                refused.append(f"{case}, {layout}, {name}: {why}")
            else:
                right[name] = form
        if right:
            rows += measure_forms(case, layout, right, inputs, settings)
    return rows, refused


def needs_gradients(directions: Iterable[str]) -> bool:
    """Whether any of the directions has a backward."""
    return any(direction != "fwd" for direction in directions)


def measure_forms(case: Case, layout: str, forms: Mapping[str, Form], inputs: Inputs, settings: Settings) -> list[Row]:
    """A row for each direction and form; nothing is checked."""
    device = settings.device
    num_copies = 1 if device.type == "cuda" else min(MOST_COPIES, 2 + last_cache_bytes() // inputs.nbytes)
    copies = [inputs.to(layout, device) for _ in range(num_copies)]
    rows = []
    for direction in settings.directions:
        works = {name: _Work(form, direction, copies) for name, form in forms.items()}
        memory = {name: _memory(work, device) for name, work in works.items()}
        if settings.cuda_graphs:
            runs, before = _captured(works)
        else:
            runs = {name: work.run for name, work in works.items()}
            before = {name: work.before for name, work in works.items()}
        times = take_turns(runs, settings.repeats, device, before)
        least = needed(case, direction, inputs.u.itemsize)
        for name, timing in times.items():
            of_case = (str(case), *case.layer, list(case.lengths), layout, direction)
            rows.append(Row(*of_case, name, *timing, *memory[name], *least))
    return rows


class _Work:
    """A form in one direction, each time on the next copy of its inputs: `run`, after `before`, which is not timed."""

    def __init__(self, form: Form, direction: str, copies: Sequence[Inputs]):
        self.form, self.direction = form, direction
        self.copies = itertools.cycle(copies)

    def before(self) -> None:
        self.inputs = next(self.copies)
        if self.direction == "bwd":
            self.y = self.forward()

    def run(self) -> object:
        if self.direction == "fwd":
            with torch.no_grad():
                return self.forward()
        y = self.y if self.direction == "bwd" else self.forward()
        return torch.autograd.grad(y, self.inputs[:3], self.inputs.g)

    def forward(self) -> Tensor:
        return self.form(*self.inputs[:3])


def _memory(work: _Work, device: torch.device) -> tuple[int, int]:
    """(peak bytes of a call, bytes kept for the backward)."""
    work.before()
    peak = peak_bytes(work.run, device)
    work.before()
    return peak, 0 if work.direction == "fwd" else saved_bytes(work.forward, work.inputs[:3])


def _captured(works: Mapping[str, _Work]) -> tuple[dict[str, Run], dict[str, Run]]:
    """(what is timed, what comes before it) as CUDA graphs."""
    runs, before = {}, {}
    for name, work in works.items():
        if work.direction == "bwd":
            before[name], runs[name] = capture([work.before, work.run])
        else:
            work.before()  # it takes the inputs, and has nothing to capture
            [runs[name]] = capture([work.run])
    return runs, before


def last_cache_bytes() -> int:
    """The size of the processor's last cache; 64 MiB where the system does not say."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.removesuffix("K")) * 1024 for size in sizes), default=2**26)

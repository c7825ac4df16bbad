"""Layers against eager torch on the same work. `python -m benchmarks run --suite paper`

Every form is checked against the float64 oracle and then timed, in turns with the others (A B C A B C ...), on inputs
that rotate through copies larger than the last cache (on CUDA the L2 cache is flushed instead). A form that is wrong or
fails is refused, and the exit status is 1.

    fwd    the forward without autograd, as in inference
    bwd    the gradients of u, weight and bias alone
    both   forward with autograd and backward, as in training
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import peers, plots, report
from .check import Inputs, complaint, make_inputs, make_standard
from .machine import better, measure_machine, needed
from .peers import LAYOUTS, Form
from .results import Results, Row, describe_environment, write_results
from .suites import SUITES, Case
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


class Work:
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


def measure(
    case: Case,
    layout: str,
    directions: Sequence[str],
    forms: dict[str, Form],
    inputs: Inputs,
    device: torch.device,
    repeats: int,
    cuda_graphs: bool = False,
) -> list[Row]:
    """A row for each direction and form."""
    num_copies = 1 if device.type == "cuda" else min(MOST_COPIES, 2 + last_cache_bytes() // inputs.nbytes)
    copies = [inputs.to(layout, device) for _ in range(num_copies)]
    rows = []
    for direction in directions:
        works = {name: Work(form, direction, copies) for name, form in forms.items()}
        memory = {name: _memory(work, device) for name, work in works.items()}
        runs: dict[str, Run] = {name: work.run for name, work in works.items()}
        before: dict[str, Run] = {name: work.before for name, work in works.items()}
        if cuda_graphs:
            runs, before = _captured(works)
        times = take_turns(runs, repeats, device, before)
        least = needed(case, direction, inputs.u.itemsize)
        for name, timing in times.items():
            peak, saved = memory[name]
            of_case = (str(case), *case.layer, list(case.lengths), layout, direction)
            rows.append(Row(*of_case, name, *timing, peak, saved, *least))
    return rows


def _memory(work: Work, device: torch.device) -> tuple[int, int]:
    """(peak bytes of a call, bytes kept for the backward)."""
    work.before()
    peak = peak_bytes(work.run, device)
    work.before()
    return peak, 0 if work.direction == "fwd" else saved_bytes(work.forward, work.inputs[:3])


def _captured(works: dict[str, Work]) -> tuple[dict[str, Run], dict[str, Run]]:
    """(runs, what comes before them) as CUDA graphs."""
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with status 2 where it makes no sense here."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", choices=SUITES, default="paper", help="default: %(default)s (see benchmarks/suites.py)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=DTYPES, default="float32", help="tf32: float32 on tensor cores; default: %(default)s")
    add("--direction", choices=DIRECTIONS, nargs="+", default=["both"], metavar="fwd|bwd|both")
    add("--cases", default="", metavar="PATTERN", help="only cases whose name matches this regular expression")
    add("--set-sizes", type=int, nargs="+", metavar="K", help="only equal sets of these sizes")
    add("--forms", nargs="+", choices=peers.ALL_FORMS, default=list(peers.DEFAULT_FORMS), metavar="FORM")
    add("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    add("--repeats", type=int, help="turns; default: 7 on the CPU, 50 on CUDA")
    add("--no-cuda-graphs", action="store_true", help="time launches from the host, too")
    add("--out", type=Path, help="folder for results.json, results.csv and plots; default: out/SUITE-DEVICE-DTYPE")
    parser.epilog = f"Forms: {', '.join(peers.ALL_FORMS)}. The last {len(peers.ALGORITHMS)} only where named."
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here (python -m benchmarks predict needs none)")
    if args.dtype == "tf32" and args.device == "cpu":
        parser.error("--dtype tf32: tf32 is a precision of GPUs; expected --device cuda")
    args.selected = [
        case
        for case in SUITES[args.suite]
        if re.search(args.cases, str(case))
        and (not args.set_sizes or (not case.is_ragged and case.set_size in args.set_sizes))
    ]
    if not args.selected:
        names = "\n  ".join(str(case) for case in SUITES[args.suite])
        parser.error(f"no case of suite {args.suite!r} is left; it has\n  {names}")
    args.repeats = args.repeats or (50 if args.device == "cuda" else 7)
    args.out = args.out or Path("out") / f"{args.suite}-{args.device}-{args.dtype}"
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; the exit status."""
    args = parse(argv)
    console = report.make_console()
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    if device.type == "cuda":
        precision = "tf32" if args.dtype == "tf32" else "ieee"
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = precision
        torch.backends.cudnn.benchmark = True
    environment = describe_environment(device, args.dtype)
    console.print(", ".join(f"{key} {value}" for key, value in environment.items()), style="dim")
    machine = measure_machine(device, dtype)
    rows, refused = [], []
    for case in args.selected:
        new, wrong = run_case(case, args, device, dtype)
        rows += new
        refused += wrong
        report.print_case(console, new)
        for line in wrong:
            console.print(f"refused: {line}", style="bold red", markup=False)
    if rows:
        results = Results(environment, better(machine, measure_machine(device, dtype)), rows)
        write_results(args.out, results)
        report.print_report(console, results)
        drawn = plots.plot_all(args.out, results)
        console.print(f"\nwritten to {args.out}: results.json, results.csv, {', '.join(drawn)}")
    return 1 if refused else 0


def run_case(
    case: Case, args: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> tuple[list[Row], list[str]]:
    """(rows, what was refused and why) of one case, in all layouts."""
    inputs = make_inputs(case, dtype)
    plain = peers.plain(case)
    gradients = any(direction != "fwd" for direction in args.direction)
    standard = make_standard(case, inputs, plain, device, gradients)
    rows, refused = [], []
    for layout in args.layouts:
        right = {}
        for name, form in peers.make_forms(case, layout, device, args.forms).items():
            why = complaint(form, inputs.to(layout, device), standard, args.direction)
            if why:
                refused.append(f"{case}, {layout}, {name}: {why}")
            else:
                right[name] = form
        if right:
            graphs = device.type == "cuda" and not args.no_cuda_graphs
            rows += measure(case, layout, args.direction, right, inputs, device, args.repeats, graphs)
    return rows, refused

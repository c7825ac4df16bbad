"""Layers against eager torch on the same work. `python -m benchmarks run --suite paper`

Every form is checked against the float64 oracle and then timed, in turns with the others (A B C, B A C, ...), on inputs
that rotate through copies larger than the last cache (on CUDA the L2 cache is flushed instead). A form that is wrong or
fails is refused, and the exit status is 1.

    fwd    the forward without autograd, as in inference
    bwd    the gradients of u, weight and bias alone
    both   forward with autograd and backward, as in training
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from . import peers, plots, report
from .machine import better, measure_machine
from .measure import add_options, measure_case, prepare
from .results import Results, describe_environment, write_results
from .suites import SUITES, Case


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", choices=SUITES, default="paper", help="default: %(default)s (see benchmarks/suites.py)")
    add("--cases", default="", metavar="PATTERN", help="only cases whose name matches this regular expression")
    add("--set-sizes", type=int, nargs="+", metavar="K", help="only sets of these sizes")
    add("--forms", nargs="+", choices=peers.ALL_FORMS, default=list(peers.DEFAULT_FORMS), metavar="FORM")
    add_options(parser)
    add("--out", type=Path, help="folder for results.json, results.csv and plots; default: out/SUITE-DEVICE-DTYPE")
    parser.epilog = f"Forms: {', '.join(peers.ALL_FORMS)}. The last {len(peers.ALGORITHMS)} only where named."
    args = parser.parse_args(argv)
    settings = prepare(parser, args)
    cases = select(SUITES[args.suite], args.cases, args.set_sizes)
    if not cases:
        names = "\n  ".join(str(case) for case in SUITES[args.suite])
        parser.error(f"no case of suite {args.suite!r} is left; it has\n  {names}")

    console = report.make_console()
    environment = describe_environment(settings.device, args.dtype)
    console.print(", ".join(f"{key} {value}" for key, value in environment.items()), style="dim", markup=False)
    machine = measure_machine(settings.device, settings.dtype)
    folder = args.out or Path("out") / f"{args.suite}-{args.device}-{args.dtype}"
    rows, refused = [], []
    for case in cases:
        new, wrong = measure_case(case, args.forms, settings)
        report.print_case(console, new)
        for line in wrong:
            console.print(f"refused: {line}", style="bold red", markup=False)
        rows += new
        refused += wrong
        if rows:
            write_results(folder, Results(environment, machine, rows))  # whatever ends a long run early
    if rows:
        machine = better(machine, measure_machine(settings.device, settings.dtype))
        results = Results(environment, machine, rows)
        write_results(folder, results)
        report.print_report(console, results)
        console.print(f"\nwritten to {folder}: results.json, results.csv, {', '.join(plots.plot_all(folder, results))}")
    if refused:
        console.print(f"\n{len(refused)} forms were refused", style="bold red")
    return 1 if refused else 0


def select(cases: Sequence[Case], pattern: str, set_sizes: Sequence[int] | None) -> list[Case]:
    """Those whose name matches, and whose sets have one of these sizes."""
    return [
        case
        for case in cases
        if re.search(pattern, str(case)) and (not set_sizes or set(case.lengths) <= set(set_sizes))
    ]

"""Times single layers and baselines on the same work: `python -m benchmarks run --suite paper`.

Each implementation is checked against the reference implementation in float64. Then all are timed, interleaved, on
inputs that rotate through copies larger than the last-level cache (on CUDA the L2 cache is flushed instead). An
implementation that is wrong or fails is not measured, and the exit status is 1.

    fwd    the forward without autograd, as in inference
    bwd    the gradients of u, weight and bias alone
    both   the forward with autograd and the backward, as in training
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from . import plots, report
from .baselines import (
    ALL_IMPLEMENTATIONS,
    DEFAULT_IMPLEMENTATIONS,
    FOR_EQUAL_SETS,
    FOR_RAGGED_SETS,
    OUR_ALGORITHMS,
    OURS,
)
from .machine import max_rates, measure_machine
from .measure import Settings, add_options, make_settings, measure_case
from .results import Measurement, Results, describe_environment, write_results
from .suites import SUITES, Case


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit status."""
    args, settings, cases = parse(argv)
    console = report.make_console()
    environment = describe_environment(settings.device, args.dtype)
    report.print_environment(console, environment)
    machine = measure_machine(settings.device, settings.dtype)
    measurements: list[Measurement] = []
    errors: list[str] = []
    for case in cases:
        of_case, errors_of_case = measure_case(case, args.implementations, settings)
        report.print_case(console, of_case)
        for error in errors_of_case:
            report.print_error(console, error)
        measurements += of_case
        errors += errors_of_case
        if measurements:  # written after each case, so that an interrupted run leaves its results
            results = Results(environment, measurements, machine)
            write_results(args.out, results, results.layer_rates)
    if measurements:
        machine = max_rates(machine, measure_machine(settings.device, settings.dtype))
        results = Results(environment, measurements, machine)
        write_results(args.out, results, results.layer_rates)
        report.print_report(console, results)
        files = ["results.json", "results.csv", *plots.plot_all(args.out, results)]
        console.print(f"\nwritten to {args.out}: {', '.join(files)}")
    if errors:
        console.print(f"\n{len(errors)} implementations are wrong", style="bold red")
    return 1 if errors else 0


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings, list[Case]]:
    """The options, how to measure, and the selected cases; exits with status 2 if the options do not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", choices=SUITES, default="paper", help="default: %(default)s (see benchmarks/suites.py)")
    add("--cases", default="", metavar="PATTERN", help="only cases whose name matches this regular expression")
    add("--set-sizes", type=int, nargs="+", metavar="K", help="only cases with these set sizes")
    names = list(DEFAULT_IMPLEMENTATIONS)
    add(
        "--implementations",
        nargs="+",
        choices=ALL_IMPLEMENTATIONS,
        default=names,
        metavar="NAME",
        help="default: all but the algorithms, see below",
    )
    add_options(parser)
    add("--out", type=Path, help="folder for results.json, results.csv and plots; default: out/SUITE-DEVICE-DTYPE")
    parser.epilog = (
        f"implementations:\n  for equal sets: {', '.join(FOR_EQUAL_SETS)}"
        f"\n  for ragged sets: {', '.join(FOR_RAGGED_SETS)}"
        f"\n  for all: {OURS}\n  for all, and only if named: {', '.join(OUR_ALGORITHMS)}"
    )
    args = parser.parse_args(argv)
    settings = make_settings(parser, args)
    cases = select(SUITES[args.suite], args.cases, args.set_sizes)
    if not cases:
        options = "\n  ".join(str(case) for case in SUITES[args.suite])
        parser.error(f"no case of suite {args.suite!r} is selected; its cases are\n  {options}")
    args.out = args.out or Path("out") / f"{args.suite}-{args.device}-{args.dtype}"
    return args, settings, cases


def select(cases: Sequence[Case], pattern: str, set_sizes: Sequence[int] | None) -> list[Case]:
    """The cases whose name matches a regular expression and whose sets all have one of these sizes."""
    return [
        case
        for case in cases
        if re.search(pattern, str(case)) and (not set_sizes or set(case.lengths) <= set(set_sizes))
    ]

"""Writes results of layers as Markdown: `python -m benchmarks table out/paper-cpu-float32 --write FILE.md`.

The table has a line for each case and columns for each direction; the geometric means follow it. --write replaces what
is in FILE.md between <!-- NAME --> and <!-- end of NAME -->. NAME is that of the results' folder, or --section.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .baselines import CONCAT, OURS, SPLIT
from .document import write_section
from .report import BASELINES, TITLES, Fastest, faster_memory_formats, fastest, summary
from .results import Results, read_results


def markdown(results: Results) -> str:
    """The table and the means. Times are medians in ms, each in its faster memory format."""
    means = summary(results)  # first: it raises ValueError for results that have no layers
    cases = faster_memory_formats(results.measurements)
    directions = list(dict.fromkeys(direction for _, direction in cases))
    headings = ["case"]
    for direction in directions:
        headings += [f"{TITLES[direction]}, ms", *(f"speedup over {kind}" for kind in BASELINES), "of roofline"]
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    for case in dict.fromkeys(case for case, _ in cases):
        cells = [case]
        for direction in directions:
            cells += _cells(cases.get((case, direction), {}), results)
        lines.append(f"| {' | '.join(cells)} |")
    environment = "{device}, {threads} threads, torch {torch}, {dtype}, commit {commit:.9}, {date:.10}"
    return "\n".join([*lines, "", "```", environment.format(**results.environment), *means, "```", ""])


def _cells(by_name: Fastest, results: Results) -> list[str]:
    ours = by_name.get(OURS)
    if ours is None:
        return [""] * 4
    baselines = (fastest(by_name, CONCAT), fastest(by_name, SPLIT))
    speedups = [f"{row.p50 / ours.p50:.2f}" if row else "" for row in baselines]
    return [f"{1e3 * ours.p50:.1f}", *speedups, f"{results.roofline_fraction(ours):.0%}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints or writes; returns exit status 2 if the results or the document do not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, metavar="RESULTS", help="results.json of `run`, or its folder")
    parser.add_argument("--write", type=Path, metavar="FILE", help="default: print")
    parser.add_argument("--section", metavar="NAME", help="default: the name of the results' folder")
    args = parser.parse_args(argv)
    try:
        text = markdown(read_results(args.results))
        if args.write:
            folder = args.results if args.results.is_dir() else args.results.parent
            write_section(args.write, args.section or folder.resolve().name, text)
        else:
            print(text, end="")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0

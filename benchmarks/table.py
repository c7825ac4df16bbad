"""Results as Markdown, for a document. `python -m benchmarks table out/paper-cpu-float32 --write docs/performance.md`

A line for each case with ours in each direction, then the geometric means. With --write they replace what stands in the
document between <!-- NAME --> and <!-- end of NAME -->, where NAME is that of the results' folder or --section.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .document import write_section
from .peers import CONCAT, OURS, SPLIT
from .report import TITLES, best_layouts, fastest, summary
from .results import Results, Row, read_results


def markdown(results: Results) -> str:
    """The table and the means. Times are medians in ms of each form's better layout."""
    best = best_layouts(results.rows)
    directions = list(dict.fromkeys(direction for _, direction in best))
    headings = ["case"]
    for direction in directions:
        headings += [f"{TITLES[direction]}, ms", "x concat", "x split", "of floor"]
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    for case in dict.fromkeys(case for case, _ in best):
        cells = [case]
        for direction in directions:
            forms = best.get((case, direction), {})
            cells += _cells(forms.get(OURS), fastest(forms, CONCAT), fastest(forms, SPLIT), results)
        lines.append(f"| {' | '.join(cells)} |")
    where = "{device}, {threads} threads, torch {torch}, {dtype}, commit {commit:.9}, {date:.10}".format(
        **results.environment
    )
    return "\n".join([*lines, "", "```", where, *summary(results), "```", ""])


def _cells(ours: Row | None, concat: Row | None, split: Row | None, results: Results) -> list[str]:
    if ours is None:
        return [""] * 4
    ratios = [f"{peer.p50 / ours.p50:.2f}" if peer else "" for peer in (concat, split)]
    return [f"{1e3 * ours.p50:.1f}", *ratios, f"{results.of_floor(ours):.0%}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write; exit status 2 where the results or the document do not serve."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="results.json of `run`, or its folder")
    parser.add_argument("--write", type=Path, metavar="FILE")
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

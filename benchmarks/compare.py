"""Is B slower than A? `python -m benchmarks compare A B [--bound 0.95] [options of run]`

A and B are results of `python -m benchmarks run` (results.json or its folder) or git revisions. A revision is checked
out in a temporary worktree and its extension built there; then this checkout's benchmarks measure that revision's
interconv_kernels, with the options of `run` that follow A and B (--suite, --cases, ...; by default --forms ours). Two
revisions take turns (A B A B ...), each round in a process of its own; the rounds' quantiles are merged by medians.

The rule: a row, one form of ours in one case, layout and direction, regresses where p50 of A / p50 of B is below the
bound. Peers, which no revision changes, are a control: what they differ by, the machine does.

Exit status: 0; 1 where a row regresses; 2 where the two cannot be compared.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .peers import OURS
from .report import geometric_mean, make_console
from .results import Results, Row, read_results

ROOT = Path(__file__).parents[1]
Key = tuple[str, str, str, str]
Measure = Callable[[], Results]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what is not measured yet, prints the table; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--bound", type=float, default=0.95, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="of a revision's measurement; default: %(default)s")
    args, options = parser.parse_known_args(argv)
    console = make_console()
    try:
        a, b = obtain(args.a, args.b, args.rounds, options)
    except (OSError, ValueError) as error:
        console.print(str(error), style="bold red", markup=False)
        return 2
    return judge(console, a, b, args.bound)


# --- judging ----------------------------------------------------------------------------------------------------------


def judge(console: Console, a: Results, b: Results, bound: float) -> int:
    """Prints the rows that both have; the exit status."""
    for name in ("device", "dtype", "threads"):
        if a.environment[name] != b.environment[name]:
            console.print(f"A has {name} {a.environment[name]}, B {b.environment[name]}: expected the same")
            return 2
    rows_a, rows_b = by_key(a), by_key(b)
    keys = [key for key in rows_a if key in rows_b]
    ours = [key for key in keys if is_ours(key)]
    if not ours:
        console.print("A and B have no row of ours in common: expected the same suite, layouts and directions")
        return 2
    ratios = {key: rows_a[key].p50 / rows_b[key].p50 for key in keys}
    slower = [key for key in ours if ratios[key] < bound]
    table = Table(title="A / B: above 1, B is faster", pad_edge=False)
    for heading in ("case", "layout", "direction", "form"):
        table.add_column(heading, no_wrap=True)
    for heading in ("A ms", "B ms", "A / B", ""):
        table.add_column(heading, justify="right")
    for key in ours:
        times = [f"{1e3 * rows[key].p50:.2f}" for rows in (rows_a, rows_b)]
        mark = f"below {bound:g}" if key in slower else ""
        table.add_row(*key, *times, f"{ratios[key]:.3f}", mark, style="bold red" if key in slower else None)
    console.print(table)
    for side, results in (("A", a), ("B", b)):
        console.print(f"{side}: {describe(results)}", markup=False)
    if left_out := len(rows_a) + len(rows_b) - 2 * len(keys):
        console.print(f"{left_out} rows are in one of the two only")
    console.print(f"geometric mean over {len(ours)} rows: {geometric_mean([ratios[key] for key in ours]):.3f}")
    if control := [ratios[key] for key in keys if not is_ours(key)]:
        console.print(f"control, {len(control)} rows of peers: {geometric_mean(control):.3f}")
    console.print(f"{len(slower)} of {len(ours)} rows are below {bound:g}", style="bold red" if slower else "green")
    return 1 if slower else 0


def by_key(results: Results) -> dict[Key, Row]:
    """Rows by case, layout, direction and form."""
    return {(row.case, row.layout, row.direction, row.form): row for row in results.rows}


def is_ours(key: Key) -> bool:
    """Whether a row is of one of this library's forms."""
    return key[3].startswith(OURS)


def describe(results: Results) -> str:
    """Where the figures come from."""
    return "{commit}, {device}, {threads} threads, torch {torch}, {dtype}, {date}".format(**results.environment)


def merge(rounds: Sequence[Results]) -> Results:
    """One result of several rounds: the median of each quantile of each row."""
    each = [by_key(results) for results in rounds]
    rows = []
    for key, row in each[0].items():
        same = [rows[key] for rows in each if key in rows]
        p20, p50, p80 = (statistics.median(getattr(row, name) for row in same) for name in ("p20", "p50", "p80"))
        rows.append(replace(row, p20=p20, p50=p50, p80=p80))
    return rounds[0]._replace(rows=rows)


# --- measuring --------------------------------------------------------------------------------------------------------


def obtain(a: str, b: str, rounds: int, options: Sequence[str]) -> tuple[Results, Results]:
    """Results read, or measured where a revision is named.

    Raises:
        OSError, ValueError: neither results nor a revision; options of `run` that nothing is run with; or git, the
            build or the measurement failed.
    """
    if Path(a).exists() and Path(b).exists():
        if options:
            raise ValueError(f"{' '.join(options)}: expected no options of `run` with two files of results")
        return read_results(Path(a)), read_results(Path(b))
    if "--forms" not in options:
        options = [*options, "--forms", OURS]
    with (
        tempfile.TemporaryDirectory() as folder,
        _source(a, Path(folder) / "a", options) as measure_a,
        _source(b, Path(folder) / "b", options) as measure_b,
    ):
        both = [(measure_a(), measure_b()) for _ in range(rounds)]
    return merge([pair[0] for pair in both]), merge([pair[1] for pair in both])


@contextmanager
def _source(name: str, folder: Path, options: Sequence[str]) -> Iterator[Measure]:
    """What gives the results of a file, or measures a revision."""
    if Path(name).exists():
        yield lambda: read_results(Path(name))
        return
    commit = _git("rev-parse", "--verify", f"{name}^{{commit}}")
    tree, harness = folder / "tree", folder / "harness"
    _git("worktree", "add", "--detach", str(tree), commit)
    try:
        _command([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=tree)
        # These benchmarks, and not those of the revision: from a folder that holds nothing else.
        shutil.copytree(Path(__file__).parent, harness / "benchmarks")
        yield lambda: _measure(commit, tree, harness, options)
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _measure(commit: str, tree: Path, harness: Path, options: Sequence[str]) -> Results:
    out = harness / "out"
    command = [sys.executable, "-m", "benchmarks", "run", *options, "--out", str(out)]
    _command(command, cwd=harness, PYTHONPATH=str(tree))
    results = read_results(out)
    if results.environment["commit"] != commit:
        raise ValueError(f"measured {results.environment['commit']} where {commit} was meant")
    return results


def _git(*arguments: str) -> str:
    return _command(["git", "-C", str(ROOT), *arguments], cwd=ROOT)


def _command(command: Sequence[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout[-2000:] + done.stderr[-2000:]).strip()
        raise ValueError(f"{' '.join(command)} failed with status {done.returncode}:\n{said}")
    return done.stdout.strip()

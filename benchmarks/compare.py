"""Compares two results or git revisions: `python -m benchmarks compare HEAD~5 HEAD --suite smoke`.

A and B are files that the benchmarks wrote (results.json or its folder; of layers, whole networks or set operations),
or git revisions. The options of `run` follow (--suite, --cases, ...; default: --implementations ours).

A revision is checked out into a temporary worktree and its extension is built there. This checkout's benchmarks then
measure the revision's interconv_kernels; they bring the reference implementation along if the revision has none that
they can use. Measurements of two revisions alternate (A B A B ...), each in a new process, and the quantiles of the
rounds are merged by their medians.

A measurement of this library regresses if p50 of A / p50 of B is below the bound. Baselines hardly change
between revisions, so their ratio shows how much the machine changed.

Exit status: 0; 1 if a measurement regresses; 2 if the two cannot be compared.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

import interconv_kernels as ik

from .baselines import OURS, is_ours
from .report import geometric_mean, make_console
from .results import Measurement, Results, read_results

ROOT = Path(__file__).parents[1]
# What the benchmarks import of the library and a revision may lack: added to its worktree if it is missing.
# The reference implementations are always this checkout's.
REQUIRED = ("_files.py", "set_context.py")
Measure = Callable[[], Results]


class Key(NamedTuple):
    """What identifies a measurement in a file."""

    case: str
    memory_format: str
    direction: str
    implementation: str


def main(argv: Sequence[str] | None = None) -> int:
    """Measures revisions, prints the comparison, and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("a", metavar="A", help="results or a git revision")
    parser.add_argument("b", metavar="B", help="results or a git revision")
    parser.add_argument("--bound", type=float, default=0.95, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure revisions; default: %(default)s")
    args, options = parser.parse_known_args(argv)
    console = make_console()
    try:
        a, b = read_or_measure(args.a, args.b, args.rounds, options)
        return report_regressions(console, a, b, args.bound)
    except (OSError, ValueError) as error:
        console.print(str(error), style="bold red", markup=False)
        return 2


# --- comparing --------------------------------------------------------------------------------------------------------


def report_regressions(console: Console, a: Results, b: Results, bound: float) -> int:
    """Prints the measurements that both results have.

    Args:
        console: where to print.
        a: the results before.
        b: the results after.
        bound: a measurement of ours regresses if p50 of a / p50 of b is below it.

    Returns:
        1 if a measurement regresses, else 0.

    Raises:
        ValueError: the environments differ, or no measurement of ours is in both.
    """
    require_same_environment(a, b)
    pairs = matching(a, b)
    ratios = {key: of_a.p50 / of_b.p50 for key, (of_a, of_b) in pairs.items()}
    ours = {key: ratio for key, ratio in ratios.items() if is_ours(key.implementation)}
    if not ours:
        raise ValueError("A and B have no case of ours in common: expected the same suite, formats and directions")
    console.print(comparison_table(pairs, ours, bound))
    for side, results in (("A", a), ("B", b)):
        console.print(f"{side}: {describe(results)}", markup=False)
    if unmatched := len(a.measurements) + len(b.measurements) - 2 * len(pairs):
        console.print(f"{unmatched} measurements are in one of the two only")
    console.print(f"ours, {len(ours)} measurements: geometric mean of A / B {geometric_mean([*ours.values()]):.3f}")
    if baselines := [ratio for key, ratio in ratios.items() if key not in ours]:
        mean = geometric_mean(baselines)
        console.print(f"baselines, {len(baselines)} measurements: geometric mean of A / B {mean:.3f}")
    regressed = sum(ratio < bound for ratio in ours.values())
    style = "bold red" if regressed else "green"
    console.print(f"{regressed} of {len(ours)} measurements are below {bound:g}", style=style)
    return 1 if regressed else 0


def require_same_environment(a: Results, b: Results) -> None:
    """Raises ValueError if the results are of different devices, dtypes or numbers of threads."""
    for name in ("device", "dtype", "threads"):
        if a.environment[name] != b.environment[name]:
            raise ValueError(f"{name} of A is {a.environment[name]}, of B {b.environment[name]}: expected the same")


def matching(a: Results, b: Results) -> dict[Key, tuple[Measurement, Measurement]]:
    """The measurements that both results have, in the order of a."""
    of_a, of_b = by_key(a), by_key(b)
    return {key: (of_a[key], of_b[key]) for key in of_a if key in of_b}


def by_key(results: Results) -> dict[Key, Measurement]:
    """The measurements by what identifies them."""
    return {Key(row.case, row.memory_format, row.direction, row.implementation): row for row in results.measurements}


def comparison_table(
    pairs: Mapping[Key, tuple[Measurement, Measurement]], ours: Mapping[Key, float], bound: float
) -> Table:
    """A line for each measurement of ours; those below the bound are marked."""
    table = Table(title="A / B: above 1, B is faster", pad_edge=False)
    for heading in ("case", "memory format", "direction", "implementation"):
        table.add_column(heading, no_wrap=True)
    for heading in ("A ms", "B ms", "A / B", ""):
        table.add_column(heading, justify="right")
    for key, ratio in ours.items():
        times = [f"{1e3 * measurement.p50:.2f}" for measurement in pairs[key]]
        mark, style = (f"below {bound:g}", "bold red") if ratio < bound else ("", None)
        table.add_row(*key, *times, f"{ratio:.3f}", mark, style=style)
    return table


def describe(results: Results) -> str:
    """Where results were made."""
    return "{commit}, {device}, {threads} threads, torch {torch}, {dtype}, {date}".format(**results.environment)


def merge(rounds: Sequence[Results]) -> Results:
    """One result of several rounds: the median of each quantile of each measurement."""
    each = [by_key(results) for results in rounds]
    merged = []
    for key, first in each[0].items():
        same = [measurements[key] for measurements in each if key in measurements]
        p20, p50, p80 = (statistics.median(getattr(row, name) for row in same) for name in ("p20", "p50", "p80"))
        merged.append(replace(first, p20=p20, p50=p50, p80=p80))
    return rounds[0]._replace(measurements=merged)


# --- measuring --------------------------------------------------------------------------------------------------------


def read_or_measure(a: str, b: str, rounds: int, options: Sequence[str]) -> tuple[Results, Results]:
    """Reads results, and measures revisions.

    Args:
        a: a file of results, its folder, or a git revision.
        b: the same.
        rounds: how often to measure.
        options: of `run`.

    Raises:
        OSError: a file cannot be read.
        ValueError: neither results nor a revision; options for two files of results; or git, the build or the
            measurement failed.
    """
    if Path(a).exists() and Path(b).exists():
        if options:
            raise ValueError(f"{' '.join(options)}: expected no options of `run` with two files of results")
        return read_results(Path(a)), read_results(Path(b))
    if "--implementations" not in options:
        options = [*options, "--implementations", OURS]
    with (
        tempfile.TemporaryDirectory() as folder,
        _source(a, Path(folder) / "a", options) as measure_a,
        _source(b, Path(folder) / "b", options) as measure_b,
    ):
        pairs = [(measure_a(), measure_b()) for _ in range(rounds)]
    return merge([pair[0] for pair in pairs]), merge([pair[1] for pair in pairs])


@contextmanager
def _source(name: str, folder: Path, options: Sequence[str]) -> Iterator[Measure]:
    """Yields a function that reads a file of results, or measures a revision."""
    if Path(name).exists():
        yield lambda: read_results(Path(name))
        return
    commit = _git("rev-parse", "--verify", f"{name}^{{commit}}")
    tree, harness = folder / "tree", folder / "harness"
    _git("worktree", "add", "--detach", str(tree), commit)
    try:
        _command([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=tree)
        _add_required(tree / "interconv_kernels")
        # The benchmarks run from a folder without another interconv_kernels, which would be imported first.
        shutil.copytree(Path(__file__).parent, harness / "benchmarks")
        yield lambda: _measure(commit, tree, harness, options)
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _add_required(package: Path) -> None:
    shutil.rmtree(package / "reference", ignore_errors=True)
    for name in (*REQUIRED, "reference"):
        source = Path(ik.__file__).parent / name
        if not (package / name).exists():
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, package / name)


def _measure(commit: str, tree: Path, harness: Path, options: Sequence[str]) -> Results:
    out = harness / "out"
    command = [sys.executable, "-m", "benchmarks", "run", *options, "--out", str(out)]
    _command(command, cwd=harness, PYTHONPATH=str(tree))
    results = read_results(out)
    if results.environment["commit"] != commit:
        raise ValueError(f"measured commit {results.environment['commit']}, expected {commit}")
    return results


def _git(*arguments: str) -> str:
    return _command(["git", "-C", str(ROOT), *arguments], cwd=ROOT)


def _command(command: Sequence[str], cwd: Path, **environment: str) -> str:
    """Runs a command and returns its output; ValueError with the end of its output if it fails."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        output = (done.stdout[-2000:] + done.stderr[-2000:]).strip()
        raise ValueError(f"{' '.join(command)} failed with exit status {done.returncode}:\n{output}")
    return done.stdout.strip()

"""Compares scored runs: paired differences over subjects, with intervals and p-values, for each data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from interconv_seg.estimates import Estimate, estimate, improvement

from .plan import Plan
from .scoring import PROMPTS, SET_SIZES, Row, read_rows, write_rows

Means: TypeAlias = dict[str, float]  # of each subject
Table: TypeAlias = Mapping[str, object]  # a row of a table


def compare_runs(plan: Plan, folder: Path, seeds: Sequence[int], results: Path) -> None:
    """Writes the tables of a plan.

    dice.csv has the comparisons of the plan for each data set, set size and number of prompts; tasks.csv the mean Dice
    of each run on each task; following.csv the images without prompts against each opponent. A subject's Dice is its
    mean over weight seeds, tasks and images; means, intervals (bootstrap) and the paired t-test are over subjects.

    Args:
        plan: the plan.
        folder: of the scores (`score_run`).
        seeds: of the weights.
        results: gets the tables.
    """
    scores = {name: _rows(folder, [f"{name}-{seed}.csv" for seed in seeds]) for name in plan.runs}
    pairs = [(ours, other) for ours, other in plan.comparisons if scores[ours] and scores[other]]
    write_rows(results / "dice.csv", [row for pair in pairs for row in _compared_runs(*pair, scores)])
    write_rows(results / "tasks.csv", [row for name, rows in scores.items() for row in _task_means(name, rows)])
    followed = {name: _rows(folder, [f"{name}-{seed}-following.csv" for seed in seeds]) for name in plan.following}
    write_rows(results / "following.csv", [row for name, rows in followed.items() for row in _followed(name, rows)])


def _compared_runs(ours: str, opponent: str, scores: Mapping[str, Sequence[Row]]) -> Iterator[Table]:
    others = _by(scores[opponent], "source")
    for (source,), rows in _by(scores[ours], "source").items():
        for size in SET_SIZES:
            for count in PROMPTS:
                mine = _subjects(rows, str(size), str(count))
                # A baseline has the same score for every set size.
                theirs = _subjects(others[source,], str(size), str(count)) or _subjects(
                    others[source,], "1", str(count)
                )
                about = {"source": source, "run": ours, "opponent": opponent, "set_size": size, "prompts": count}
                yield {**about, **_difference(mine, theirs)}


def _task_means(name: str, rows: Sequence[Row]) -> Iterator[Table]:
    for (source, task, size, count), found in _by(rows, "source", "task", "set_size", "prompts").items():
        about = {"source": source, "task": task, "run": name, "set_size": size, "prompts": count}
        yield {**about, "dice": f"{100 * np.mean([float(row['dice']) for row in found]):.2f}"}


def _followed(name: str, rows: Sequence[Row]) -> Iterator[Table]:
    for (source, prompted, count), found in _by(rows, "source", "prompted_images", "prompts").items():
        for opponent in ("nowhere", "baseline", "copied_prediction", "copied_truth"):
            about = {"source": source, "run": name, "prompted_images": prompted, "prompts": count, "opponent": opponent}
            yield {**about, **_difference(_means(found, "following"), _means(found, opponent))}


def _rows(folder: Path, names: Iterable[str]) -> list[Row]:
    return [row for name in names if (folder / name).exists() for row in read_rows(folder / name)]


def _by(rows: Sequence[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return found


def _subjects(rows: Sequence[Row], set_size: str, prompts: str) -> Means:
    return _means([row for row in rows if (row["set_size"], row["prompts"]) == (set_size, prompts)], "dice")


def _means(rows: Sequence[Row], column: str) -> Means:
    """The mean of each subject over its tasks; of a task, over its images and the weight seeds."""
    means: dict[str, list[float]] = {}
    for (subject, _), found in _by(rows, "subject", "task").items():
        means.setdefault(subject, []).append(float(np.mean([float(row[column]) for row in found])))
    return {subject: float(np.mean(found)) for subject, found in means.items()}


def _difference(ours: Means, theirs: Means) -> Table:
    def points(found: Estimate) -> tuple[str, str, str]:
        return f"{100 * found.mean:.2f}", f"{100 * found.low:.2f}", f"{100 * found.high:.2f}"

    gain = improvement(ours, theirs)
    columns = ("gain", "gain_low", "gain_high")
    return {
        "subjects": gain.count,
        "dice": points(estimate(list(ours.values())))[0],
        "opponent_dice": points(estimate(list(theirs.values())))[0],
        **dict(zip(columns, points(gain), strict=True)),
        "p": f"{gain.p:.2g}",
    }

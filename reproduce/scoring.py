"""Dice of trained runs on data sets, and of what they are compared with, kept as CSV for each run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from interconv_seg.config import Config
from interconv_seg.data import Group
from interconv_seg.data.synthetic import is_synthetic
from interconv_seg.evaluation import evaluate
from interconv_seg.inference import Ensemble
from interconv_seg.preparation import load_groups

from interconv_kernels._files import write_text

from .following import follow
from .plan import Plan, run_folder

Row: TypeAlias = dict[str, str]
SET_SIZES = (1, 2, 4, 8)
PROMPTS = (1, 2, 4, 8)
KEY = ("source", "task", "subject", "sample")


def load_source(config: Config, name: str, data: Path, plan: Plan, most: int | None) -> list[Group]:
    """The tasks of a data set, each with at least 8 images.

    Args:
        config: of a run, for the size of the images.
        name: of a file NAME.npz, or `synthetic:...`.
        data: the folder of the files.
        plan: says for which data sets an id begins with a collection instead of a subject. Sets are then drawn within
            the collection, and each image counts as a subject.
        most: images of a task, evenly spaced; None: all.
    """
    whole = name in plan.each_image_a_subject
    config = replace(config, sets_of="subject" if whole else "task")
    groups = load_groups(config, [name if is_synthetic(name) else str(data / f"{name}.npz")])
    found = []
    for group in groups:
        samples = tuple(replace(s, subject=s.name) for s in group.samples) if whole else group.samples
        if most is not None and len(samples) > most:
            samples = tuple(samples[i] for i in np.linspace(0, len(samples) - 1, most).round().astype(int))
        found.append(replace(group, samples=samples))
    return found


def score_run(
    plan: Plan,
    out: Path,
    name: str,
    seed: int,
    sources: Mapping[str, Sequence[Group]],
    folder: Path,
    prompt_seeds: int,
) -> None:
    """Scores a run: Dice with prompts on all images, and of images without prompts in sets where some have them.

    Args:
        plan: the plan.
        out: the folder of its runs.
        name: of the run.
        seed: of the run.
        sources: the tasks of each data set.
        folder: gets NAME-SEED.csv and, for networks with InterConv, NAME-SEED-following.csv. A file that is newer than
            the weights, and of the same data sets, is kept.
        prompt_seeds: the number of repetitions, over which Dice is averaged.
    """
    run = run_folder(out, name, seed)
    weights = (run / "best.pt").stat().st_mtime
    is_set = plan.config(name, seed, out).interconv is not None
    ensemble = Ensemble.open([run])
    file = folder / f"{name}-{seed}.csv"
    if not _is_current(file, weights, sources):
        rows = []
        for source, groups in sources.items():
            # A baseline does not see the other images of a set.
            scores = evaluate(ensemble, groups, SET_SIZES if is_set else (1,), PROMPTS, range(prompt_seeds))
            rows += _averaged(
                (source, s.group, s.subject, s.sample, s.set_size, s.prompts, {"dice": s.mean}) for s in scores
            )
        write_rows(file, rows)
    opponent = plan.following.get(name)
    file = folder / f"{name}-{seed}-following.csv"
    if opponent is not None and not _is_current(file, weights, sources):
        baseline = Ensemble.open([run_folder(out, opponent, seed)])
        rows = []
        for source, groups in sources.items():
            found = (row for group in groups for row in follow(ensemble, baseline, group, range(prompt_seeds)))
            rows += _averaged((source, r.group, r.subject, r.sample, r.prompted, r.prompts, r.dice) for r in found)
        write_rows(file, [{("prompted_images" if k == "set_size" else k): v for k, v in row.items()} for row in rows])


def _is_current(file: Path, weights: float, sources: Iterable[str]) -> bool:
    """Whether a file of scores is newer than the weights, and of the same data sets."""
    return (
        file.exists() and file.stat().st_mtime > weights and {row["source"] for row in read_rows(file)} == set(sources)
    )


def _averaged(scores: Iterable[tuple[str, str, str, str, int | None, int, Mapping[str, float]]]) -> list[Row]:
    """A row for each sample and condition, with Dice averaged over the prompts' seeds."""
    values: dict[tuple[object, ...], list[Mapping[str, float]]] = {}
    for score in scores:
        values.setdefault(score[:6], []).append(score[6])
    rows = []
    for key, found in values.items():
        row = dict(zip((*KEY, "set_size", "prompts"), map(str, key), strict=True))
        rows.append(row | {name: f"{np.mean([dice[name] for dice in found]):.5f}" for name in found[0]})
    return rows


def write_rows(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes a CSV file; none if there are no rows.

    Args:
        file: the file.
        rows: the first has the columns.
    """
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def read_rows(file: Path) -> list[Row]:
    """Reads a CSV file."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))

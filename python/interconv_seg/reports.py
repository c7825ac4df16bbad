"""Summaries of an evaluation, one for each condition, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from .estimates import Estimate, estimate, improvement
from .evaluation import Metric, Score, Unit, mean_scores

Condition: TypeAlias = tuple[str, int, int | None, int | None, int]  # (task, prompts, set_size, scans, round)
SURFACE_METRICS: dict[Metric, str] = {"hd95": "HD95", "surface_dice": "surface Dice"}


@dataclass(frozen=True)
class Comparison:
    """A metric under one condition.

    Attributes:
        ours: its mean.
        baseline: its mean for the baseline, or None.
        gain: the paired difference to the baseline, or None. A smaller HD95 is better.
    """

    ours: Estimate
    baseline: Estimate | None
    gain: Estimate | None


@dataclass(frozen=True)
class ConditionSummary:
    """Dice, and surface metrics if they were measured, under one condition.

    Attributes:
        set_size: K; None: all samples of a group.
        prompts: the number of positive prompts per image, and of negative ones.
        scans: the number of scans of the groups in this summary; None: any.
        dice: mean Dice.
        baseline: mean Dice of the baseline, or None.
        gain: the paired improvement over the baseline, or None.
        structures: mean Dice of each structure over the samples that have it.
        task: the task of this summary; None: any.
        surface: for "hd95" and "surface_dice", if measured, the metric over the structures.
        round: of `Score`.
    """

    set_size: int | None
    prompts: int
    scans: int | None
    dice: Estimate
    baseline: Estimate | None
    gain: Estimate | None
    structures: tuple[float, ...]
    task: str | None = None
    surface: dict[Metric, Comparison] = field(default_factory=dict)
    round: int = 1


def summarize(
    scores: Sequence[Score],
    baseline: Sequence[Score] | None = None,
    unit: Unit = "sample",
    by_scans: bool = False,
    by_task: bool = False,
) -> list[ConditionSummary]:
    """Summarizes the scores for each set size and number of prompts.

    Args:
        scores: of `evaluate`.
        baseline: scores of the baseline under the same conditions on the same groups, or None.
        unit: what means, intervals and the t-test are taken over: samples, as in the paper; or subjects or groups (the
            samples of a subject are not independent).
        by_scans: also separate the groups by their number of images.
        by_task: also separate the tasks.

    Returns:
        A summary for each condition, ordered by task, prompts, set size ("all" last), number of scans and round.
        Conditions under which no sample has a structure are left out.
    """
    baselines = None if baseline is None else _by_condition(baseline, by_scans, by_task)
    summaries = []
    for condition, found in _by_condition(scores, by_scans, by_task).items():
        if all(math.isnan(score.mean) for score in found):
            continue
        others = None if baselines is None else baselines[condition]
        measured = [metric for metric in SURFACE_METRICS if getattr(found[0], metric) is not None]
        dice = _compare(found, others, unit, "dice")
        task, prompts, set_size, scans, number = condition
        summaries.append(
            ConditionSummary(
                set_size,
                prompts,
                scans,
                dice.ours,
                dice.baseline,
                dice.gain,
                _structure_means(found),
                task if by_task else None,
                {metric: _compare(found, others, unit, metric) for metric in measured},
                number,
            )
        )
    return summaries


def _compare(scores: Sequence[Score], baseline: Sequence[Score] | None, unit: Unit, metric: Metric) -> Comparison:
    ours = mean_scores(scores, unit, metric)
    if baseline is None:
        return Comparison(estimate(list(ours.values())), None, None)
    theirs = mean_scores(baseline, unit, metric)
    return Comparison(estimate(list(ours.values())), estimate(list(theirs.values())), improvement(ours, theirs))


def summary_markdown(summaries: Sequence[ConditionSummary], structures: Sequence[str]) -> str:
    """The summaries as a Markdown table, with Dice as in the paper: mean [95 % interval].

    Args:
        summaries: of `summarize`.
        structures: the names of classes 1, 2, ...
    """
    with_prompts = any(summary.prompts for summary in summaries)
    with_scans = any(summary.scans is not None for summary in summaries)
    with_rounds = any(summary.round > 1 for summary in summaries)
    rows = [_markdown_row(summary, structures, with_prompts, with_scans, with_rounds) for summary in summaries]
    headings = [heading for heading, _ in rows[0]]
    lines = [headings, ["---:"] * len(headings), *([cell for _, cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def summary_csv(summaries: Sequence[ConditionSummary], structures: Sequence[str]) -> str:
    """The summaries as CSV, with each number in a column of its own.

    Args:
        summaries: of `summarize`.
        structures: the names of classes 1, 2, ...
    """
    table = []
    for summary in summaries:
        row: dict[str, object] = {} if summary.task is None else {"task": summary.task}
        row |= {
            "set_size": _number_or_all(summary.set_size),
            "prompts": summary.prompts,
            "scans": _number_or_all(summary.scans),
            "round": summary.round,
        }
        columns = {"dice": summary.dice, "baseline": summary.baseline, "gain": summary.gain}
        for metric, compared in summary.surface.items():
            found = {"": compared.ours, "_baseline": compared.baseline, "_gain": compared.gain}
            columns |= {f"{metric}{suffix}": value for suffix, value in found.items()}
        for name, value in columns.items():
            if value is not None:
                row |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high, f"{name}_sd": value.sd}
        row |= {"count": summary.dice.count} | ({"p": summary.gain.p} if summary.gain is not None else {})
        table.append(row | dict(zip((f"dice {name}" for name in structures), summary.structures, strict=True)))
    return _csv(table)


def scores_csv(scores: Sequence[Score], structures: Sequence[str]) -> str:
    """The scores as CSV, one line for each sample and condition, with the metrics of each structure.

    Args:
        scores: of `evaluate`.
        structures: the names of classes 1, 2, ...
    """
    return _csv(
        [
            {
                "task": score.task,
                "group": score.group,
                "subject": score.subject,
                "sample": score.sample,
                "scans": score.scans,
                "set_size": _number_or_all(score.set_size),
                "prompts": score.prompts,
                "seed": score.seed,
                "round": score.round,
                "dice": score.mean,
                **{
                    f"{metric} {name}": value
                    for metric in ("dice", *SURFACE_METRICS)
                    for name, value in zip(structures, getattr(score, metric) or (), strict=False)
                },
            }
            for score in scores
        ]
    )


def interval_text(found: Estimate, sign: str = "") -> str:
    """An estimate as text, such as "0.717 [0.708, 0.724]".

    Args:
        found: the estimate.
        sign: "+" to show the sign of positive numbers.
    """
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _by_condition(scores: Sequence[Score], by_scans: bool, by_task: bool) -> dict[Condition, list[Score]]:
    """The scores of each condition, in the order of the conditions, None last."""
    grouped: dict[Condition, list[Score]] = {}
    for score in scores:
        task = score.task if by_task else ""
        condition = (task, score.prompts, score.set_size, score.scans if by_scans else None, score.round)
        grouped.setdefault(condition, []).append(score)
    return dict(sorted(grouped.items(), key=lambda entry: [math.inf if x is None else x for x in entry[0]]))


def _markdown_row(
    summary: ConditionSummary, structures: Sequence[str], with_prompts: bool, with_scans: bool, with_rounds: bool
) -> list[tuple[str, str]]:
    """(heading, cell) of each column."""
    row = [] if summary.task is None else [("task", summary.task)]
    row += [("K", _number_or_all(summary.set_size))]
    row += [("prompts", str(summary.prompts))] if with_prompts else []
    row += [("scans", _number_or_all(summary.scans))] if with_scans else []
    row += [("round", str(summary.round))] if with_rounds else []
    row += [("n", str(summary.dice.count)), ("Dice [95 % CI]", interval_text(summary.dice))]
    row += [("SD", f"{summary.dice.sd:.3f}")]
    if summary.baseline is not None and summary.gain is not None:
        row += [("baseline", interval_text(summary.baseline)), ("gain", interval_text(summary.gain, "+"))]
        row += [("p", f"{summary.gain.p:.2g}")]
    for metric, compared in summary.surface.items():
        row += [(SURFACE_METRICS[metric], interval_text(compared.ours))]
        row += [] if compared.gain is None else [("gain", interval_text(compared.gain, "+"))]
    if len(structures) > 1:
        row += [(name, f"{mean:.3f}") for name, mean in zip(structures, summary.structures, strict=True)]
    return row


def _structure_means(scores: Sequence[Score]) -> tuple[float, ...]:
    """The mean of each structure over the samples that have it."""
    columns = np.array([score.dice for score in scores]).T
    present = [column[~np.isnan(column)] for column in columns]
    return tuple(float(values.mean()) if values.size else math.nan for values in present)


def _number_or_all(number: int | None) -> str:
    return "all" if number is None else str(number)


def _csv(table: Sequence[dict[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()

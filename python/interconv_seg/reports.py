"""What an evaluation found, as rows: one for each condition, in markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .estimates import Estimate, estimate, improvement
from .evaluation import Score, mean_by

Unit = Literal["sample", "subject"]


@dataclass(frozen=True)
class Row:
    """Dice under one condition.

    Attributes:
        set_size: K; None: all of a group. prompts: positive and as many negative ones. scans: of the groups that are in
            this row; None: any number.
        dice, baseline, gain: mean Dice, the baseline's, and the improvement, paired; None without a baseline.
        structures: mean Dice of each structure over the samples that have it.
    """

    set_size: int | None
    prompts: int
    scans: int | None
    dice: Estimate
    baseline: Estimate | None
    gain: Estimate | None
    structures: tuple[float, ...]


def summarize(
    scores: Sequence[Score], baseline: Sequence[Score] | None, unit: Unit = "sample", by_scans: bool = False
) -> list[Row]:
    """A row for each set size and number of prompts and, with `by_scans`, number of images in a group.

    Args:
        scores, baseline: under the same conditions, of the same groups.
        unit: over what means, intervals and the t-test are taken: samples, as in the paper, or subjects (a subject's
            samples are not independent of each other).
    """

    def conditions(found: Sequence[Score]) -> dict[tuple[int, int | None, int | None], list[Score]]:
        grouped: dict[tuple[int, int | None, int | None], list[Score]] = {}
        for score in found:
            scans = score.scans if by_scans else None
            grouped.setdefault((score.prompts, score.set_size, scans), []).append(score)
        return grouped

    theirs = None if baseline is None else conditions(baseline)
    rows = []
    order = sorted(conditions(scores).items(), key=lambda entry: tuple(math.inf if x is None else x for x in entry[0]))
    for key, own in order:
        prompts, set_size, scans = key
        means = mean_by(own, unit)
        if not means:
            continue  # none of these samples has a structure
        other = None if theirs is None else mean_by(theirs[key], unit)
        rows.append(
            Row(
                set_size,
                prompts,
                scans,
                estimate(list(means.values())),
                None if other is None else estimate(list(other.values())),
                None if other is None else improvement(means, other),
                _structure_means(own),
            )
        )
    return rows


def markdown(rows: Sequence[Row], structures: Sequence[str]) -> str:
    """The rows as a table. Dice as in the paper, mean [95 % interval]."""
    return "\n".join(
        [
            "| " + " | ".join(_heads(rows, structures)) + " |",
            "|" + "---:|" * len(_heads(rows, structures)),
            *("| " + " | ".join(_cells(row, rows)) + " |" for row in rows),
        ]
    )


def rows_csv(rows: Sequence[Row], structures: Sequence[str]) -> str:
    """The rows as CSV, every number in a column of its own."""
    table = []
    for row in rows:
        entry: dict[str, object] = {"set_size": _all(row.set_size), "prompts": row.prompts, "scans": _all(row.scans)}
        for name, found in (("dice", row.dice), ("baseline", row.baseline), ("gain", row.gain)):
            if found is not None:
                entry |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        entry |= {"count": row.dice.count} | ({"p": row.gain.p} if row.gain is not None else {})
        table.append(entry | dict(zip((f"dice {name}" for name in structures), row.structures, strict=True)))
    return _csv(table)


def scores_csv(scores: Sequence[Score], structures: Sequence[str]) -> str:
    """Every score: a line for each sample and condition."""
    return _csv(
        [
            {
                "group": score.group,
                "subject": score.subject,
                "sample": score.sample,
                "scans": score.scans,
                "set_size": _all(score.set_size),
                "prompts": score.prompts,
                "seed": score.seed,
                "dice": score.mean,
                **dict(zip((f"dice {name}" for name in structures), score.dice, strict=True)),
            }
            for score in scores
        ]
    )


def interval_text(found: Estimate, sign: str = "") -> str:
    """Such as "0.717 [0.708, 0.724]"; with `sign` "+", gains show theirs."""
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _heads(rows: Sequence[Row], structures: Sequence[str]) -> list[str]:
    heads = ["K"]
    heads += ["prompts"] if _has_prompts(rows) else []
    heads += ["scans"] if _has_scans(rows) else []
    heads += ["n", "Dice [95 % CI]"]
    heads += ["baseline", "gain", "p"] if any(row.gain is not None for row in rows) else []
    return heads + (list(structures) if len(structures) > 1 else [])


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    cells = [_all(row.set_size)]
    cells += [str(row.prompts)] if _has_prompts(rows) else []
    cells += [_all(row.scans)] if _has_scans(rows) else []
    cells += [str(row.dice.count), interval_text(row.dice)]
    if row.baseline is not None and row.gain is not None:
        cells += [interval_text(row.baseline), interval_text(row.gain, "+"), f"{row.gain.p:.2g}"]
    return cells + ([f"{mean:.3f}" for mean in row.structures] if len(row.structures) > 1 else [])


def _has_prompts(rows: Sequence[Row]) -> bool:
    return any(row.prompts for row in rows)


def _has_scans(rows: Sequence[Row]) -> bool:
    return any(row.scans is not None for row in rows)


def _structure_means(scores: Sequence[Score]) -> tuple[float, ...]:
    table = np.array([score.dice for score in scores])
    present = ~np.isnan(table)
    return tuple(
        float(column[seen].mean()) if seen.any() else math.nan for column, seen in zip(table.T, present.T, strict=True)
    )


def _all(number: int | None) -> str:
    return "all" if number is None else str(number)


def _csv(table: Sequence[dict[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()

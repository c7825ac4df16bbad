"""The tables of the paper, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product

from ..networks.tables import FAMILY_NAMES, NOTE, features_text, paper_networks
from ..reports import interval_text, summarize
from .models import Model
from .results import Results, best, data_name

SHOWN_GAINS = 10


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table.

    Args:
        headings: of the columns.
        rows: of cells.
    """
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def table1(results: Results) -> str:
    """Dice by architecture and data set, mean ± SD over the samples; and the gain of each InterConv network.

    The best size of each network is shown (`results.best`).
    """
    automatic = [model for model in results.models if model.config.mode == "automatic"]
    names = [name for pair in FAMILY_NAMES.values() for name in pair if any(m.name == name for m in automatic)]
    paths = list(dict.fromkeys(path for model in automatic for path in results.data_of(model)))
    rows, gains = [], []
    for path in paths:
        shown: dict[str, Model] = {}
        for name in names:
            found = [model for model in automatic if model.name == name and path in results.data_of(model)]
            if found:
                shown[name] = best(found)
        cells = [_mean_and_sd(results, shown[name], path) if name in shown else "-" for name in names]
        rows.append([data_name(path), *cells])
        for baseline, ours in FAMILY_NAMES.values():
            if baseline in shown and ours in shown:
                [summary] = results.compared((shown[ours], shown[baseline]), path)
                assert summary.gain is not None
                cells = [interval_text(summary.gain, "+"), f"{summary.gain.p:.2g}", str(summary.gain.count)]
                gains.append([data_name(path), ours, shown[ours].size, shown[baseline].size, *cells])
    text = markdown(["data", *names], rows)
    if gains:
        headings = ["data", "network", "size", "baseline", "gain in Dice [95 % CI]", "p", "n"]
        text += "\n\n" + markdown(headings, gains)
    return text


def table2(results: Results) -> str:
    """The labels of each network in automatic mode."""
    labels = {tuple(m.config.labels.items()): m for m in results.models if m.config.mode == "automatic"}
    return "\n\n".join(
        markdown(["label", f"class ({', '.join(map(data_name, model.config.data))})"], [(0, "background"), *found])
        for found, model in labels.items()
    )


def table3(results: Results) -> str:
    """Subjects and images of each part of the data."""
    rows = []
    for model, path in results.trained_on():
        for part, found in results.parts(model, path).items():
            rows.append([data_name(path), part, len({scan.subject for scan in found.scans}), len(found.scans)])
    return markdown(["data", "part", "subjects", "images"], rows)


def size_table(number: int) -> Callable[[Results], str]:
    """Table 4, 5 or 6: sizes of an architecture, counted.

    Args:
        number: of the table.
    """

    def table(results: Results) -> str:
        found = [entry for entry in paper_networks() if entry.table == f"Table {number}"]
        rows = [[e.network, features_text(e.features), f"{e.parameters:,}", e.paper] for e in found]
        text = markdown(["network", "features", "parameters", "in the paper"], rows)
        return f"{text}\n\n{NOTE}" if any(entry.paper.endswith("*") for entry in found) else text

    return table


def table7(results: Results) -> str:
    """The data sets that networks are evaluated on."""
    paths = {path: model for model in results.models for path in results.data_of(model)}
    return _data_sets(results, [(model, path) for path, model in paths.items()])


def table8(results: Results) -> str:
    """The data sets that networks were trained on."""
    return _data_sets(results, results.trained_on())


def _data_sets(results: Results, entries: Sequence[tuple[Model, str]]) -> str:
    rows = []
    for model, path in entries:
        collection = results.collection(model, path)
        tasks = sorted({scan.task for scan in collection.scans})
        scans = {(scan.case, scan.task) for scan in collection.scans}
        subjects = {scan.subject for scan in collection.scans}
        labels = ", ".join(collection.labels.values())
        counts = (len(subjects), len(scans), len(collection.scans), len(collection.labels), len(tasks))
        rows.append([collection.name, *counts, labels])
    return markdown(["data", "subjects", "scans", "2-D images", "labels", "tasks", "names of the labels"], rows)


def _mean_and_sd(results: Results, model: Model, path: str) -> str:
    [summary] = summarize(results.scores(model, path))
    return f"{100 * summary.dice.mean:.2f} ± {100 * summary.dice.sd:.2f}"


def up_to(results: Results) -> str:
    """The largest gains over data sets, tasks, set sizes, prompts and numbers of scans, as the paper's "up to 19 %"."""
    rows: list[tuple[float, list[object]]] = []
    for mode, family in product(("interactive", "automatic"), FAMILY_NAMES):
        for path, pair in results.best_pairs(mode, family).items():
            kinds = results.conditions.kinds[: None if mode == "interactive" else 1]
            for kind in kinds:
                by_task = mode == "interactive"
                for found in results.compared(pair, path, kind, by_scans=not by_task, by_task=by_task):
                    assert found.gain is not None
                    assert found.baseline is not None
                    prompts = f"{found.prompts} + {found.prompts} ({kind})" if found.prompts else "-"
                    k = found.scans if found.set_size is None else found.set_size
                    name = data_name(path) if found.task is None else found.task
                    relative = 100 * found.gain.mean / found.baseline.mean if found.baseline.mean else math.inf
                    cells: list[object] = [
                        name,
                        pair[0].name,
                        k,
                        prompts,
                        found.dice.count,
                        interval_text(found.baseline),
                    ]
                    cells += [interval_text(found.dice), interval_text(found.gain, "+"), f"{relative:+.1f} %"]
                    rows.append((relative, cells))
    rows.sort(key=lambda row: row[0], reverse=True)
    headings = ["data", "network", "images in the set", "prompts", "n", "baseline", "InterConv", "gain in Dice", "gain"]
    note = f"The {min(SHOWN_GAINS, len(rows))} largest of {len(rows)} conditions: a maximum of many is above its mean."
    return markdown(headings, [cells for _, cells in rows[:SHOWN_GAINS]]) + f"\n\n{note}"

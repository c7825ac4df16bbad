"""What can be reported: each table and figure of the paper, and which runs it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..networks.tables import FAMILY_NAMES
from . import figures, tables
from .results import Results, data_name

Needs = Callable[[Results], str]


def _nothing(results: Results) -> str:
    return ""


def _runs(results: Results) -> str:
    return "" if results.models else "at least one run"


def _automatic(results: Results) -> str:
    return "" if any(m.config.mode == "automatic" for m in results.models) else "a run in automatic mode"


def _pair(mode: str, family: str | None = None) -> Needs:
    def needs(results: Results) -> str:
        baseline, ours = FAMILY_NAMES[family] if family else ("its baseline", "an InterConv network")
        wanted = f"runs in {mode} mode of {ours} and of {baseline}, trained on the same data"
        return "" if results.pairs(mode, family) else wanted

    return needs


def _any_pair(results: Results) -> str:
    return "" if not _pair("interactive")(results) else _pair("automatic")(results).replace("automatic", "either")


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        text: makes it, as Markdown.
        needs: which runs it needs and are not given; "" if none.
        evaluates: whether the runs are evaluated on data.
    """

    text: Callable[[Results], str]
    needs: Needs
    evaluates: bool = False


@dataclass(frozen=True)
class PaperFigure:
    """A figure.

    Attributes:
        draw: draws it into a PNG file.
        needs: as in `Table`.
        evaluates: as in `Table`.
    """

    draw: Callable[[Results, Path], None]
    needs: Needs
    evaluates: bool = True


TABLES = {
    1: Table(tables.table1, _automatic, evaluates=True),
    2: Table(tables.table2, _automatic),
    3: Table(tables.table3, _runs),
    4: Table(tables.size_table(4), _nothing),
    5: Table(tables.size_table(5), _nothing),
    6: Table(tables.size_table(6), _nothing),
    7: Table(tables.table7, _runs),
    8: Table(tables.table8, _runs),
}
UP_TO = Table(tables.up_to, _any_pair, evaluates=True)
FIGURES = {
    1: PaperFigure(figures.figure1, _pair("automatic")),
    4: PaperFigure(figures.figure4, _pair("interactive")),
    5: PaperFigure(figures.figure5, _pair("interactive")),
    6: PaperFigure(figures.by_scans_figure("nnunet"), _pair("automatic", "nnunet")),
    7: PaperFigure(figures.figure7, _pair("automatic")),
    8: PaperFigure(figures.figure8, _runs, evaluates=False),
    9: PaperFigure(figures.by_scans_figure("simpleunet"), _pair("automatic", "simpleunet")),
    10: PaperFigure(figures.by_scans_figure("swinunet"), _pair("automatic", "swinunet")),
    11: PaperFigure(figures.figure11, _pair("interactive")),
}


def check(title: str, item: Table | PaperFigure, results: Results) -> None:
    """Checks that a table or figure can be made.

    Args:
        title: such as "Figure 4".
        item: it.
        results: of the runs that are given.

    Raises:
        ValueError: it needs other runs, or data of its own.
    """
    missing = item.needs(results)
    if missing:
        given = ", ".join(f"{m.name} ({m.size}, {m.config.mode})" for m in results.models) or "no runs"
        raise ValueError(f"{title}: needs {missing}; given: {given}")
    if item.evaluates and not results.data:
        for model in results.models:
            if model.config.validation_data:
                raise ValueError(
                    f"{title}: {model.folders[0]} was trained on all subjects of its data, expected others (--data)"
                )


def check_names(results: Results) -> None:
    """Checks that no two data sets have the same name, by which rows and panels are told apart.

    Args:
        results: of the runs that are given.

    Raises:
        ValueError: two have.
    """
    paths: dict[str, str] = {}
    for path in (path for model in results.models for path in (*results.data_of(model), *model.config.data)):
        resolved = str(Path(path).resolve())
        other = paths.setdefault(data_name(path), resolved)
        if other != resolved:
            raise ValueError(f"{path}: has the name of {other}, expected data sets of different names")

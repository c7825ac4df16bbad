"""`interconv report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command, add_data, add_device, add_split, device_of, positive_int, warn_if_trained_on

if TYPE_CHECKING:
    from ..paper.items import PaperFigure, Table
    from ..paper.results import Results

EXAMPLE = """\
  interconv report --table 4 5 6 --out report/
  interconv report runs/interconv/seed* runs/baseline/seed* --table 1 3 --figure 7 9 --out report/
  interconv report runs/clicks/seed0 runs/baseline/seed0 --data wbc.npz scd.npz --figure 4 5 --up-to --out report/"""
TABLES = range(1, 9)
FIGURES = (1, *range(4, 12))


def add(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = add_command(
        subparsers, "report", run, "make the paper's tables and figures from runs and their baselines", EXAMPLE
    )
    parser.add_argument("runs", metavar="RUN", nargs="*", type=Path, help="folders of runs, with those of baselines")
    parser.add_argument("--table", metavar="N", nargs="+", type=int, choices=TABLES, default=[], help="tables 1 to 8")
    parser.add_argument(
        "--figure", metavar="N", nargs="+", type=int, choices=FIGURES, default=[], help="figures 1 and 4 to 11"
    )
    parser.add_argument("--up-to", action="store_true", help="the largest gains of all conditions")
    add_data(parser, "data sets to evaluate on (default: the test subjects of each run's own data)")
    parser.add_argument(
        "--part", choices=("test", "validation", "train"), help="part of the subjects (default: test; of --data all)"
    )
    add_split(parser)
    for option, default, text in (
        ("--set-sizes", [1, 2, 4, 8], "images in a set (interactive mode; default: 1 2 4 8)"),
        ("--prompts", [1, 2, 4, 8], "numbers of positive prompts, and of negative ones (default: 1 2 4 8)"),
    ):
        parser.add_argument(option, metavar="N", nargs="+", type=positive_int, default=default, help=text)
    parser.add_argument(
        "--prompt-seeds", metavar="N", type=positive_int, default=5, help="repetitions with other prompts (default: 5)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for tables (.md) and figures (.png)")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Makes what is asked for, after all of it has been checked."""
    from interconv_kernels._files import write_text

    from ..paper import items

    results = _results(args)
    tables = {f"table{n}": items.TABLES[n] for n in args.table} | ({"up_to": items.UP_TO} if args.up_to else {})
    figures = {f"figure{n}": items.FIGURES[n] for n in args.figure}
    _check(args, {**tables, **figures}, results)
    for name, table in tables.items():
        text = table.text(results)
        print(f"{_title(name)}\n\n{text}\n")
        write_text(args.out / f"{name}.md", text + "\n")
    for name, figure in figures.items():
        figure.draw(results, args.out / f"{name}.png")
    print(f"{', '.join([*(f'{name}.md' for name in tables), *(f'{name}.png' for name in figures)])}: {args.out}")
    return 0


def _results(args: argparse.Namespace) -> Results:
    from ..data import Split
    from ..paper.models import find_models
    from ..paper.results import Conditions, Results

    conditions = Conditions(
        tuple(args.set_sizes),
        tuple(args.prompts),
        args.prompt_seeds,
        part=args.part or (None if args.data else "test"),
        split=None if args.split is None else Split.read(args.split),
        device=device_of(args),
    )
    models = find_models(args.runs)
    if args.data:
        warn_if_trained_on([model.config for model in models], args)
    return Results(models, tuple(args.data or ()), conditions)


def _check(args: argparse.Namespace, wanted: dict[str, Table | PaperFigure], results: Results) -> None:
    from ..paper import items
    from ..runs import Run

    if not wanted:
        raise ValueError("nothing to report: expected --table, --figure or --up-to")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out}: is no folder, expected one for tables and figures")
    items.check_names(results)
    for name, item in wanted.items():
        items.check(_title(name), item, results)
    if any(item.evaluates for item in wanted.values()):
        for folder in args.runs:
            Run.open(folder)  # weights that cannot be used are reported before hours of evaluation
        if len(results.models) > 2:  # the best size is chosen; a network and its baseline leave no choice
            for model in results.models:
                model.validation_dice  # noqa: B018  # read here, so that a missing metrics.csv is reported, too


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Table", "Table ").replace("Figure", "Figure ")

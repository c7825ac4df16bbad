"""`interconv evaluate`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command, add_data, add_device, add_runs, device_of, positive

if TYPE_CHECKING:
    from ..data import Group
    from ..evaluation import Ensemble

EXAMPLE = """\
  interconv evaluate runs/interconv/seed* --baseline runs/baseline/seed* --data scans/ --part test --out results/"""
SHOWN = 4  # images in the picture


def add(subparsers: Any) -> None:
    """The command's options."""
    parser = add_command(
        subparsers, "evaluate", "Dice on labelled data, by set size and prompts, against a baseline", EXAMPLE
    )
    add_runs(parser)
    parser.add_argument("--baseline", metavar="RUN", nargs="+", type=Path, help="runs to compare with")
    add_data(parser, "folders or .npz files with masks", required=True)
    parser.add_argument("--part", choices=("test", "validation", "train"), help="of the subjects (default: all)")
    parser.add_argument(
        "--set-sizes",
        metavar="K",
        nargs="+",
        type=_set_size,
        help="numbers, or 'all' of a group (default: 1 2 4 8; automatic mode: all)",
    )
    parser.add_argument(
        "--prompts", metavar="N", nargs="+", type=positive, default=[1, 2, 4, 8], help="default: 1 2 4 8; interactive"
    )
    parser.add_argument("--kind", choices=("mixed", "scribble", "click"), default="mixed", help="of prompts")
    parser.add_argument("--prompt-seeds", metavar="N", type=positive, default=5, help="runs (default: 5; interactive)")
    parser.add_argument(
        "--unit", choices=("sample", "subject"), default="sample", help="of means and intervals (default: sample)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder for tables and pictures")
    add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write tables and pictures."""
    from .. import plots, reports
    from ..atomic import write_text
    from ..evaluation import Ensemble, evaluate
    from ..preparation import load_groups
    from ..runs import Run, same_task

    device = device_of(args)
    opened = {folder: Run.open(folder, device) for folder in [*args.runs, *(args.baseline or [])]}
    config = same_task(list(opened.values()))
    ours = Ensemble([opened[folder] for folder in args.runs], device)
    theirs = Ensemble([opened[folder] for folder in args.baseline], device) if args.baseline else None
    seen = {path for run in opened.values() for path in (*run.config.data, *run.config.validation_data)}
    if args.part != "test" and not seen.isdisjoint(str(Path(path).resolve()) for path in args.data):
        print("interconv: these data were trained on; --part test takes the subjects that were not", file=sys.stderr)
    groups = load_groups(config, args.data, args.part)
    interactive = config.mode == "interactive"
    set_sizes = args.set_sizes or ([1, 2, 4, 8] if interactive else ["all"])
    conditions: dict[str, Any] = {
        "set_sizes": [None if k == "all" else k for k in set_sizes],
        "prompts": args.prompts if interactive else (0,),
        "seeds": range(args.prompt_seeds) if interactive else (0,),
        "kind": args.kind,
    }
    scores = evaluate(ours, groups, **conditions)
    base = None if theirs is None else evaluate(theirs, groups, **conditions)
    if all(math.isnan(score.mean) for score in scores):
        raise ValueError(f"{', '.join(args.data)}: no mask has a structure, expected labelled images")

    rows = reports.summarize(scores, base, args.unit)
    structures = ours.structures
    table = reports.markdown(rows, structures)
    print(f"{len(groups)} groups, mean over {args.unit}s:\n\n{table}\n")
    write_text(args.out / "scores.csv", reports.scores_csv(scores, structures))
    if base is not None:
        write_text(args.out / "baseline_scores.csv", reports.scores_csv(base, structures))
    write_text(args.out / "summary.csv", reports.rows_csv(rows, structures))
    write_text(args.out / "summary.md", table + "\n")
    sized = [row for row in rows if row.set_size is not None]
    if base is not None and sized:
        plots.improvement_by_set_size(args.out / "improvement_by_set_size.png", sized)
    if None in conditions["set_sizes"]:
        whole = [[score for score in found if score.set_size is None] for found in (scores, base or [])]
        by_scans = reports.summarize(whole[0], whole[1] or None, args.unit, by_scans=True)
        write_text(args.out / "by_scans.csv", reports.rows_csv(by_scans, structures))
        write_text(args.out / "by_scans.md", reports.markdown(by_scans, structures) + "\n")
        if base is not None:
            for number in conditions["prompts"]:
                name = f"improvement_by_scans_{number}_prompts.png" if number else "improvement_by_scans.png"
                plots.improvement_by_scans(args.out / name, [row for row in by_scans if row.prompts == number])
    _draw(args.out / "overlays.png", {"baseline": theirs, "network": ours}, groups, args)
    print(f"Tables and pictures: {args.out}")
    return 0


def _draw(path: Path, ensembles: dict[str, Ensemble | None], groups: Sequence[Group], args: argparse.Namespace) -> None:
    """The first images of the largest group, segmented as one set; in interactive mode with the fewest prompts."""
    from dataclasses import replace
    from functools import partial

    from .. import plots
    from ..data import collate
    from ..evaluation import dice_of
    from ..prompts import draw_prompts

    group = max(groups, key=lambda group: min(len(group.samples), SHOWN))
    shown = replace(group, samples=group.samples[: 2 * SHOWN])
    interactive = group.label is not None
    number = min(args.prompts)
    drawn = partial(draw_prompts, positive=number, negative=number, kind=args.kind) if interactive else None
    batch = collate([shown], prompts=drawn)
    assert batch.masks is not None
    columns, dice = {"truth": batch.masks[:SHOWN]}, {}
    structures: list[str] = []
    for name, ensemble in ensembles.items():
        if ensemble is None:
            continue
        predicted = ensemble.probabilities(batch).argmax(1).cpu()
        structures = ensemble.structures
        title = name if ensemble.config.interconv is None else f"InterConv, K = {len(batch.images)}"
        columns[title] = predicted[:SHOWN]
        dice[title] = dice_of(predicted, batch.masks, 1 + len(structures)).nanmean(1).tolist()
    prompts = None if batch.prompts is None else batch.prompts[:SHOWN]
    plots.overlays(path, batch.images[:SHOWN].mean(1), columns, structures, dice, prompts)


def _set_size(text: str) -> int | str:
    return text if text == "all" else positive(text)

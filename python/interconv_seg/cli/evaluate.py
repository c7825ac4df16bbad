"""`interconv evaluate`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_command,
    add_data,
    add_device,
    add_inference,
    add_memory,
    add_prompt_kinds,
    add_runs,
    add_split,
    device_of,
    positive_float,
    positive_int,
    store_of,
    warn_if_trained_on,
)

if TYPE_CHECKING:
    from ..config import Config
    from ..data import Group, Split
    from ..evaluation import Score
    from ..inference import Ensemble

EXAMPLE = """\
  interconv evaluate runs/interconv/seed* --baseline runs/baseline/seed* --data scans/ --part test --out results/"""
SHOWN_IMAGES = 4


def add(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = add_command(
        subparsers,
        "evaluate",
        run,
        "measure Dice on labelled data, by set size and number of prompts, against a baseline",
        EXAMPLE,
    )
    add_runs(parser)
    parser.add_argument("--baseline", metavar="RUN", nargs="+", type=Path, help="runs to compare with")
    add_data(parser, "folders or .npz files with masks", required=True)
    parser.add_argument("--part", choices=("test", "validation", "train"), help="part of the subjects (default: all)")
    add_split(parser)
    parser.add_argument(
        "--set-sizes",
        metavar="K",
        nargs="+",
        type=_set_size,
        help="images in a set, or 'all' of a group (default: 1 2 4 8; in automatic mode: all)",
    )
    parser.add_argument(
        "--prompts",
        metavar="N",
        nargs="+",
        type=_number_or_folder,
        default=[1, 2, 4, 8],
        help="numbers of positive prompts, and of negative ones; or a folder of prompts that users drew, as for"
        " `interconv segment` (interactive mode; default: 1 2 4 8)",
    )
    add_prompt_kinds(parser, " (default: {})")
    parser.add_argument("--boxes", action="store_true", help="each image has the smallest box around the label, too")
    parser.add_argument(
        "--rounds",
        metavar="R",
        type=positive_int,
        default=1,
        help="after each round but the last, add a prompt to each image where its segmentation is wrong (interactive"
        " mode; default: 1)",
    )
    parser.add_argument(
        "--corrections", metavar="N", type=positive_int, default=1, help="prompts to add in a round (default: 1)"
    )
    parser.add_argument(
        "--prompt-seeds",
        metavar="N",
        type=positive_int,
        default=5,
        help="number of repetitions with other prompts (interactive mode; default: 5)",
    )
    parser.add_argument(
        "--unit",
        choices=("sample", "subject", "group"),
        default="sample",
        help="unit of means and intervals (default: sample; with --native an image or a volume)",
    )
    parser.add_argument(
        "--native",
        action="store_true",
        help="measure whole volumes at their stored resolution, also HD95 and surface Dice (in mm)",
    )
    parser.add_argument(
        "--tolerance",
        metavar="MM",
        type=positive_float,
        default=2.0,
        help="of surface Dice, in mm, or pixels where the spacing is not known (default: 2)",
    )
    add_inference(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for tables and pictures")
    add_device(parser)
    add_memory(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates, prints the table, and writes tables and pictures."""
    from ..evaluation import evaluate
    from ..preparation import MIN_TASK_IMAGES, groups_of, read_data, recorded_prompts
    from ..stored_truth import StoredTruth

    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out}: is no folder, expected one for tables and pictures")
    network, baseline = _open(args)
    config = replace(network.config, size=None) if args.window else network.config
    collections = read_data(config, args.data)
    folder = _prompt_folder(config, args)
    min_images = MIN_TASK_IMAGES if folder is None else 1
    groups = groups_of(config, collections, args.part, min_images, _split(args), store_of(args, args.out))
    conditions = _conditions(config, args)
    if folder is not None:
        groups, conditions["recorded"] = recorded_prompts(config, collections, groups, folder)
    conditions["stored"] = StoredTruth(config, collections, args.tolerance) if args.native else None
    scores = evaluate(network, groups, **conditions)
    baseline_scores = None if baseline is None else evaluate(baseline, groups, **conditions)
    if all(math.isnan(score.mean) for score in scores):
        raise ValueError(f"{', '.join(args.data)}: no mask has a structure, expected labelled images")
    table = _write_summary(args, scores, baseline_scores, network.structures)
    print(f"{len(groups)} groups, mean over {args.unit}s:\n\n{table}\n")
    if None in conditions["set_sizes"]:
        _write_by_scans(args, scores, baseline_scores, network.structures)
    ensembles = {"network": network} if baseline is None else {"baseline": baseline, "network": network}
    _draw(args, groups, ensembles, conditions)
    print(f"Tables and pictures: {args.out}")
    return 0


def _split(args: argparse.Namespace) -> Split | None:
    """The split that is given, or that of the first run."""
    from ..data import Split

    file = args.split or args.runs[0] / "split.json"
    return Split.read(file) if args.split is not None or file.exists() else None


def _open(args: argparse.Namespace) -> tuple[Ensemble, Ensemble | None]:
    """The network and the baseline. Warns if the data are those of the training."""
    from ..inference import Ensemble
    from ..runs import Run, common_config

    device = device_of(args)
    runs, baseline_runs = ([Run.open(folder, device) for folder in part] for part in (args.runs, args.baseline or []))
    common_config([*runs, *baseline_runs])
    warn_if_trained_on([run.config for run in [*runs, *baseline_runs]], args)
    options = (device, args.window, args.tta)
    return Ensemble(runs, *options), Ensemble(baseline_runs, *options) if baseline_runs else None


def _conditions(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `evaluate` for set sizes and prompts."""
    interactive = config.mode == "interactive"
    simulated = interactive and _prompt_folder(config, args) is None
    set_sizes = args.set_sizes or ([1, 2, 4, 8] if interactive else ["all"])
    return {
        "set_sizes": [None if k == "all" else k for k in set_sizes],
        "prompts": args.prompts if simulated else (0,),
        "seeds": range(args.prompt_seeds) if interactive else (0,),
        **_prompt_kinds(args),
        "boxes": args.boxes,
        "rounds": args.rounds,
        "corrections": args.corrections,
    }


def _prompt_kinds(args: argparse.Namespace) -> dict[str, Any]:
    return {"kind": args.kind or "mixed", "scribbles": args.scribbles or "stroke"}


def _prompt_folder(config: Config, args: argparse.Namespace) -> Path | None:
    """The folder of recorded prompts; None: prompts are simulated, or there are none."""
    folders = [given for given in args.prompts if isinstance(given, Path)]
    if not folders or config.mode == "automatic":
        return None
    if len(args.prompts) > 1:
        raise ValueError(f"--prompts {folders[0]}: expected one folder, or numbers")
    return folders[0]


def _write_summary(
    args: argparse.Namespace, scores: Sequence[Score], baseline: Sequence[Score] | None, structures: Sequence[str]
) -> str:
    """Writes all scores, and the summary by set size and prompts with its picture; returns its table."""
    from interconv_kernels._files import write_text

    from .. import plots, reports

    write_text(args.out / "scores.csv", reports.scores_csv(scores, structures))
    if baseline is not None:
        write_text(args.out / "baseline_scores.csv", reports.scores_csv(baseline, structures))
    summaries = reports.summarize(scores, baseline, args.unit)
    table = reports.summary_markdown(summaries, structures)
    write_text(args.out / "summary.csv", reports.summary_csv(summaries, structures))
    write_text(args.out / "summary.md", table + "\n")
    if len({score.task for score in scores}) > 1:
        by_task = reports.summarize(scores, baseline, args.unit, by_task=True)
        write_text(args.out / "by_task.csv", reports.summary_csv(by_task, structures))
        write_text(args.out / "by_task.md", reports.summary_markdown(by_task, structures) + "\n")
    numbered = [summary for summary in summaries if summary.set_size is not None and summary.round == 1]
    if baseline is not None and numbered:
        plots.improvement_by_set_size(args.out / "improvement_by_set_size.png", numbered)
    return table


def _write_by_scans(
    args: argparse.Namespace, scores: Sequence[Score], baseline: Sequence[Score] | None, structures: Sequence[str]
) -> None:
    """Writes the summary by number of scans, and its pictures, for sets that are whole groups."""
    from interconv_kernels._files import write_text

    from .. import plots, reports

    whole, whole_baseline = (
        None if part is None else [score for score in part if score.set_size is None and score.round == 1]
        for part in (scores, baseline)
    )
    summaries = reports.summarize(whole or [], whole_baseline, args.unit, by_scans=True)
    write_text(args.out / "by_scans.csv", reports.summary_csv(summaries, structures))
    write_text(args.out / "by_scans.md", reports.summary_markdown(summaries, structures) + "\n")
    if baseline is not None:
        for count in sorted({summary.prompts for summary in summaries}):
            name = f"improvement_by_scans_{count}_prompts.png" if count else "improvement_by_scans.png"
            plots.improvement_by_scans(args.out / name, [s for s in summaries if s.prompts == count])


def _draw(
    args: argparse.Namespace, groups: Sequence[Group], ensembles: Mapping[str, Ensemble], conditions: Mapping[str, Any]
) -> None:
    """Draws the first images of the largest group, segmented as one set, with the fewest prompts."""
    from dataclasses import replace

    from .. import plots
    from ..data import collate
    from ..evaluation import prompt_maker, with_recorded

    group = max(groups, key=lambda group: min(len(group.samples), SHOWN_IMAGES))
    group = replace(group, samples=group.samples[: 2 * SHOWN_IMAGES])
    config, recorded = ensembles["network"].config, conditions.get("recorded")
    simulate = prompt_maker(config, min(conditions["prompts"]), **_prompt_kinds(args), boxes=args.boxes)
    batch = collate([group], prompts=simulate)
    if recorded is not None:
        batch = with_recorded(batch, recorded[group.name], config)
    assert batch.masks is not None
    predictions = {}
    for name, ensemble in ensembles.items():
        title = name if ensemble.config.interconv is None else f"{name}, K = {len(batch.images)}"
        predictions[title] = ensemble.probabilities(batch).argmax(1).cpu()[:SHOWN_IMAGES]
    structures = ensembles["network"].structures
    images, masks = batch.images[:SHOWN_IMAGES].mean(1), batch.masks[:SHOWN_IMAGES]
    prompts = None if batch.prompts is None else batch.prompts[:SHOWN_IMAGES]
    plots.overlays(args.out / "overlays.png", images, masks, predictions, structures, prompts)


def _set_size(text: str) -> int | str:
    return text if text == "all" else positive_int(text)


def _number_or_folder(text: str) -> int | Path:
    return positive_int(text) if text.isdecimal() else Path(text)

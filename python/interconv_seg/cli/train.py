"""`interconv train`."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .interrupts import ctrl_c
from .options import (
    add_command,
    add_data,
    add_device,
    add_grouping,
    add_memory,
    add_prompt_kinds,
    add_sets_of,
    add_split,
    add_workers,
    device_of,
    image_size,
    positive_int,
    set_sizes,
    store_of,
    weight,
    workers_of,
)

if TYPE_CHECKING:
    from ..config import Config
    from ..data import Group, Part, Split, TensorStore

EXAMPLE = """\
  interconv train --mode automatic --data scans/ --network simpleunet-60K --out runs/interconv --seeds 0 1 2
  interconv train --mode automatic --data scans/ --network simpleunet-60K --interconv none --out runs/baseline
  interconv train --resume runs/interconv/seed1"""
PARTS: tuple[Part, ...] = ("train", "validation")


def add(subparsers: Any) -> None:
    """Adds the command and its options. Options that are not given have the value None."""
    parser = add_command(subparsers, "train", run, "train a network, once for each seed, or resume runs", EXAMPLE)
    start = parser.add_argument_group("start")
    start.add_argument("--resume", metavar="RUN", nargs="+", type=Path, help="resume these runs, with their options")
    start.add_argument(
        "--extend", metavar="STEPS", type=positive_int, help="with --resume: train for this many steps more"
    )
    start.add_argument(
        "--fine-tune",
        metavar="RUN",
        type=Path,
        help="start from the best weights of this run, and take its network unless another is given",
    )
    start.add_argument(
        "--warm-start",
        metavar="RUN",
        type=Path,
        help="give the network of this run, a baseline, InterConv layers that change nothing at first, and train it",
    )
    start.add_argument(
        "--recipe",
        choices=("small", "synthetic", "paper-interactive", "paper-automatic", "nnunet"),
        help="take what is not given from this recipe",
    )
    start.add_argument(
        "--config", metavar="FILE", type=Path, help="take what is not given from this YAML file, as runs have it"
    )
    start.add_argument("--out", type=Path, help="folder for the runs OUT/seed0, ...")
    start.add_argument("--seeds", metavar="N", type=int, nargs="+", help="seeds, one run for each (default: 0)")
    task = parser.add_argument_group("task")
    task.add_argument("--mode", choices=("interactive", "automatic"), help="binary from prompts, or into classes")
    add_data(
        task,
        "folders or .npz files; without --validation, 60 %% of the subjects are for training, 20 %% for validation",
    )
    task.add_argument("--validation", metavar="PATH", nargs="+", help="other folders or .npz files to validate on")
    task.add_argument(
        "--hold-out",
        action="store_true",
        default=None,
        help="with --validation: split the subjects of all data sets; train on 60 %% of --data, validate on 20 %% of"
        " them, too, and on 20 %% of --validation",
    )
    task.add_argument(
        "--size", metavar="HxW", type=image_size, help="size of the images, or 'stored' (default: 128x128)"
    )
    task.add_argument("--channels", type=positive_int, help="channels of the images (default: 1)")
    task.add_argument(
        "--axis",
        choices=("sagittal", "coronal", "axial"),
        help="anatomical plane of the slices of volumes (default: axial)",
    )
    task.add_argument(
        "--slices",
        metavar="WHICH",
        help="slices of volumes: all, middle, largest (with most labelled pixels) or every:N (default: all)",
    )
    add_grouping(task)
    add_sets_of(task, "a task in interactive mode, a subject in automatic mode")
    task.add_argument(
        "--one-per-subject",
        action="store_true",
        default=None,
        help="interactive mode: of each subject only the image with the largest area of the label",
    )
    add_split(task)
    network = parser.add_argument_group("network")
    network.add_argument("--network", help="a name that `interconv models` lists (default: simpleunet-60K)")
    network.add_argument(
        "--interconv",
        choices=("replace", "append", "none"),
        help="placement of InterConv; none: the baseline (default: replace)",
    )
    network.add_argument(
        "--features",
        metavar="F",
        type=positive_int,
        nargs="+",
        help="features of the layers, only if --network is a family",
    )
    training = parser.add_argument_group("training")
    training.add_argument("--sets-per-batch", metavar="B", type=positive_int, help="sets in a batch (default: 8)")
    training.add_argument(
        "--images-per-batch",
        metavar="N",
        type=positive_int,
        help="instead: images in a batch, of sets each with a size of its own",
    )
    training.add_argument(
        "--set-sizes",
        metavar="MIN-MAX",
        type=set_sizes,
        help="images in a set, or 'all' of a group (default: 1-8; in automatic mode: all)",
    )
    training.add_argument(
        "--sampling",
        choices=("hierarchical", "even"),
        help="how tasks are sampled: first the data set, then modality and axis, then the label; or each alike"
        " (default: hierarchical; in automatic mode: even)",
    )
    training.add_argument(
        "--weights",
        metavar="NAME=W",
        type=weight,
        nargs="+",
        help="with hierarchical sampling: weights of data sets or of parts of them, such as heart=2 heart/mr=0.5"
        " (default: 1)",
    )
    training.add_argument(
        "--augmentation",
        choices=("none", "small", "scribbleprompt", "nnunet", "sets", "sets-apart"),
        help="random changes of each image; 'sets' and 'sets-apart' also of the whole set (default: small)",
    )
    training.add_argument(
        "--set-augmentation",
        choices=("none", "small", "scribbleprompt", "nnunet"),
        help="random changes that all images of a set share (default: none)",
    )
    add_prompt_kinds(training, " (interactive mode; default: {})")
    training.add_argument(
        "--boxes",
        metavar="P",
        type=float,
        help="probability of a box around the label; above 0, the network has a channel for boxes (interactive mode;"
        " default: 0)",
    )
    training.add_argument(
        "--rounds",
        metavar="R",
        type=positive_int,
        help="passes of each step; from the second on, prompts are added where the prediction is wrong (interactive"
        " mode; default: 1)",
    )
    training.add_argument(
        "--prompted",
        choices=("all", "some"),
        help="which images of a set have prompts (interactive mode; default: all)",
    )
    training.add_argument(
        "--few-prompts",
        metavar="PART",
        type=float,
        help="part of the batches with 1 or 2 positive prompts (interactive mode; default: 0)",
    )
    training.add_argument("--steps", type=positive_int, help="maximum number of steps (default: 100000)")
    training.add_argument("--interval", type=positive_int, help="steps between validations (default: 125)")
    training.add_argument(
        "--patience",
        type=positive_int,
        help="steps without a lower validation loss before training stops (default: 40000)",
    )
    training.add_argument(
        "--selection",
        choices=("loss", "dice"),
        help="keep the weights of the lowest validation loss or of the highest validation Dice (default: loss)",
    )
    training.add_argument("--optimizer", choices=("adam", "sgd"), help="sgd: as nnU-Net's (default: adam)")
    training.add_argument("--learning-rate", type=float, help="learning rate (default: 0.001)")
    training.add_argument(
        "--schedule", choices=("constant", "cosine", "poly"), help="schedule of the learning rate (default: constant)"
    )
    training.add_argument(
        "--warmup", metavar="STEPS", type=int, help="steps in which the learning rate grows (default: 0)"
    )
    training.add_argument(
        "--ema", metavar="DECAY", type=float, help="average the weights with this decay, such as 0.999"
    )
    training.add_argument("--clip", metavar="NORM", type=float, help="maximum norm of the gradient (default: no limit)")
    training.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="precision of the network, by autocast (default: float32)",
    )
    training.add_argument(
        "--accumulate", type=positive_int, help="split each batch into this many parts, to save memory (default: 1)"
    )
    execution = parser.add_argument_group("execution")
    add_device(execution)
    add_workers(execution)
    add_memory(execution)
    execution.add_argument(
        "--deterministic", action="store_true", help="the same bits in every run on a GPU, too, at lower speed"
    )
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Trains the run of each seed, one after the other."""
    if args.extend is not None and args.resume is None:
        args.parser.error("--extend: expected --resume with it")
    import torch

    from ..config import FILE
    from ..data import Split

    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it
        torch.use_deterministic_algorithms(True)
    device = device_of(args)
    if args.resume is not None:
        runs = [(folder, _resumed(args, folder)) for folder in args.resume]
    else:
        runs = [(args.out / f"seed{config.seed}", config) for config in _configs(args)]
        for folder, _ in runs:
            if (folder / FILE).exists():
                raise ValueError(f"{folder}: holds a run, expected a new folder, or --resume {folder}")
    if args.split is not None and any(config.validation_data and not config.hold_out for _, config in runs):
        args.parser.error("--split: expected no --validation with it, or --hold-out")
    split = None if args.split is None else Split.read(args.split)
    for folder, config in runs:
        _train(folder, config, split, device, workers_of(args, device), store_of(args, folder))
    return 0


def _train(folder: Path, config: Config, split: Split | None, device: str, workers: int, store: TensorStore) -> None:
    """Trains or resumes one run."""
    from ..data import Split
    from ..preparation import (
        check_disjoint,
        check_unchanged,
        groups_of,
        read_data,
        training_batches,
        validation_batches,
    )
    from ..training import train

    collections, others = read_data(config, config.data), read_data(config, config.validation_data)
    check_disjoint(collections, others)
    held_out: list[Group] = []
    if config.validation_data and not config.hold_out:
        groups, validation = (groups_of(config, found, min_images=1, store=store) for found in (collections, others))
    else:
        if not (folder / "split.json").exists():
            split = split or Split.of([*collections, *others])
            for collection in [*collections, *others]:
                split.select(collection, "train")  # a split that is given must know all data sets
            split.write(folder / "split.json")
        split = Split.read(folder / "split.json")
        groups, validation = (groups_of(config, collections, part, 1, split, store) for part in PARTS)
        if others:
            held_out, validation = validation, groups_of(config, others, "validation", 1, split, store)
    check_unchanged(folder, [*groups, *validation, *held_out])
    counts = f"{len(groups)} groups for training, {len(validation)} for validation"
    counts += f", {len(held_out)} held out" if held_out else ""
    print(f"{folder}: {_about(config)}; {counts}, {device}")
    with ctrl_c() as pressed:
        try:
            training = train(
                folder,
                config,
                training_batches(config, groups),
                validation_batches(config, validation),
                held_out=validation_batches(config, held_out),
                device=device,
                workers=workers,
                interrupted=lambda: bool(pressed),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped; to resume: interconv train --resume {folder}") from None
    reason = "the last step" if training.step == config.steps else f"early stopping, patience {config.patience}"
    value = f"Dice {1 - training.best_loss:.3f}" if config.selection == "dice" else f"loss {training.best_loss:.4f}"
    best = f"best at step {training.best_step}, validation {value}"
    print(f"{folder}: ended at step {training.step} ({reason}); {best}")


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The entries of a Config that the options give."""
    from ..config import Config
    from ..data.synthetic import absolute

    given = {entry.name: getattr(args, entry.name, None) for entry in fields(Config)}
    given["data"], given["validation_data"] = (
        paths and tuple(map(absolute, paths)) for paths in (args.data, args.validation)
    )
    if args.weights is not None:
        given["weights"] = dict(args.weights)
    if args.features is not None:
        given["features"] = args.features[0] if len(args.features) == 1 else tuple(args.features)
    given["warm_start"] = None if args.warm_start is None else str(args.warm_start.resolve())
    given = {name: value for name, value in given.items() if value is not None}
    words = {"interconv": "none", "size": "stored", "set_sizes": "all"}  # for None
    return {name: None if value == words.get(name) else value for name, value in given.items()}


def _resumed(args: argparse.Namespace, folder: Path) -> Config:
    """The config of a run to resume, extended if that was asked for.

    Raises:
        ValueError: an option was given that differs from the run.
    """
    from ..config import Config

    config = Config.read(folder)
    differing = [
        f"--{name.replace('_', '-')} {value} (the run has {getattr(config, name)})"
        for name, value in _given(args).items()
        if value != getattr(config, name)
    ]
    starts = ("out", "seeds", "recipe", "config", "fine_tune", "split")
    differing += [f"--{name.replace('_', '-')}" for name in starts if getattr(args, name) is not None]
    if differing:
        raise ValueError(f"{folder}: cannot be resumed with {', '.join(differing)}; --extend trains it for longer")
    if args.extend is not None:
        config = replace(config, steps=config.steps + args.extend)
        config.write(folder)
    return config


def _configs(args: argparse.Namespace) -> list[Config]:
    """The config of each seed: of the options, the YAML file, the recipe and the defaults, in this order."""
    from ..config import Config, read_recipe, read_values
    from ..networks import SIZES
    from ..preparation import labels_of

    values: dict[str, Any] = {"network": "simpleunet-60K", "interconv": "replace"}
    if args.recipe is not None:
        values |= read_recipe(args.recipe)
    if args.fine_tune is not None:
        tuned = Config.read(args.fine_tune)
        values |= {name: getattr(tuned, name) for name in ("network", "interconv", "features")}
        values["initial"] = str(args.fine_tune.resolve())
    if args.config is not None:
        values |= read_values(args.config)
    if args.warm_start is not None:
        baseline = Config.read(args.warm_start)
        family, width, _ = SIZES.get(baseline.network, (baseline.network, baseline.features, None))
        values |= {"network": family, "features": width, "interconv": "replace"}
    values |= _given(args)
    missing = [f"--{name}" for name in ("mode", "data") if not values.get(name)]
    if missing or args.out is None:
        args.parser.error(f"expected {', '.join([*missing, *(['--out'] if args.out is None else [])])} (or --resume)")
    if values["mode"] == "automatic":
        values.setdefault("set_sizes", None)
        values.setdefault("sampling", "even")
        values.setdefault("labels", labels_of(values["data"], values.get("axis", "axial")))
    seeds = args.seeds or [values.get("seed", 0)]
    return [Config(**{**values, "seed": seed}) for seed in seeds]


def _about(config: Config) -> str:
    count = sum(p.numel() for p in config.new_network().parameters())
    placement = "baseline" if config.interconv is None else f"InterConv ({config.interconv})"
    return f"{config.network}, {placement}, {count:,} parameters"

"""`interconv train`."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command, add_data, add_device, add_grouping, add_sets_of, add_split, device_of, positive_int

if TYPE_CHECKING:
    from ..data import Split
    from ..runs import Config

EXAMPLE = """\
  interconv train --mode automatic --data scans/ --network simpleunet-60K --out runs/interconv --seeds 0 1 2
  interconv train --mode automatic --data scans/ --network simpleunet-60K --interconv none --out runs/baseline
  interconv train --resume runs/interconv/seed1"""


def add(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = add_command(subparsers, "train", run, "train a network, once for each seed, or resume runs", EXAMPLE)
    parser.add_argument(
        "--resume", metavar="RUN", nargs="+", type=Path, help="resume these runs; only the execution options apply"
    )
    parser.add_argument(
        "--extend", metavar="STEPS", type=positive_int, help="with --resume: train for this many steps more"
    )
    parser.add_argument(
        "--fine-tune",
        metavar="RUN",
        type=Path,
        help="start from the best weights of this run, and take its network unless another is given",
    )
    task = parser.add_argument_group("task")
    task.add_argument("--mode", choices=("interactive", "automatic"), help="binary from prompts, or into classes")
    add_data(
        task,
        "folders or .npz files; without --validation, 60 %% of the subjects are for training, 20 %% for validation",
    )
    task.add_argument(
        "--validation", metavar="PATH", nargs="+", default=[], help="folders or .npz files to validate on"
    )
    task.add_argument(
        "--size",
        metavar="HxW",
        type=_image_size,
        default=(128, 128),
        help="size of the images, or 'stored' (default: 128x128)",
    )
    task.add_argument("--channels", type=positive_int, default=1, help="channels of the images (default: %(default)s)")
    task.add_argument(
        "--axis",
        choices=("sagittal", "coronal", "axial"),
        default="axial",
        help="anatomical plane of the slices of volumes (default: %(default)s)",
    )
    task.add_argument(
        "--slices",
        metavar="WHICH",
        default="all",
        help="slices of volumes: all, middle, largest (with most labelled pixels) or every:N (default: %(default)s)",
    )
    add_grouping(task)
    add_sets_of(task, "a task in interactive mode, a subject in automatic mode")
    task.add_argument(
        "--one-per-subject",
        action="store_true",
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
    training.add_argument("--out", type=Path, help="folder for the runs OUT/seed0, ...")
    training.add_argument(
        "--seeds", metavar="N", type=int, nargs="+", default=[0], help="seeds, one run for each (default: 0)"
    )
    training.add_argument(
        "--sets-per-batch", metavar="B", type=positive_int, default=8, help="sets in a batch (default: %(default)s)"
    )
    training.add_argument(
        "--set-sizes",
        metavar="MIN-MAX",
        type=_set_sizes,
        help="images in a set, or 'all' of a subject (default: 1-8; in automatic mode: all)",
    )
    training.add_argument("--no-augment", action="store_true", help="do not augment the images")
    training.add_argument(
        "--steps", type=positive_int, default=100_000, help="maximum number of steps (default: %(default)s)"
    )
    training.add_argument("--interval", type=positive_int, default=125, help="steps between validations (default: 125)")
    training.add_argument(
        "--patience",
        type=positive_int,
        default=40_000,
        help="steps without a lower validation loss before training stops (default: %(default)s)",
    )
    training.add_argument(
        "--learning-rate", type=float, default=1e-3, help="learning rate of Adam (default: %(default)s)"
    )
    training.add_argument(
        "--schedule",
        choices=("constant", "cosine"),
        default="constant",
        help="schedule of the learning rate (default: %(default)s)",
    )
    training.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of the network, by autocast (default: %(default)s)",
    )
    training.add_argument(
        "--accumulate",
        type=positive_int,
        default=1,
        help="split each batch into this many parts, to save memory (default: %(default)s)",
    )
    execution = parser.add_argument_group("execution")
    add_device(execution)
    execution.add_argument(
        "--workers", type=int, default=0, help="processes that prepare batches (default: %(default)s)"
    )
    execution.add_argument(
        "--deterministic", action="store_true", help="the same bits in every run on a GPU, too, at lower speed"
    )
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Trains the run of each seed, one after the other."""
    if args.resume is None:
        missing = [name for name in ("mode", "data", "out") if getattr(args, name) is None]
        if missing:
            args.parser.error(f"expected --{', --'.join(missing)} (or --resume)")
    if args.split is not None and args.validation:
        args.parser.error("--split: expected no --validation with it")
    if args.extend is not None and args.resume is None:
        args.parser.error("--extend: expected --resume with it")
    import torch

    from ..data import Split

    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it
        torch.use_deterministic_algorithms(True)
    device = device_of(args)
    if args.resume is not None:
        runs = [(folder, _resumed(args, folder)) for folder in args.resume]
    else:
        runs = [(args.out / f"seed{seed}", _config(args, seed)) for seed in args.seeds]
        for folder, _ in runs:
            if (folder / "config.json").exists():
                raise ValueError(f"{folder}: holds a run, expected a new folder, or --resume {folder}")
    split = None if args.split is None else Split.read(args.split)
    for folder, config in runs:
        _train(folder, config, split, device, args.workers)
    return 0


def _train(folder: Path, config: Config, split: Split | None, device: str, workers: int) -> None:
    """Trains or resumes one run."""
    from ..data import Split, read
    from ..preparation import check_disjoint, check_unchanged, load_groups, training_batches, validation_batches
    from ..training import train

    if config.validation_data:
        check_disjoint(config)
        groups = load_groups(config, config.data, min_images=1)
        held_out = load_groups(config, config.validation_data, min_images=1)
    else:
        if not (folder / "split.json").exists():
            split = split or Split.of(read(path, config.axis, config.group_regex) for path in config.data)
            split.write(folder / "split.json")
        split = Split.read(folder / "split.json")
        groups = load_groups(config, config.data, "train", 1, split)
        held_out = load_groups(config, config.data, "validation", 1, split)
    check_unchanged(folder, [*groups, *held_out])
    print(f"{folder}: {_about(config)}; {len(groups)} groups for training, {len(held_out)} for validation, {device}")
    with _ctrl_c() as pressed:
        try:
            training = train(
                folder,
                config,
                training_batches(config, groups),
                validation_batches(config, held_out),
                device=device,
                workers=workers,
                interrupted=lambda: bool(pressed),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped; to resume: interconv train --resume {folder}") from None
    reason = "the last step" if training.step == config.steps else f"early stopping, patience {config.patience}"
    best = f"best at step {training.best_step}, validation loss {training.best_loss:.4f}"
    print(f"{folder}: ended at step {training.step} ({reason}); {best}")


def _resumed(args: argparse.Namespace, folder: Path) -> Config:
    """The config of a run to resume, extended if that was asked for.

    Raises:
        ValueError: an option was given that differs from the run.
    """
    from ..runs import Config

    config = Config.read(folder)
    own = {"resume", "extend", "device", "workers", "deterministic", "parser", "run"}
    known: dict[str, Any] = {
        **{entry.name: getattr(config, entry.name) for entry in fields(Config)},
        "data": list(config.data),
        "interconv": config.interconv or "none",
        "size": config.size or "stored",
        "set_sizes": config.set_sizes or "all",
    }
    differing = []
    for name, value in vars(args).items():
        if name in own or value == args.parser.get_default(name):
            continue
        given = [str(Path(path).resolve()) for path in value] if name == "data" else value
        if given != known.get(name):
            differing.append(f"--{name.replace('_', '-')} {value} (the run has {known.get(name, 'no such entry')})")
    if differing:
        raise ValueError(f"{folder}: cannot be resumed with {', '.join(differing)}; --extend trains it for longer")
    if args.extend is not None:
        config = replace(config, steps=config.steps + args.extend)
        config.write(folder)
    return config


def _config(args: argparse.Namespace, seed: int) -> Config:
    from ..preparation import labels_of
    from ..runs import Config

    network: Any = {"network": "simpleunet-60K", "interconv": "replace", "features": None}
    if args.fine_tune is not None:
        tuned = Config.read(args.fine_tune)
        network = {name: getattr(tuned, name) for name in network}
    for name, value in (("network", args.network), ("interconv", args.interconv), ("features", args.features)):
        if value is not None:
            network[name] = value
    if isinstance(network["features"], list):
        network["features"] = network["features"][0] if len(network["features"]) == 1 else tuple(network["features"])
    if network["interconv"] == "none":
        network["interconv"] = None

    set_sizes: Any = args.set_sizes or ((1, 8) if args.mode == "interactive" else "all")
    # All options that have the name of a field; the fields below differ from their options.
    values = {entry.name: getattr(args, entry.name) for entry in fields(Config) if hasattr(args, entry.name)}
    values |= {
        **network,
        "initial": None if args.fine_tune is None else str(args.fine_tune.resolve()),
        "labels": labels_of(args.data, args.axis) if args.mode == "automatic" else {},
        "data": tuple(str(Path(path).resolve()) for path in args.data),
        "validation_data": tuple(str(Path(path).resolve()) for path in args.validation),
        "size": None if args.size == "stored" else args.size,
        "set_sizes": None if set_sizes == "all" else set_sizes,
        "augment": not args.no_augment,
        "seed": seed,
    }
    return Config(**values)


def _about(config: Config) -> str:
    count = sum(p.numel() for p in config.new_network().parameters())
    placement = "baseline" if config.interconv is None else f"InterConv ({config.interconv})"
    return f"{config.network}, {placement}, {count:,} parameters"


@contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """Yields a list that Ctrl-C appends to. A second Ctrl-C stops the process at once."""
    pressed: list[int] = []

    def handle(number: int, frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)


def _image_size(text: str) -> tuple[int, int] | str:
    if text == "stored":
        return text
    height, _, width = text.partition("x")
    return positive_int(height), positive_int(width)


def _set_sizes(text: str) -> tuple[int, int] | str:
    if text == "all":
        return text
    minimum, _, maximum = text.partition("-")
    return positive_int(minimum), positive_int(maximum)

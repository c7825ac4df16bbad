"""`interconv train`."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command, add_data, add_device, device_of, positive

if TYPE_CHECKING:
    from ..runs import Config

EXAMPLE = """\
  interconv train --mode automatic --data scans/ --network simpleunet-60K --out runs/interconv --seeds 0 1 2
  interconv train --mode automatic --data scans/ --network simpleunet-60K --interconv none --out runs/baseline
  interconv train --resume runs/interconv/seed1"""


def add(subparsers: Any) -> None:
    """The command's options."""
    parser = add_command(subparsers, "train", "train a network, once for each seed, or go on with a run", EXAMPLE)
    parser.add_argument("--resume", metavar="RUN", nargs="+", type=Path, help="go on with these; no other choice")
    task = parser.add_argument_group("what is learnt")
    task.add_argument("--mode", choices=("interactive", "automatic"), help="from prompts, or into classes")
    add_data(task, "folders or .npz files; without --validation, 60 %% of the subjects are trained on, 20 %% validate")  # type: ignore[arg-type]
    task.add_argument("--validation", metavar="PATH", nargs="+", default=[], help="data to validate on")
    task.add_argument("--size", type=_size, default=(128, 128), help="HxW or 'stored' (default: 128x128)")
    task.add_argument("--channels", type=positive, default=1, help="of the images (default: %(default)s)")
    task.add_argument("--axis", type=int, choices=(0, 1, 2), default=2, help="that volumes are sliced along")
    network = parser.add_argument_group("network")
    network.add_argument("--network", default="simpleunet-60K", help="see `interconv models` (default: %(default)s)")
    network.add_argument("--interconv", choices=("replace", "append", "none"), default="replace")
    network.add_argument("--features", type=positive, nargs="+", help="where --network is a family")
    training = parser.add_argument_group("training")
    training.add_argument("--out", type=Path, help="the runs' folder: OUT/seed0, ...")
    training.add_argument("--seeds", type=int, nargs="+", default=[0], help="a run for each (default: 0)")
    training.add_argument("--sets", type=positive, default=8, help="in a batch (default: %(default)s)")
    training.add_argument(
        "--set-sizes", type=_sizes, help="LEAST-MOST images in a set, or 'all' (default: 1-8; automatic mode: all)"
    )
    training.add_argument("--no-augment", action="store_true", help="images as they are")
    training.add_argument("--steps", type=positive, default=100_000, help="at most (default: %(default)s)")
    training.add_argument("--interval", type=positive, default=125, help="steps between validations (default: 125)")
    training.add_argument("--patience", type=positive, default=40_000, help="steps without a better validation loss")
    training.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam (default: %(default)s)")
    training.add_argument("--schedule", choices=("constant", "cosine"), default="constant")
    training.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    training.add_argument("--accumulate", type=positive, default=1, help="parts of a batch, to save memory")
    running = parser.add_argument_group("running")
    add_device(running)  # type: ignore[arg-type]
    running.add_argument("--workers", type=int, default=0, help="processes that prepare batches (default: 0)")
    running.add_argument("--deterministic", action="store_true", help="the same bits on a GPU too, slower")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Train each seed's run in turn."""
    if args.resume is None:
        missing = [name for name in ("mode", "data", "out") if getattr(args, name) is None]
        if missing:
            args.parser.error(f"expected --{', --'.join(missing)} (or --resume)")
    import torch

    from ..preparation import load_groups, training_batches, validation_batches
    from ..runs import Config
    from ..training import train

    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    device = device_of(args)
    if args.resume is not None:
        runs = [(folder, Config.read(folder)) for folder in args.resume]
    else:
        runs = [(args.out / f"seed{seed}", _config(args, seed)) for seed in args.seeds]
        for folder, _ in runs:
            if (folder / "config.json").exists():
                raise ValueError(f"{folder}: a run is there already, expected a new folder, or --resume {folder}")
    for folder, config in runs:
        if config.validation_data:
            groups = load_groups(config, config.data, least=1)
            held_out = load_groups(config, config.validation_data, least=1)
        else:
            groups = load_groups(config, config.data, "train", least=1)
            held_out = load_groups(config, config.data, "validation", least=1)
        print(f"{folder}: {_about(config)}; {len(groups)} groups to train on, {len(held_out)} to validate on, {device}")
        with _ctrl_c() as pressed:
            try:
                done = train(
                    folder,
                    config,
                    training_batches(config, groups),
                    validation_batches(config, held_out),
                    device=device,
                    workers=args.workers,
                    interrupted=lambda: bool(pressed),
                )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"stopped; to go on: interconv train --resume {folder}") from None
        ended = "the last step" if done.step == config.steps else f"early, after {config.patience} steps without gain"
        print(f"{folder}: ended at step {done.step} ({ended}); best at {done.best_step}, loss {done.best_loss:.4f}")
    return 0


def _config(args: argparse.Namespace, seed: int) -> Config:
    from ..preparation import labels_of
    from ..runs import Config

    features = args.features
    set_sizes: Any = args.set_sizes or ((1, 8) if args.mode == "interactive" else "all")
    return Config(
        mode=args.mode,
        network=args.network,
        interconv=None if args.interconv == "none" else args.interconv,
        features=None if features is None else features[0] if len(features) == 1 else tuple(features),
        channels=args.channels,
        labels=labels_of(args.data, args.axis) if args.mode == "automatic" else {},
        data=tuple(str(Path(path).resolve()) for path in args.data),
        validation_data=tuple(str(Path(path).resolve()) for path in args.validation),
        size=None if args.size == "stored" else args.size,
        axis=args.axis,
        sets=args.sets,
        set_sizes=None if set_sizes == "all" else set_sizes,
        augment=not args.no_augment,
        steps=args.steps,
        interval=args.interval,
        patience=args.patience,
        learning_rate=args.learning_rate,
        schedule=args.schedule,
        precision=args.precision,
        accumulate=args.accumulate,
        seed=seed,
    )


def _about(config: Config) -> str:
    count = sum(p.numel() for p in config.new_network().parameters())
    placement = "baseline" if config.interconv is None else f"InterConv ({config.interconv})"
    return f"{config.network}, {placement}, {count:,} parameters"


@contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """A list that is no longer empty once Ctrl-C was pressed; pressed again, it stops at once."""
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _size(text: str) -> tuple[int, int] | str:
    if text == "stored":
        return text
    height, _, width = text.partition("x")
    return positive(height), positive(width)


def _sizes(text: str) -> tuple[int, int] | str:
    if text == "all":
        return text
    least, _, most = text.partition("-")
    return positive(least), positive(most)

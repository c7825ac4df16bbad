"""Options that several commands share."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import Config
    from ..data import TensorStore

MAX_WORKERS = 1024


def add_command(
    subparsers: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> argparse.ArgumentParser:
    """Adds a subcommand whose --help ends with an example.

    Args:
        subparsers: of `interconv`.
        name: of the command.
        run: runs the command and returns the exit code.
        summary: what it does, starting with a lower-case verb.
        example: indented command lines.

    Returns:
        The parser of the command.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_data(parser: Any, text: str, **options: Any) -> None:
    """Adds --data, one or several paths.

    Args:
        parser: of a command, or an argument group.
        text: the help.
        options: further arguments of `add_argument`.
    """
    parser.add_argument("--data", metavar="PATH", nargs="+", help=text, **options)


def add_grouping(parser: Any) -> None:
    """Adds --group-regex.

    Args:
        parser: of a command, or an argument group.
    """
    parser.add_argument(
        "--group-regex",
        metavar="REGEX",
        help="finds the subject in the names of cases: 'patient[0-9]+' (default: as the reader of the data says)",
    )


def add_sets_of(parser: Any, default: str) -> None:
    """Adds --sets-of.

    Args:
        parser: of a command, or an argument group.
        default: as the help says it.
    """
    parser.add_argument(
        "--sets-of",
        choices=("subject", "task", "all"),
        help=f"which images form a set: those of a subject, of a task, or all (default: {default})",
    )


def add_prompt_kinds(parser: Any, default: str = "") -> None:
    """Adds --kind and --scribbles.

    Args:
        parser: of a command, or an argument group.
        default: text on the defaults of the command, for the help.
    """
    parser.add_argument(
        "--kind",
        choices=("mixed", "both", "any", "scribble", "click"),
        help="prompts of an image: scribbles or clicks (mixed), either of them for each prompt (both), or scribbles,"
        f" clicks or both in numbers of their own (any){default.format('mixed')}",
    )
    parser.add_argument(
        "--scribbles",
        choices=("stroke", "line", "centerline", "contour", "mixed"),
        help="how scribbles are drawn: as one stroke each, or as ScribblePrompt draws them; mixed: any of its three"
        f" kinds{default.format('stroke')}",
    )


def add_split(parser: Any) -> None:
    """Adds --split.

    Args:
        parser: of a command, or an argument group.
    """
    parser.add_argument(
        "--split",
        metavar="FILE",
        type=Path,
        help="JSON with the subjects for training, validation and testing, such as the split.json of a run",
    )


def add_workers(parser: Any) -> None:
    """Adds --workers.

    Args:
        parser: of a command, or an argument group.
    """
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="processes that prepare batches; 0: none (default: up to 4 for a network on a GPU, while the CPU is free;"
        " 0 on the CPU, where the network itself uses all cores)",
    )


def workers_of(args: argparse.Namespace, device: str) -> int:
    """The number of processes that prepare batches.

    On a GPU, this process only launches kernels, and up to 4 others keep up with it. On the CPU, the threads of the
    network use all cores, so that other processes would only take their time.

    Args:
        args: with `workers`.
        device: of the network.

    Raises:
        ValueError: --workers is not from 0 to 1024.
    """
    if args.workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return 0 if device == "cpu" else min(4, cores - 1)
    if not 0 <= args.workers <= MAX_WORKERS:
        raise ValueError(f"--workers {args.workers}: expected from 0 to {MAX_WORKERS}")
    return int(args.workers)


def add_memory(parser: Any) -> None:
    """Adds --memory.

    Args:
        parser: of a command, or an argument group.
    """
    parser.add_argument(
        "--memory",
        metavar="GB",
        type=float,
        help="of images and masks; what is beyond it lies in temporary files in OUT (default: half of the machine's)",
    )


def store_of(args: argparse.Namespace, folder: Path) -> TensorStore:
    """Where the images of a command are kept.

    Args:
        args: of a command with `add_memory`.
        folder: of temporary files.

    Raises:
        ValueError: --memory is not a number from 0.
    """
    from ..data import TensorStore

    if args.memory is None:
        limit = None
    elif 0 <= args.memory < math.inf:
        limit = int(args.memory * 10**9)
    else:
        raise ValueError(f"--memory {args.memory}: expected a number of at least 0")
    return TensorStore(limit, folder)


def add_runs(parser: Any) -> None:
    """Adds the folders of the runs of an ensemble."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="folders of runs; the probabilities of several are averaged"
    )


def add_inference(parser: Any) -> None:
    """Adds --window and --tta.

    Args:
        parser: of a command.
    """
    parser.add_argument(
        "--window",
        metavar="HxW",
        type=_height_and_width,
        help="do not resize images: segment them window by window, the same windows of all images of a set",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: average over flips of the whole set (4 times the work)",
    )


def add_device(parser: Any) -> None:
    """Adds --device."""
    parser.add_argument("--device", help="device, such as cpu or cuda:1 (default: a GPU if there is one)")


def device_of(args: argparse.Namespace) -> str:
    """The device of --device.

    Args:
        args: of a command with `add_device`.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    if args.device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device}: {str(error).splitlines()[0]}") from None
    return str(args.device)


def warn_if_trained_on(configs: Sequence[Config], args: argparse.Namespace) -> None:
    """Warns if --data are those of the training, unless --part is test.

    Args:
        configs: of the runs.
        args: of the command.
    """
    trained_on = {path for config in configs for path in (*config.data, *config.validation_data)}
    if args.part != "test" and not trained_on.isdisjoint(str(Path(path).resolve()) for path in args.data):
        print("interconv: these data were trained on; use --part test for the held-out subjects", file=sys.stderr)


def _height_and_width(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return positive_int(height), positive_int(width)


def positive_int(text: str) -> int:
    """An int of at least 1, for `type=` of an option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return number


def positive_float(text: str) -> float:
    """A finite number above 0, for `type=` of an option."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number


def image_size(text: str) -> tuple[int, int] | str:
    """HxW or "stored", for `type=` of an option."""
    if text == "stored":
        return text
    height, _, width = text.partition("x")
    return positive_int(height), positive_int(width)


def set_sizes(text: str) -> tuple[int, int] | str:
    """MIN-MAX or "all", for `type=` of an option."""
    if text == "all":
        return text
    minimum, _, maximum = text.partition("-")
    return positive_int(minimum), positive_int(maximum)


def weight(text: str) -> tuple[str, float]:
    """NAME=WEIGHT, for `type=` of an option."""
    name, equals, number = text.rpartition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=WEIGHT")
    return name, float(number)

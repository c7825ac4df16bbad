"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_command(subparsers: Any, name: str, does: str, example: str) -> argparse.ArgumentParser:
    """A subcommand whose --help ends with an example."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=does,
        description=does[0].upper() + does[1:] + ".",
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_data(parser: argparse.ArgumentParser, what: str, **options: Any) -> None:
    """--data, one or several."""
    parser.add_argument("--data", metavar="PATH", nargs="+", help=what, **options)


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Folders of runs, to be used as one."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="a run's folder; of several, the mean probability is taken"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")


def device_of(args: argparse.Namespace) -> str:
    """Raises ValueError for a device that is not there."""
    import torch

    if args.device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device}: {str(error).splitlines()[0]}") from None
    return str(args.device)


def positive(text: str) -> int:
    """An int of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return number

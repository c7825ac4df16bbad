"""`interconv models`."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_command


def add(subparsers: Any) -> None:
    """The command has no options."""
    parser = add_command(
        subparsers,
        "models",
        "list the networks by name, and the paper's tables of their sizes",
        "  interconv models",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print both."""
    from ..networks import FAMILIES, SIZES, tables

    print("For --network:\n")
    print("| name | features of the baseline | with InterConv (replace) |")
    print("|---|---|---|")
    for name, (_, baseline, replaced) in SIZES.items():
        print(f"| {name} | {_text(baseline)} | {_text(replaced)} |")
    for name, family in FAMILIES.items():
        print(f"| {name} | --features (default: {_text(family.features)}) | the same |")
    print("\nThe paper's tables, counted with 1 input channel and 21 classes (ScribblePrompt: 1):\n")
    tables.main()
    return 0


def _text(features: Any) -> str:
    return str(features) if isinstance(features, int) else ", ".join(map(str, features))

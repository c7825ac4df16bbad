"""`interconv models`."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_command

EXAMPLE = "  interconv models"


def add(subparsers: Any) -> None:
    """Adds the command, which has no options."""
    add_command(subparsers, "models", run, "list the networks, and the paper's tables of their sizes", EXAMPLE)


def run(args: argparse.Namespace) -> int:
    """Prints both."""
    from ..networks import FAMILIES, SIZES, tables

    print("For --network:\n")
    print("| name | features of the baseline | with InterConv (replace) |")
    print("|---|---|---|")
    for name, (_, baseline, replaced) in SIZES.items():
        print(f"| {name} | {tables.features_text(baseline)} | {tables.features_text(replaced)} |")
    for name, family in FAMILIES.items():
        print(f"| {name} | --features (default: {tables.features_text(family.features)}) | the same |")
    print("\nThe paper's tables, counted with 1 input channel and 21 classes (ScribblePrompt: 1):\n")
    tables.main()
    return 0

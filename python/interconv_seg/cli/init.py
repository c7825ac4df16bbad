"""`interconv init`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_command

EXAMPLE = "  interconv init example/"


def add(subparsers: Any) -> None:
    """Adds the command."""
    summary = "write a small data set and a configuration to start from"
    parser = add_command(subparsers, "init", run, summary, EXAMPLE)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="new folder")


def run(args: argparse.Namespace) -> int:
    """Writes the folder, and prints what to do with it."""
    from ..example import write_example

    folder = args.folder
    write_example(folder)
    print(
        f"""\
{folder}/scans: simulated volumes of 12 subjects, their masks, and sets.csv, which says which belong together
{folder}/new_patient: two volumes without masks
{folder}/train.yaml: the settings of a training

Next:
  interconv train --config {folder}/train.yaml --data {folder}/scans --out {folder}/runs
  interconv evaluate {folder}/runs/seed0 --data {folder}/scans --part test --out {folder}/results
  interconv segment {folder}/runs/seed0 --data {folder}/new_patient --out {folder}/masks
For your own images, replace what is in scans/ and the labels in train.yaml."""
    )
    return 0

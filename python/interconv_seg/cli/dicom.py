"""`interconv dicom`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_command

EXAMPLE = """\
  interconv dicom studies/ --out scans/
  interconv segment runs/interconv/seed0 --data scans/ --out masks/"""


def add(subparsers: Any) -> None:
    """Adds the command and its options."""
    summary = "convert DICOM series to NIfTI volumes, with a set for each patient"
    parser = add_command(subparsers, "dicom", run, summary, EXAMPLE)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="DICOM files, in subfolders too")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the volumes and their sets.csv")


def run(args: argparse.Namespace) -> int:
    """Converts the series."""
    from ..data.dicom import convert_dicom

    files = convert_dicom(args.folder, args.out)
    print(f"{len(files)} series in {args.out}, and sets.csv")
    return 0

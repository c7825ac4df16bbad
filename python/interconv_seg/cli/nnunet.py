"""`interconv nnunet`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .options import add_command

VARIABLE = "nnUNet_extTrainer"
DEFAULT_FOLDER = Path("~/.interconv/nnunet")
EXAMPLE = """\
  interconv nnunet install
  nnUNetv2_train 501 2d 0 -tr nnUNetTrainerInterConv"""


def add(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = add_command(subparsers, "nnunet", run, "make nnU-Net v2 find nnUNetTrainerInterConv", EXAMPLE)
    parser.add_argument("action", choices=["install"], help="write the file that nnU-Net needs to find the trainer")
    parser.add_argument(
        "--folder",
        type=Path,
        help=f"folder of external trainers (default: the first one in ${VARIABLE}, or {DEFAULT_FOLDER})",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the file and prints what is left to do."""
    from ..nnunet_v2.install import install

    known = [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name.strip()]
    folder = args.folder or (known[0] if known else DEFAULT_FOLDER.expanduser())
    file = install(folder)
    print(f"wrote {file}")
    if file.parent in [path.resolve() for path in known]:
        print(f"{VARIABLE} names this folder already")
    else:
        value = os.pathsep.join([str(file.parent), *map(str, known)])
        print(f'set the environment variable, for example in ~/.bashrc:\n  export {VARIABLE}="{value}"')
    print("then: nnUNetv2_train DATASET 2d FOLD -tr nnUNetTrainerInterConv")
    return 0

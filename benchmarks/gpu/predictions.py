"""PREDICTED times on GPUs that are not present; nothing is measured.

    python -m benchmarks predict [--gpu h100|a100|h200|mi300x]    prints the tables of one GPU
    python -m benchmarks predict --write FILE                     replaces the tables of H100 and A100 in the file
    python -m benchmarks predict --check FILE                     fails if they differ

Three tables for each GPU: the Triton kernels, the 3x3 layer by every way to compute it, and whole networks. How each is
predicted, and what is assumed:
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..document import difference, write_section
from . import native, predict, predict_layers, predict_networks
from .predict import GPUS, Gpu


def sections(gpu: Gpu) -> dict[str, Callable[[Gpu], str]]:
    """{title: what makes the table}. The native kernels are for NVIDIA's GPUs."""
    found: dict[str, Callable[[Gpu], str]] = {"predicted": predict.report}
    if gpu.chip.startswith("sm_") and native.TABLE.exists():
        found |= {"predicted layers": predict_layers.table, "predicted networks": predict_networks.table}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Prints, writes or checks the tables; returns the exit status."""
    modules = (predict, predict_layers, predict_networks)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks predict",
        description="\n".join(str(part) for part in (__doc__, *(module.__doc__ for module in modules))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gpu", choices=GPUS, default="h100", help="to print; default: %(default)s")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this document")
    target.add_argument("--check", type=Path, metavar="FILE", help="compare with the tables in this document")
    arguments = parser.parse_args(argv)
    if not arguments.write and not arguments.check:
        gpu = GPUS[arguments.gpu]
        print("\n".join(table(gpu) for table in sections(gpu).values()), end="")
        return 0
    differences = ""
    for name in ("h100", "a100"):
        for title, table in sections(GPUS[name]).items():
            section, text = f"{title}, {name}", table(GPUS[name])
            if arguments.write:
                write_section(arguments.write, section, text)
            else:
                differences += difference(arguments.check, section, text)
    sys.stderr.write(differences)
    return 1 if differences else 0

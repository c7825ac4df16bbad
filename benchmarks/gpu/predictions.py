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

from ..document import add_options, write_or_compare
from . import native, predict, predict_layers, predict_networks
from .predict import GPUS, Gpu


def sections(gpu: Gpu) -> dict[str, Callable[[Gpu], str]]:
    """{title: what makes the table}. The native kernels are for NVIDIA's GPUs."""
    found: dict[str, Callable[[Gpu], str]] = {"predicted": predict.report}
    if gpu.chip.startswith("sm_") and native.reason_unavailable() is None:
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
    add_options(parser)
    arguments = parser.parse_args(argv)
    if not arguments.write and not arguments.check:
        gpu = GPUS[arguments.gpu]
        print("\n".join(table(gpu) for table in sections(gpu).values()), end="")
        return 0
    documented = {
        f"{title}, {name}": table(GPUS[name])
        for name in ("h100", "a100")
        for title, table in sections(GPUS[name]).items()
    }
    differences = write_or_compare(arguments, documented)
    sys.stderr.write(differences)
    return 1 if differences else 0

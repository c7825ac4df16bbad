"""The commands of `python -m benchmarks`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import NamedTuple


class Command(NamedTuple):
    """A command's module, below this package, and what it does."""

    module: str
    summary: str


COMMANDS = {
    "run": Command("run", "time single layers and baselines on the same work: times, memory, fraction of the roofline"),
    "networks": Command("networks", "time whole networks"),
    "scaling": Command("scaling", "time against samples, sets, channels and pixels; mixed against equal set sizes"),
    "set-ops": Command("set_ops", "time the set mean and the per-set add"),
    "loading": Command("loading", "the memory that a training takes before its first step, against that of its images"),
    "compare": Command("compare", "compare two results or two git revisions; exit status 1 if the second is slower"),
    "table": Command("table", "write the results of `run` into a document as Markdown"),
    "machine-code": Command("gpu.machine_code", "compile the Triton kernels for GPUs that are not present"),
    "native-code": Command("gpu.native_code", "compile the CUDA kernels of csrc/halo for GPUs that are not present"),
    "gradient-code": Command("gpu.gradient_code", "the same for the kernels of the weight gradient"),
    "native-lint": Command("gpu.native_lint", "check the PTX and machine code of CUDA kernels"),
    "predict": Command("gpu.predictions", "PREDICTED times on GPUs that are not present"),
}


def main(argv: list[str]) -> int:
    """Passes the arguments on to the command's module, and returns its exit status."""
    usage = "usage: python -m benchmarks COMMAND [options]\n\ncommands (see COMMAND --help):\n"
    usage += "".join(f"  {name:14}{command.summary}\n" for name, command in COMMANDS.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(usage, end="")
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        print(f"unknown command {name!r}\n\n{usage}", end="", file=sys.stderr)
        return 2
    # While memory is profiled, torch would warn about each freed tensor that is older than the profile.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    module = importlib.import_module(f".{COMMANDS[name].module}", __package__)
    return module.main(rest) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

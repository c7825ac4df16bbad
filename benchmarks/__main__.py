"""The benchmarks by name. `python -m benchmarks --help`"""

from __future__ import annotations

import importlib
import os
import sys

COMMANDS = {
    "run": "layers against eager torch on the same work: times, memory, share of the floor",
    "compare": "two results, or two git revisions: exit status 1 where the second is slower",
    "table": "results as Markdown, into a document",
    "scaling": "cost against samples, sets, channels and pixels; mixes against equal sets",
    "set-ops": "set mean and per-set add against eager torch",
    "networks": "whole networks",
    "predict": "PREDICTED times on GPUs that are not here",
    "machine-code": "the Triton kernels' machine code for GPUs that are not here",
}


def main(argv: list[str]) -> int:
    """Hands the arguments to the command's module."""
    usage = "usage: python -m benchmarks COMMAND [options]\n\ncommands (COMMAND --help says more):\n"
    usage += "".join(f"  {name:14}{what}\n" for name, what in COMMANDS.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(usage, end="")
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        print(f"{name!r} is no command of the benchmarks\n\n{usage}", end="", file=sys.stderr)
        return 2
    # torch would warn of every tensor that is freed while a call's memory is recorded and was made before it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    return module.main(rest) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

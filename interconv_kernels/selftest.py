"""Checks that the layer is right on this machine: `python -m interconv_kernels.selftest`.

Three kinds of checks, against float64 on the CPU:

* every backend that can run here, every algorithm and dtype, forward and all gradients, on layers of several kinds;
* every set operation of every backend, on short and long sets, in both memory formats;
* every tile of a fused layer that this GPU could ever be given, in every dtype.

On a GPU the kernels are first compiled, in parallel. Progress is printed to stderr, then a Markdown table to stdout,
with one row per check: the largest errors, relative to the largest value, and the allowed errors. Those are four times
the error of the same layer in plain torch on the same device and in the same dtype, plus a few roundings. The exit
status is 1 if an error is larger.

With TRITON_INTERPRET=1 it tests backend "triton" alone, on the CPU, in Triton's interpreter, which takes many minutes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from . import _checks
from ._backends import triton as triton_backend
from ._backends.registry import BACKENDS, backends
from ._checks import Check, Planned
from ._files import write_text
from ._progress import Progress, duration

__all__ = ["Check", "main", "run"]
QUANTITIES = ("y", "grad_u", "grad_weight", "grad_bias")


def run(device: torch.device, quick: bool = False) -> Iterator[Check]:
    """Checks everything that can run on a device, one result after the other.

    Args:
        device: a torch device.
        quick: only algorithm "auto" in float32, on two layers.
    """
    for planned in _plan(device, quick):
        yield planned.run(device)


def _plan(device: torch.device, quick: bool = False) -> list[Planned]:
    plan: list[Planned] = []
    for backend, report in backends().items():
        if report.get(device.type) == "ready" and (not triton_backend.interpreted() or backend == "triton"):
            plan += _checks.quick(backend) if quick else _checks.plan(backend, device)
    return plan


def table(checks: Sequence[Check]) -> str:
    """The results as a Markdown table, for people and issues."""
    lines = [
        f"| backend | algorithm | case | dtype | {' | '.join(QUANTITIES)} | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for check in checks:
        cells = [f"{error:.1e} ({allowed:.0e})" for error, allowed in zip(check.errors, check.allowed, strict=True)]
        cells += [""] * (len(QUANTITIES) - len(cells))
        dtype = str(check.dtype).removeprefix("torch.")
        columns = [check.backend, check.algorithm, check.case, dtype, *cells, _verdict(check)]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _verdict(check: Check) -> str:
    if check.failed:
        return f"FAILED: {check.failed}".replace("|", "/")
    if check.skipped:
        return f"not run: {check.skipped}"
    return "passed" if check.passed else "WRONG"


def _compile(plan: Sequence[Planned], device: torch.device, progress: Progress) -> None:
    """Compiles the kernels of all checks in parallel, which would else happen one after the other."""

    def calls(backend: str) -> Iterator[Callable[[], None]]:
        progress.note(f"compiling on {os.cpu_count()} threads; Triton keeps the code in $TRITON_CACHE_DIR or ~/.triton")
        for planned in plan:
            if planned.check.backend == backend and planned.launching is not None:
                progress.note(f"compiling {planned.check.title}")
                yield planned.launching(device)

    for name in {planned.check.backend: None for planned in plan}:
        start = time.monotonic()
        try:
            compiled = BACKENDS[name].compile_ahead(calls(name))
        except Exception as error:  # a check will fail too, and say so in the table
            progress.note(f"not everything could be compiled: {error}")
            continue
        if compiled:
            progress.note(f"{compiled} kernels compiled in {duration(time.monotonic() - start)}")


def describe(device: torch.device) -> list[str]:
    """Lines about the device and the backends; no paths and no names of users or machines."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    lines = [f"torch {torch.__version__} on {name}"]
    return lines + [
        f"backend {backend} {report['version']}: {report.get(device.type, 'no such device')}"
        for backend, report in backends().items()
    ]


def as_json(checks: Sequence[Check], device: torch.device) -> str:
    """The results and the versions, for programs."""
    rows = [
        check._asdict() | {"dtype": str(check.dtype).removeprefix("torch."), "verdict": _verdict(check)}
        for check in checks
    ]
    return json.dumps({"environment": describe(device), "checks": rows}, indent=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the checks and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m interconv_kernels.selftest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="a torch device (default here: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file too")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    logging.basicConfig(format="%(message)s")
    if triton_backend.interpreted():
        from ._backends.triton.interpreter import fix_bfloat16

        fix_bfloat16()
    plan = _plan(device)
    progress = Progress(max(1, len(plan)))
    start = time.monotonic()
    _compile(plan, device, progress)
    checks = []
    for planned in plan:
        check = planned.run(device)
        checks.append(check)
        progress.step(f"{check.title}: {_verdict(check)}")
    print("\n".join([*describe(device), "", "error (allowed), relative to the largest value", "", table(checks)]))
    wrong = sum(not check.passed for check in checks)
    took = f"{len(checks)} checks in {duration(time.monotonic() - start)}"
    print(f"\n{took}: {'all passed' if not wrong else f'{wrong} are wrong or failed'}")
    if options.json:
        write_text(options.json, as_json(checks, device))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

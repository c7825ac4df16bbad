"""`interconv doctor`."""

from __future__ import annotations

import argparse
import platform
import re
from importlib import metadata
from typing import Any

from .options import add_command

DISTRIBUTION = "interconv-kernels"
EXAMPLE = "  interconv doctor"


def add(subparsers: Any) -> None:
    """Adds the command, which has no options."""
    add_command(subparsers, "doctor", run, "show what is installed and what can run here, and check the layer", EXAMPLE)


def run(args: argparse.Namespace) -> int:
    """Prints the report. The exit code is 1 if a package is missing or the layer computes wrong results."""
    from interconv_kernels._version import __version__

    print(f"{DISTRIBUTION} {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print("\nPackages:")
    missing = _print_packages()
    print("\nDevices:")
    _print_devices()
    print("\nBackends:")
    failed = _print_backends()
    if missing:
        print(f"\nMissing: {', '.join(missing)}. pip install '{DISTRIBUTION}[seg]'")
    return 1 if missing or failed else 0


def _print_packages() -> list[str]:
    """Prints the versions of required and optional packages; returns the missing ones of the extra "seg"."""
    missing = []
    for line in metadata.requires(DISTRIBUTION) or []:
        name = re.split(r"[^\w.-]", line)[0]
        extra = re.search(r"""extra == ['"](\w+)""", line)
        if extra is not None and extra[1] not in ("seg", "triton"):
            continue
        try:
            print(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            optional = extra is not None and extra[1] == "triton"
            print(f"  {name}: not installed{' (optional)' if optional else ''}")
            missing += [] if optional else [name]
    return missing


def _print_devices() -> None:
    import torch

    print(f"  cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        print(f"  cuda:{i}: {about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}")
    if not torch.cuda.is_available():
        print("  cuda: no device that torch can use")


def _print_backends() -> bool:
    """Prints where each backend can run and the result of its self-test; returns whether one failed."""
    import torch

    import interconv_kernels as ik
    from interconv_kernels import selftest

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    checks = {device: list(selftest.run(torch.device(device), quick=True)) for device in devices}
    for name, report in ik.backends().items():
        print(f"  {name} ({report['version']})")
        for device in ("cpu", "cuda"):
            results = [_check_text(check) for check in checks.get(device, []) if check.backend == name]
            print(f"    {device}: {'; '.join([report[device], *results])}")
    return not all(check.passed or check.skipped for found in checks.values() for check in found)


def _check_text(check: Any) -> str:
    if check.skipped:
        return f"self-test skipped: {check.skipped}"
    return f"self-test {'passed' if check.passed else 'FAILED'} (relative error {check.error:.0e})"

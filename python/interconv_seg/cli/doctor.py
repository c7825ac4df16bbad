"""`interconv doctor`."""

from __future__ import annotations

import argparse
import platform
import re
from importlib import metadata
from typing import Any

from .options import add_command

DISTRIBUTION = "interconv-kernels"


def add(subparsers: Any) -> None:
    """The command has no options."""
    parser = add_command(
        subparsers,
        "doctor",
        "say what is installed and what can run here, and check the layer",
        "  interconv doctor",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 where a package is missing or the layer gives wrong numbers."""
    import torch

    import interconv_kernels as ik

    print(f"{DISTRIBUTION} {ik.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print("\nPackages:")
    missing = _packages()
    print("\nDevices:")
    print(f"  cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        print(f"  cuda:{i}: {about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}")
    if not torch.cuda.is_available():
        print("  cuda: none that torch can use")
    print("\nBackends:")
    wrong = 0
    for name, report in ik.backends().items():
        print(f"  {name} ({report['version']})")
        for kind in ("cpu", "cuda"):
            state = report[kind]
            if state == "ready":
                error = _layer_error(name, kind)
                passed = error < 1e-4
                wrong += not passed
                state = f"ready; the layer {'agrees' if passed else 'DISAGREES'} with the oracle (error {error:.0e})"
            print(f"    {kind}: {state}")
    if missing:
        print(f"\nMissing: {', '.join(missing)}. pip install '{DISTRIBUTION}[seg]'")
    return 1 if missing or wrong else 0


def _packages() -> list[str]:
    """Print the version of each package that is needed or can be used; returns those that the extra "seg" lacks."""
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


def _layer_error(backend: str, device: str) -> float:
    """The greatest difference to the oracle of a small layer on ragged sets, relative to the greatest output."""
    import torch

    import interconv_kernels as ik

    random = torch.Generator().manual_seed(0)
    lengths = [3, 1, 4]
    u = torch.randn(sum(lengths), 8, 12, 10, generator=random)
    weight = torch.randn(6, 16, 3, 3, generator=random)
    expected = ik.reference.interconv2d(u.double(), weight.double(), None, lengths)
    sets = ik.Sets.from_lengths(lengths, device)
    found = ik.interconv2d(u.to(device), weight.to(device), None, sets, padding="same", backend=backend)
    return float((found.cpu().double() - expected).abs().max() / expected.abs().max())

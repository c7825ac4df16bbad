"""Measurements and their files, which all benchmarks write and `compare` reads."""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch

import interconv_kernels as ik
from interconv_kernels._files import replacing, write_text

from .baselines import MemoryFormat
from .machine import Machine, roofline_seconds


@dataclass(frozen=True)
class Measurement:
    """The time and memory of one implementation on one case.

    Attributes:
        case: what was computed, such as a layer and its sets.
        implementation: what computed it; "ours" and names that contain it are this library.
        memory_format: of the inputs and weights.
        direction: "fwd", "bwd" or "both"; of networks "train" or "infer".
        lengths: the set sizes.
        p20, p50, p80: quantiles of the time, in seconds.
        peak_bytes: peak memory above what was allocated before.
        details: more columns, the same in all measurements of a file. For layers: network, in_channels, out_channels,
            height, width, kernel, stride, depth; saved_bytes (for the backward, without the inputs); flops and bytes
            (what a direct convolution computes and moves).
    """

    case: str
    implementation: str
    memory_format: MemoryFormat
    direction: str
    lengths: list[int]
    p20: float
    p50: float
    p80: float
    peak_bytes: int
    details: dict[str, Any] = field(default_factory=dict)


class Results(NamedTuple):
    """Measurements of one run, and where they were made.

    Attributes:
        environment: the device, versions, commit and so on, see `describe_environment`.
        measurements: all of them.
        machine: the machine's rates in the same run, None where the benchmark has no roofline.
    """

    environment: dict[str, Any]
    measurements: list[Measurement]
    machine: Machine | None = None

    def require_machine(self) -> Machine:
        """The machine's rates; ValueError if there are none."""
        if self.machine is None:
            raise ValueError("these results have no roofline: expected results of `run` or `scaling`")
        return self.machine

    def roofline_fraction(self, layer: Measurement) -> float:
        """The roofline's time divided by the measured time of a layer."""
        return roofline_seconds(layer.details["flops"], layer.details["bytes"], self.require_machine()) / layer.p50

    def layer_rates(self, layer: Measurement) -> dict[str, float]:
        """Columns that follow from the others: what a direct convolution does, per second of the measured time."""
        return {
            "gflop_per_s": layer.details["flops"] / layer.p50 / 1e9,
            "gb_per_s": layer.details["bytes"] / layer.p50 / 1e9,
            "roofline_fraction": self.roofline_fraction(layer),
        }


def describe_environment(device: torch.device, dtype: str) -> dict[str, Any]:
    """What times depend on besides the implementation: device, threads, versions, and the commit of this library."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "interconv_kernels": ik.__version__,
        "backends": {name: report["version"] for name, report in ik.backends().items()},
        "commit": commit_of(Path(ik.__file__).parent),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def commit_of(folder: Path) -> str:
    """The commit of a checkout, with "+dirty" if tracked files were changed; "unknown" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def write_results(
    folder: Path, results: Results, derive: Callable[[Measurement], Mapping[str, Any]] = lambda _: {}
) -> None:
    """Writes results.json, which `read_results` reads, and results.csv, in which each row has device and versions.

    Args:
        folder: created if needed.
        results: with at least one measurement.
        derive: more columns of results.csv, which follow from the others.
    """
    content = {
        "environment": results.environment,
        "machine": results.machine and results.machine._asdict(),
        "measurements": [dataclasses.asdict(measurement) for measurement in results.measurements],
    }
    write_text(folder / "results.json", json.dumps(content, indent=1) + "\n")
    environment = {key: value for key, value in results.environment.items() if not isinstance(value, dict)}
    rows = []
    for measurement in results.measurements:
        columns = dataclasses.asdict(measurement)
        details = columns.pop("details")
        rows.append({**columns, **details, **derive(measurement), **environment})
    write_csv(folder / "results.csv", rows)


def read_results(path: Path) -> Results:
    """Reads a file that `write_results` wrote.

    Args:
        path: the file, or its folder.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has other contents.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text())
        measurements = [Measurement(**row) for row in content["measurements"]]
        machine = content["machine"] and Machine(**content["machine"])
        return Results(content["environment"], measurements, machine)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} has no results of the benchmarks: {error!r}") from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the same columns, completely or not at all."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

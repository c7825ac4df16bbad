"""What the benchmarks' result files have in common: where they were made, and how they are written and read."""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch

import interconv_kernels as ik

from .machine import Machine, floor_seconds


@dataclass(frozen=True)
class Row:
    """One form of one case in one layout and direction: times in seconds, and what the case needs at least."""

    case: str
    network: str
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int
    lengths: list[int]
    layout: str
    direction: str
    form: str
    p20: float
    p50: float
    p80: float
    peak_bytes: int
    saved_bytes: int
    flops: int
    bytes: int

    @property
    def samples(self) -> int:
        return sum(self.lengths)

    @property
    def set_size(self) -> float:
        """K, or the mean of a mix."""
        return self.samples / len(self.lengths)

    @property
    def is_ragged(self) -> bool:
        return len(set(self.lengths)) > 1


class Results(NamedTuple):
    """A run: its environment, the machine's rates, and what was measured."""

    environment: dict[str, Any]
    machine: Machine
    rows: list[Row]

    def of_floor(self, row: Row) -> float:
        """The share of a row's time that the floor would take."""
        return floor_seconds(row.flops, row.bytes, self.machine) / row.p50


def describe_environment(device: torch.device, dtype: str) -> dict[str, Any]:
    """What a figure depends on beside the code that is measured, and that code's commit."""
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
    """The commit checked out there, with "+dirty" where tracked files differ from it; "unknown" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def write_results(folder: Path, results: Results) -> None:
    """results.json, which `read_results` reads, and results.csv, whose rows say where they come from."""
    rows = [dataclasses.asdict(row) for row in results.rows]
    content = {"environment": results.environment, "machine": results.machine._asdict(), "rows": rows}
    where = {key: value for key, value in results.environment.items() if not isinstance(value, dict)}
    derived = [
        {
            "gflop_per_s": row.flops / row.p50 / 1e9,
            "gb_per_s": row.bytes / row.p50 / 1e9,
            "of_floor": results.of_floor(row),
        }
        for row in results.rows
    ]
    write_csv(folder / "results.csv", [a | b | where for a, b in zip(rows, derived, strict=True)])
    with replacing(folder / "results.json") as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def read_results(path: Path) -> Results:
    """From a file that `write_results` wrote, or its folder.

    Raises:
        OSError: it cannot be read. ValueError: it holds something else.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text())
        rows = [Row(**row) for row in content["rows"]]
        return Results(content["environment"], Machine(**content["machine"]), rows)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no results of `python -m benchmarks run`: {error!r}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in path's folder (made if need be), called `path` once the block has ended. Where the block
    raises, `path` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(".partial-" + path.name)  # the ending stays: it names the format
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the same columns, whole or not at all."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

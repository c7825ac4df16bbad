"""metrics.csv: a row for each interval of a training, none lost or twice after a kill."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .atomic import write_text


class MetricsFile:
    """A CSV file whose first column is the step.

    Args:
        path: of the file. columns: their names.
        first_steps: rows up to this step are kept; those after it, which a killed run wrote and a resumed one will
            write again, are dropped.
    """

    def __init__(self, path: Path, columns: Sequence[str], first_steps: int):
        self.path, self.columns = path, columns
        kept = [",".join(columns)]
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines()[1:]:
                step = line.split(",")[0]
                # a kill may have cut the last line short, but then its step is not done
                if step.isdigit() and int(step) <= first_steps and line.count(",") == len(columns) - 1:
                    kept.append(line)
        write_text(path, "\n".join(kept) + "\n")

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; it is on the disk on return."""
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerow([row[name] for name in self.columns])
            stream.flush()
            os.fsync(stream.fileno())

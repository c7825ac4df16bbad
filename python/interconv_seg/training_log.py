"""metrics.csv: one row per interval of a training, without lost or repeated rows after a crash."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from interconv_kernels._files import write_text


class TrainingLog:
    """A CSV file whose first column is the step.

    Args:
        path: the file.
        columns: the names of the columns.
        last_step: existing rows up to this step are kept. Later rows were written by a run that was killed, and are
            dropped, because the resumed run writes them again.
    """

    def __init__(self, path: Path, columns: Sequence[str], last_step: int):
        self.path, self.columns = path, columns
        kept = [",".join(columns)]
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines()[1:]:
                step = line.split(",")[0]
                # The last line may be incomplete; then its step was not saved in a checkpoint.
                if step.isdigit() and int(step) <= last_step and line.count(",") == len(columns) - 1:
                    kept.append(line)
        write_text(path, "\n".join(kept) + "\n")

    def append(self, row: Mapping[str, float]) -> None:
        """Adds a row. It is on disk when this returns.

        Args:
            row: a value for each column.
        """
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerow([row[name] for name in self.columns])
            stream.flush()
            os.fsync(stream.fileno())

"""metrics.csv: one row per interval of a training, without lost or repeated rows after a crash."""

from __future__ import annotations

import csv
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from interconv_kernels._files import write_text

COLUMNS = (
    "step",
    "loss",  # of training, per sample, over the interval
    "validation_loss",  # per sample
    "validation_dice",  # the mean over samples
    "learning_rate",
    "images_per_second",  # in training, including the loading of data
    "peak_memory_mb",  # of the tensors on the GPU, else of the process
)


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


def peak_memory_mb(device: torch.device) -> float:
    """The peak memory of the tensors on a GPU, else of the process.

    Args:
        device: of the training.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

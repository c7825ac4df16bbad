"""nnU-Net's export of predictions, in background processes."""

from __future__ import annotations

import multiprocessing
from time import sleep
from typing import Any

from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
    export_prediction_from_logits,
)
from nnunetv2.utilities.file_path_utilities import check_workers_alive_and_busy
from torch import Tensor


class Exports:
    """Resamples logits to the original images, reverts their cropping, and writes or returns segmentations.

    Args:
        predictor: whose plans and labels count.
        num_processes: in the background.
        save_probabilities: also write or return probabilities.
    """

    def __init__(self, predictor: Any, num_processes: int, save_probabilities: bool):
        self.predictor, self.save_probabilities = predictor, save_probabilities
        pool: Any = multiprocessing.get_context("spawn").Pool(num_processes)
        self.pool, self.workers = pool, list(pool._pool)
        self.pending: list[Any] = []

    def __enter__(self) -> Exports:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.terminate()
        self.pool.join()

    def add(self, logits: Tensor, properties: dict[str, Any], output: str | None) -> None:
        """Exports one case. It waits while the processes are far behind.

        Args:
            logits: [classes, D, H, W].
            properties: of the preprocessed case.
            output: the file without its ending; None: `results` returns the segmentation.
        """
        while check_workers_alive_and_busy(self.pool, self.workers, self.pending, allowed_num_queued=2):
            sleep(0.1)
        array = logits.contiguous().numpy()  # tensors in shared memory may fail here, says nnU-Net
        plans, configuration = self.predictor.plans_manager, self.predictor.configuration_manager
        if output is None:
            labels = self.predictor.label_manager
            job = self.pool.apply_async(
                convert_predicted_logits_to_segmentation_with_correct_shape,
                (array, plans, configuration, labels, properties, self.save_probabilities),
            )
        else:
            about = self.predictor.dataset_json
            job = self.pool.apply_async(
                export_prediction_from_logits,
                (array, properties, configuration, plans, about, output, self.save_probabilities),
            )
        self.pending.append(job)

    def results(self) -> list[Any]:
        """Waits for all exports: a segmentation, or None if it was written, for each case.

        Raises:
            RuntimeError: a process was killed, which mostly means that there was not enough memory.
        """
        found = []
        for job in self.pending:
            while True:
                check_workers_alive_and_busy(self.pool, self.workers, self.pending)
                try:
                    found.append(job.get(timeout=0.1))
                    break
                except multiprocessing.TimeoutError:
                    continue
        return found

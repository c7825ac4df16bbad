"""Trains the runs of a plan, one after the other, and goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from interconv_seg.checkpoints import load_checkpoint
from interconv_seg.config import Config
from interconv_seg.data import Group
from interconv_seg.preparation import load_groups, training_batches, validation_batches
from interconv_seg.training import train

from .plan import Plan, run_folder


def train_plan(plan: Plan, out: Path, names: Sequence[str], seeds: Sequence[int], minutes: float) -> bool:
    """Trains what is not finished yet.

    Args:
        plan: the plan.
        out: the folder of its runs.
        names: of the runs to train, in this order for each seed.
        seeds: to train them with.
        minutes: after which training stops, with a checkpoint.

    Returns:
        Whether all are finished.
    """
    deadline = time.monotonic() + 60 * minutes
    loaded: dict[tuple[str, ...], list[Group]] = {}

    def groups(config: Config, paths: tuple[str, ...]) -> list[Group]:
        if paths not in loaded:
            loaded[paths] = load_groups(config, paths, min_images=1)
        return loaded[paths]

    for seed in seeds:
        for name in names:
            folder, config = run_folder(out, name, seed), plan.config(name, seed, out)
            if is_finished(folder, config):
                continue
            if time.monotonic() >= deadline:
                return False
            started = time.perf_counter(), time.process_time()
            batches = training_batches(config, groups(config, config.data))
            held_out = validation_batches(config, groups(config, config.validation_data))
            try:
                found = train(folder, config, batches, held_out, interrupted=lambda: time.monotonic() >= deadline)
            except KeyboardInterrupt:
                print(f"{folder}: stopped; the same command goes on")
                return False
            wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
            print(f"{folder}: finished at step {found.step}; {wall:.0f} s, CPU {cpu:.0f} s since it was started")
    return True


def is_finished(folder: Path, config: Config) -> bool:
    """Whether a run has done all of its steps."""
    file = folder / "last.pt"
    return file.exists() and load_checkpoint(file, "cpu")["step"] >= config.steps

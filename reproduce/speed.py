"""`python -m reproduce.speed`: images per CPU second of drawing synthetic tasks and of making batches of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from interconv_seg.config import Config, read_recipe
from interconv_seg.data import SetBatches
from interconv_seg.data.synthetic import draw_tasks
from interconv_seg.preparation import load_groups, training_batches

ROUNDS, STEPS = 7, 50


def main() -> None:
    """Prints a table: one thread, CPU time, interleaved, the median of seven rounds."""
    torch.set_num_threads(1)
    print("| images | drawn | batches, augmented | with prompts |")
    print("|---|---:|---:|---:|")
    for size in (48, 64, 128):
        text = f"synthetic:tasks=128,size={size}"
        config = Config(**{**read_recipe("synthetic"), "size": (size, size), "data": (text,)})
        groups = load_groups(config, [text], min_images=1)
        batches = training_batches(config, groups)
        augmented = SetBatches(
            groups, set_sizes=config.set_sizes, transform=batches.transform, images_per_batch=config.images_per_batch
        )
        kinds: list[Callable[[int], int]] = [partial(_draw, size), partial(_make, augmented), partial(_make, batches)]
        rates: list[list[float]] = [[] for _ in kinds]
        for turn in range(ROUNDS):
            for make, found in zip(kinds, rates, strict=True):
                start = time.process_time()
                count = make(turn * STEPS)
                found.append(count / (time.process_time() - start))
        print(f"| {size}x{size} | " + " | ".join(f"{median(found):,.0f}" for found in rates) + " |", flush=True)


def _draw(size: int, seed: int) -> int:
    return draw_tasks(64, 10, size, seed)[0].flatten(0, 1).shape[0]


def _make(batches: SetBatches, start: int) -> int:
    return sum(len(batches[step].images) for step in range(start, start + STEPS))


if __name__ == "__main__":
    main()

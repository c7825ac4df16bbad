"""Corrective prompts: placed where a prediction is wrong, as a user would, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .data import Batch
from .prompts import PromptKind, draw_in_regions
from .scribbles import ScribbleKind
from .seeding import random_of, seed_of

CORRECTIONS = (1, 3)  # in each round of ScribblePrompt's training
T = TypeVar("T")


def draw_corrections(
    predicted: Tensor,
    masks: Tensor,
    seeds: Sequence[int],
    number: int | tuple[int, int] = CORRECTIONS,
    kind: PromptKind = "mixed",
    scribbles: ScribbleKind = "stroke",
) -> Tensor:
    """Samples prompts where predictions are wrong: positive ones in what was missed, negative ones in what is too much.

    Each of the n prompts of an image lies in one of the two with the probability of its share in the wrong pixels. (For
    clicks, and for scribbles in evaluation, ScribblePrompt does the same; for scribbles in training it divides n
    uniformly.)

    Args:
        predicted: bool [N,H,W].
        masks: int64 [N,H,W], 1 where the label is, 0 where it is not, other values where nothing is known.
        seeds: one for each image.
        number: n, or (min, max) to sample it uniformly.
        kind: as in `draw_prompts`; "any" counts as "mixed", as ScribblePrompt corrects with one kind at a time.
        scribbles: as in `draw_prompts`.

    Returns:
        float32 [N,2,H,W], as `draw_prompts`. Images without errors get no prompts.

    Raises:
        ValueError: a kind is unknown.
    """
    regions = torch.stack([~predicted & (masks == 1), predicted & (masks == 0)], dim=1)
    areas = regions.flatten(2).sum(2).cpu().numpy()  # [N,2]
    low, high = (number, number) if isinstance(number, int) else number
    counts = np.zeros((len(masks), 2), np.int64)
    for count, (missed, added), seed in zip(counts, areas, seeds, strict=True):
        random = random_of(seed, "shares")
        total = int(random.integers(low, high + 1))
        count[0] = (random.random(total) * (missed + added) < missed).sum()
        count[1] = total - count[0]
    ranges = np.stack([counts, counts], axis=-1)
    return draw_in_regions(regions, seeds, ranges, "mixed" if kind == "any" else kind, scribbles)


def add_corrections(
    batch: Batch,
    predicted: Tensor,
    seeds: Sequence[int],
    number: int | tuple[int, int] = CORRECTIONS,
    kind: PromptKind = "mixed",
    scribbles: ScribbleKind = "stroke",
) -> Batch:
    """The batch with corrections besides its prompts. Images without prompts stay without.

    The prediction itself does not become an input of the network, other than in ScribblePrompt.

    Args:
        batch: with masks and prompts.
        predicted: bool [N,H,W].
        seeds: one for each image.
        number: as in `draw_corrections`.
        kind: as in `draw_corrections`.
        scribbles: as in `draw_corrections`.

    Returns:
        The batch with other prompts: the maximum of both.
    """
    assert batch.masks is not None
    assert batch.prompts is not None
    prompted = batch.prompts.flatten(1).amax(1) > 0
    drawn = draw_corrections(predicted, batch.masks, seeds, number, kind, scribbles) * prompted[:, None, None, None]
    marks = batch.prompts[:, :2].maximum(drawn)
    return replace(batch, prompts=torch.cat([marks, batch.prompts[:, 2:]], dim=1))


def correction_rounds(
    batch: Batch,
    predict: Callable[[Batch], tuple[T, Tensor]],
    rounds: int,
    seeds: Sequence[int],
    number: int | tuple[int, int] = CORRECTIONS,
    kind: PromptKind = "mixed",
    scribbles: ScribbleKind = "stroke",
) -> Iterator[T]:
    """Predicts in rounds: the first with the prompts of the batch, each other with corrections of the last prediction.

    Args:
        batch: with masks; with prompts, if there are several rounds.
        predict: returns a result and the predicted labels, bool [N,H,W].
        rounds: at least 1.
        seeds: one for each image.
        number: as in `draw_corrections`.
        kind: as in `draw_corrections`.
        scribbles: as in `draw_corrections`.

    Yields:
        The result of each round.
    """
    result, predicted = predict(batch)
    yield result
    for completed in range(1, rounds):
        of_round = [seed_of(seed, "correction", completed) for seed in seeds]
        batch = add_corrections(batch, predicted, of_round, number, kind, scribbles)
        result, predicted = predict(batch)
        yield result

"""From prompts to probabilities: windows, packed into ragged batches, through the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .model import Model
from .windows import first_windows, windows

MAX_IMAGES_PER_CALL = 32  # of the network: bounds memory, and the time until a newer stroke is seen


class Engine:
    """Segments the images of a session. It keeps nothing between calls but the images.

    Without a network, the mask of an image is what was painted on it.

    Attributes:
        images: float32 [K,C,H,W] in [0, 1].
        model: the network, or None.

    Args:
        images: as above.
        model: as above.
    """

    def __init__(self, images: Tensor, model: Model | None):
        self.images, self.model = images, model

    def predict(self, prompts: Mapping[int, Tensor], first: Sequence[int] = ()) -> Iterator[tuple[list[int], Tensor]]:
        """Segments all images, some of them after the other, as the caller takes results.

        Args:
            prompts: float32 [2,H,W] for the images that have any (`draw_prompts`).
            first: images whose windows are computed first. The results do not depend on it.

        Yields:
            Indices of images and their probabilities, float32 [n,H,W]. Each image once. Without prompts, 0 everywhere.
        """
        count, shape = len(self.images), self.images.shape[2:]
        if self.model is None or not prompts:
            found = torch.zeros(count, *shape)
            for i, drawn in prompts.items():
                found[i] = drawn[0] * (1 - drawn[1])
            yield list(range(count)), found
            return
        sets = windows(count, sorted(prompts), self.model.max_set)
        owner = first_windows(sets)
        urgent = {owner[i] for i in first if i in owner}
        order = sorted(range(len(sets)), key=lambda position: (position not in urgent, position))
        for call in _calls(order, sets):
            members = [i for position in call for i in sets[position]]
            inputs = self._inputs(members, prompts)
            probabilities = self.model.probabilities(inputs, [len(sets[position]) for position in call])
            owners = [position for position in call for _ in sets[position]]
            kept = [n for n, (i, position) in enumerate(zip(members, owners, strict=True)) if owner[i] == position]
            yield [members[n] for n in kept], probabilities[kept]

    def predict_without_prompts(self) -> Tensor:
        """The probabilities [K,H,W] of the network if no image has a prompt: an opponent to compare with."""
        count = len(self.images)
        if self.model is None:
            return torch.zeros(count, *self.images.shape[2:])
        sets = [
            list(range(first, min(first + self.model.max_set, count))) for first in range(0, count, self.model.max_set)
        ]
        found = [self.model.probabilities(self._inputs(members, {}), [len(members)]) for members in sets]
        return torch.cat(found)

    def _inputs(self, members: Sequence[int], prompts: Mapping[int, Tensor]) -> Tensor:
        channels = self.images.shape[1]
        inputs = torch.zeros(len(members), channels + 2, *self.images.shape[2:])
        inputs[:, :channels] = self.images[list(members)]
        for n, i in enumerate(members):
            if i in prompts:
                inputs[n, channels:] = prompts[i]
        return inputs


def _calls(order: Sequence[int], sets: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Positions of sets, in order, together as long as they have few images."""
    call: list[int] = []
    images = 0
    for position in order:
        if call and images + len(sets[position]) > MAX_IMAGES_PER_CALL:
            yield call
            call, images = [], 0
        call.append(position)
        images += len(sets[position])
    if call:
        yield call

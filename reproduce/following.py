"""Following: how well images without prompts are segmented in a set of which some images have prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from interconv_seg.data import Batch, Group, collate
from interconv_seg.evaluation import divide
from interconv_seg.inference import Ensemble
from interconv_seg.metrics import dice_scores
from interconv_seg.prompts import draw_prompts
from interconv_seg.seeding import seed_of
from torch import Tensor

SET_SIZE = 8
PROMPTED_IMAGES = (1, 2, 4)
PROMPTS = (1, 4)  # of each sign, on each prompted image


@dataclass(frozen=True)
class Followed:
    """Dice of one image without prompts.

    Attributes:
        group: the name of its group.
        subject: the name of its subject.
        sample: its name.
        prompted: the number of images with prompts in its set.
        prompts: on each of them, of each sign.
        dice: of the network (`following`) and of what it has to beat: the network when no image has prompts
            (`nowhere`); the baseline, which sees no prompt (`baseline`); and, of the prompted image that looks most
            like this one (the least mean squared difference), the predicted mask (`copied_prediction`) and the true
            one (`copied_truth`).
    """

    group: str
    subject: str
    sample: str
    prompted: int
    prompts: int
    dice: Mapping[str, float]


def follow(ensemble: Ensemble, baseline: Ensemble, group: Group, seeds: Sequence[int]) -> Iterator[Followed]:
    """Scores the images without prompts, in sets of 8 of which the first 1, 2 or 4 have prompts.

    Args:
        ensemble: networks with InterConv.
        baseline: networks without.
        group: at least 8 labelled samples.
        seeds: of the order of the samples and of the prompts.
    """
    for seed in seeds:
        sets = divide(group, SET_SIZE, seed)
        for count in PROMPTS:
            draw = partial(draw_prompts, positive=count, negative=count)
            batch = collate([s for s, _ in sets], prompts=draw, seeds=[seed_of(seed, group.name)] * len(sets))
            assert batch.masks is not None
            truths = batch.masks
            nowhere, unprompted = (_predicted(e, batch, 0) for e in (ensemble, baseline))
            for prompted in PROMPTED_IMAGES:
                found = _predicted(ensemble, batch, prompted)
                nearest = _nearest_prompted(batch.images, prompted)
                predictions = {
                    "following": found,
                    "nowhere": nowhere,
                    "baseline": unprompted,
                    "copied_prediction": found[nearest],
                    "copied_truth": truths[nearest],
                }
                dice = {name: dice_scores(mask, truths, 2)[:, 0] for name, mask in predictions.items()}
                for i, (members, counted) in enumerate(sets):
                    # The images at the start of the last set may have been counted in another one.
                    for j in range(max(prompted, len(members.samples) - counted), len(members.samples)):
                        sample = members.samples[j]
                        values = {name: float(value[SET_SIZE * i + j]) for name, value in dice.items()}
                        yield Followed(group.name, sample.subject, sample.name, prompted, count, values)


def _predicted(ensemble: Ensemble, batch: Batch, prompted: int) -> Tensor:
    """Masks int64 [N,H,W], where only the first images of each set keep their prompts."""
    assert batch.prompts is not None
    kept = (torch.arange(len(batch.images)) % SET_SIZE < prompted).float()[:, None, None, None]
    masked = replace(batch, prompts=batch.prompts * kept)
    return torch.cat([ensemble.probabilities(part).argmax(1).cpu() for part in masked.split(-(-len(kept) // 64))])


def _nearest_prompted(images: Tensor, prompted: int) -> Tensor:
    """For each image, the index of the prompted image of its set that looks most like it."""
    sets = images.flatten(1).unflatten(0, (-1, SET_SIZE))
    nearest = torch.cdist(sets, sets[:, :prompted]).argmin(-1)
    return (nearest + SET_SIZE * torch.arange(len(sets))[:, None]).flatten()

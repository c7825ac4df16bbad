"""Scores at the resolution of the files: masks as stored, slices joined to volumes, distances in millimetres."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Config
from .data import Collection, Group, Sample, Scan
from .data.files import IGNORED
from .data.nifti import AXES, grid, is_nifti
from .metrics import TOLERANCE, dice_scores, surface_scores
from .preparation import to_classes


@dataclass(frozen=True)
class SampleScore:
    """The metrics of one image or volume, of each structure (`metrics`).

    Attributes:
        sample: of an image; of a volume its first slice.
        name: of the image or the volume.
        dice: Dice.
        hd95: HD95, in millimetres, or pixels where the spacing is not known; None unless it was measured.
        surface_dice: surface Dice; likewise.
    """

    sample: Sample
    name: str
    dice: tuple[float, ...]
    hd95: tuple[float, ...] | None = None
    surface_dice: tuple[float, ...] | None = None


class StoredTruth:
    """The masks of data sets as they are stored.

    Args:
        config: of the run.
        collections: the data sets, with the scans that the evaluated samples are of.
        tolerance: of surface Dice, in millimetres, or pixels where the spacing is not known.
    """

    def __init__(self, config: Config, collections: Sequence[Collection], tolerance: float = TOLERANCE):
        self.config, self.tolerance = config, tolerance
        self._scans = {(scan.task, scan.name): (scan, found) for found in collections for scan in found.scans}

    def predicted(self, sample: Sample, probabilities: Tensor) -> Tensor:
        """The most probable class of each pixel, at the size that the image has in its file.

        Args:
            sample: the image.
            probabilities: [classes,h,w], of any size.

        Returns:
            int16 [H,W].
        """
        if probabilities.shape[1:] != sample.stored_size:
            probabilities = F.interpolate(probabilities[None], sample.stored_size, mode="bilinear", antialias=True)[0]
        return probabilities.argmax(0).short()

    def scores(self, group: Group, predicted: Mapping[str, Tensor]) -> Iterator[SampleScore]:
        """The metrics of each image and volume of a group.

        Neighbouring slices are a volume. Slices with others between them that are not in the group are images.

        Args:
            group: the group.
            predicted: for the name of each of its samples, as from `predicted`.
        """
        classes = max(2, self.config.classes)
        for samples in self._volumes(group):
            scan, _ = self._scans[samples[0].task, samples[0].name]
            masks = replace(group, samples=tuple(self._stored(sample) for sample in samples)).masks()
            assert masks is not None
            truth, found = masks.long(), torch.stack([predicted[sample.name] for sample in samples]).long()
            name, spacing = scan.case, _spacing(scan)
            if len(samples) == 1:
                name, spacing, truth, found = scan.name, spacing[1:], truth[0], found[0]
            dice = dice_scores(found[None], truth[None], classes)[0]
            distances = surface_scores(found, truth, classes, spacing, self.tolerance)
            yield SampleScore(samples[0], name, tuple(dice.tolist()), *distances)

    def _stored(self, sample: Sample) -> Sample:
        """The sample with its mask as stored, in class indices."""
        scan, collection = self._scans[sample.task, sample.name]
        mask = torch.full(sample.stored_size, IGNORED, dtype=torch.int16)
        if scan.mask_reader is not None:
            mask = torch.from_numpy(scan.mask_reader())
        stored = replace(sample, mask=mask)
        return (
            stored if self.config.mode == "interactive" else next(iter(to_classes([stored], self.config, collection)))
        )

    def _volumes(self, group: Group) -> list[list[Sample]]:
        """The samples of each volume, in order of its slices; images alone."""
        cases: dict[str, list[tuple[int, Sample]]] = {}
        for sample in group.samples:
            scan, _ = self._scans[sample.task, sample.name]
            cases.setdefault(scan.case, []).append((scan.index or 0, sample))
        volumes: list[list[Sample]] = []
        for slices in cases.values():
            slices.sort(key=lambda entry: entry[0])
            samples = [sample for _, sample in slices]
            is_volume = slices[-1][0] - slices[0][0] == len(slices) - 1
            volumes += [samples] if is_volume else [[sample] for sample in samples]
        return volumes


def _spacing(scan: Scan) -> tuple[float, ...]:
    """The distance of neighbouring slices, and of pixels along H and W; 1 where the file does not say."""
    if not is_nifti(scan.source):
        return 1.0, 1.0, 1.0
    found = grid(scan.source)
    across = AXES.index(scan.axis) if found.flat is None else found.flat
    height, width = (step for axis, step in enumerate(found.spacing) if axis != across)
    return found.spacing[across], height, width

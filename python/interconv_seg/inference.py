"""Inference: the class probabilities of one or several networks, and the segmentation of sets of scans."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

import interconv_kernels as ik

from .config import Config
from .data import Batch, DataError, Group, Sample, Scan, collate
from .data.prompt_files import resize_prompts
from .networks import SetNetwork
from .runs import Run, common_config

MIN_WINDOW = 16  # pixels
WINDOW_IMAGES = 16  # in one call of a network, unless a set has more
FLIPS = ((), (2,), (3,), (2, 3))  # axes: none, up and down, left and right, both


def class_probabilities(logits: Tensor) -> Tensor:
    """Probabilities of the classes, from logits.

    Args:
        logits: [N,classes,H,W]; or binary [N,1,H,W].

    Returns:
        float32 [N,classes,H,W]; for binary logits [N,2,H,W], background and label.
    """
    if logits.shape[1] > 1:
        return logits.float().softmax(1)
    label = logits.float().sigmoid()
    return torch.cat([1 - label, label], dim=1)


class Ensemble:
    """One or several trained networks. Its probabilities are the mean of theirs (section 4.2).

    Attributes:
        config: the configuration of the first run; the others agree with it in what inference needs.
        networks: the networks.
        device: where they are.
        window: as given.
        flips: as given.

    Args:
        runs: at least one.
        device: the device that the runs were opened on.
        window: (H, W); larger images are segmented window by window, each window cut from all images of a set
            (`monai.SetSlidingWindowInferer`: half overlap, Gaussian weights). None: whole images.
        flips: test-time augmentation: probabilities are the mean over the images as they are and flipped along either
            axis and both, flipped back. All images of a set are flipped alike.

    Raises:
        ValueError: there are no runs, they do not fit together (`common_config`), or the window is too small.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        device: torch.device | str = "cpu",
        window: tuple[int, int] | None = None,
        flips: bool = False,
    ):
        if window is not None and min(window) < MIN_WINDOW:
            raise ValueError(f"window = {window}: expected at least {MIN_WINDOW} pixels along each axis")
        self.config = common_config(runs)
        self.networks, self.device = [run.network for run in runs], torch.device(device)
        self.window, self.flips = window, flips

    @classmethod
    def open(
        cls,
        folders: Sequence[Path],
        device: torch.device | str = "cpu",
        window: tuple[int, int] | None = None,
        flips: bool = False,
    ) -> Ensemble:
        """Loads runs.

        Args:
            folders: the folders of the runs.
            device: where the networks go.
            window: as above.
            flips: as above.

        Raises:
            ValueError: as in `Run.open` and above.
        """
        return cls([Run.open(folder, device) for folder in folders], device, window, flips)

    @property
    def structures(self) -> list[str]:
        """The names of classes 1, 2, ...; in interactive mode "label", since each task has a name of its own."""
        labels = self.config.labels
        return ["label"] if self.config.mode == "interactive" else [labels[value] for value in sorted(labels)]

    @torch.no_grad()
    def probabilities(self, batch: Batch) -> Tensor:
        """The mean of the networks' probabilities.

        Args:
            batch: on any device.

        Returns:
            float32 [N,classes,H,W], as in `class_probabilities`, on the device of the networks.
        """
        moved = batch.to(self.device)
        flips = FLIPS if self.flips else FLIPS[:1]
        found = [
            self._of_network(n, moved.inputs.flip(axes), moved.sets).flip(axes) for n in self.networks for axes in flips
        ]
        return torch.stack(found).mean(0)

    def _of_network(self, network: SetNetwork, inputs: Tensor, sets: ik.Sets) -> Tensor:
        def probabilities(x: Tensor, sets: ik.Sets) -> Tensor:
            return class_probabilities(network(x, sets))

        if self.window is None:
            return probabilities(inputs, sets)
        from .monai import SetSlidingWindowInferer

        size = [min(window, pixels) for window, pixels in zip(self.window, inputs.shape[2:], strict=True)]
        inferer = SetSlidingWindowInferer(size, sw_batch_size=WINDOW_IMAGES, overlap=0.5, mode="gaussian")
        return cast(Tensor, inferer(inputs, probabilities, sets))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segmentation of one scan, of the size that the scan has in its file.

    Attributes:
        scan: the scan.
        probabilities: of the classes, float32 [classes,H,W], on the CPU.
        mask: the most probable class of each pixel, int64 [H,W], in the values of the training masks (interactive mode:
            0 and 1).
    """

    scan: Scan
    probabilities: Tensor
    mask: Tensor

    @property
    def uncertainty(self) -> Tensor:
        """The entropy of the probabilities divided by its maximum, float32 [H,W]: 0 certain, 1 all classes alike."""
        return (torch.special.entr(self.probabilities).sum(0) / math.log(len(self.probabilities))).clamp(0, 1)


def segment(
    ensemble: Ensemble,
    scans: Sequence[Scan],
    prompts: Sequence[Tensor | None] | None = None,
    max_set_size: int | None = None,
) -> Iterator[Segmentation]:
    """Segments the scans of one set together. Their sizes may differ.

    The scans are resized to the size of the runs, and the probabilities back to the size of each scan. With windows
    (`Ensemble`), or if the runs have no size, scans keep their sizes; if these differ, all are resized to the largest
    height and width among them.

    Args:
        ensemble: the networks.
        scans: the set, such as one of `data.read(path).sets()`. Their masks are not read.
        prompts: in interactive mode, for each scan float32 [2,H,W] of its size in the file, 1 at positive (channel 0)
            and negative (channel 1) prompts, or None if it has no prompts (as from `data.read_prompts`). If the network
            takes boxes, [3,H,W].
        max_set_size: larger sets are divided into sets of at most this many consecutive scans, which saves memory.
            None: no limit.

    Yields:
        The segmentation of each scan, in order.

    Raises:
        ValueError: prompts in automatic mode or none in interactive mode, their number is not that of the scans, or
            `max_set_size` is below 1.
        DataError: a scan cannot be read (`Scan.load`), or its prompts have another size.
    """
    config = ensemble.config
    check_mode(config, prompts is not None)
    if prompts is not None and len(prompts) != len(scans):
        raise ValueError(f"{len(prompts)} prompts for {len(scans)} scans: expected one entry for each scan")
    if max_set_size is not None and max_set_size < 1:
        raise ValueError(f"max_set_size = {max_set_size}: expected at least 1")
    values = torch.tensor([0, *sorted(config.labels)] if config.labels else [0, 1])
    step = max_set_size or max(1, len(scans))
    for first in range(0, len(scans), step):
        part = scans[first : first + step]
        samples = _load(part, config, windows=ensemble.window is not None)
        batch = collate([Group(part[0].subject, tuple(samples))])
        if prompts is not None:
            size = (batch.images.shape[2], batch.images.shape[3])
            resized = [
                _resized_prompts(drawn, sample, config.prompt_channels, size)
                for drawn, sample in zip(prompts[first : first + step], samples, strict=True)
            ]
            batch = replace(batch, prompts=torch.stack(resized))
        for scan, sample, found in zip(part, samples, ensemble.probabilities(batch).cpu(), strict=True):
            probabilities = F.interpolate(found[None], sample.stored_size, mode="bilinear", antialias=True)[0]
            yield Segmentation(scan, probabilities, values[probabilities.argmax(0)])


def check_mode(config: Config, prompts: bool) -> None:
    """Checks that there are prompts in interactive mode, and none in automatic mode.

    Args:
        config: of the runs.
        prompts: whether there are any.

    Raises:
        ValueError: it is not so.
    """
    if (config.mode == "interactive") != prompts:
        expected = "expected no prompts" if prompts else "expected prompts"
        raise ValueError(f"the network was trained in {config.mode} mode: {expected}")


def check_prompts(prompts: Tensor, sample: Sample, channels: int) -> None:
    """Checks that prompts have the size of their image.

    Args:
        prompts: [channels,H,W].
        sample: the image.
        channels: what the network takes.

    Raises:
        DataError: they do not.
    """
    if prompts.shape != (channels, *sample.stored_size):
        raise DataError(
            f"{sample.name}: prompts of shape {tuple(prompts.shape)}, expected {(channels, *sample.stored_size)} as the"
            f" image has {sample.stored_size} pixels"
        )


def _load(scans: Sequence[Scan], config: Config, windows: bool) -> list[Sample]:
    """The images of a set, of one size."""
    size = None if windows else config.size
    samples = [replace(scan, mask_reader=None).load(size, config.channels) for scan in scans]
    shapes = [sample.image.shape[1:] for sample in samples]
    largest = torch.Size(max(lengths) for lengths in zip(*shapes, strict=True))
    for i, sample in enumerate(samples):
        if shapes[i] != largest:
            image = F.interpolate(sample.image[None], largest, mode="bilinear", antialias=True)[0].clamp(0, 1)
            samples[i] = replace(sample, image=image)
    return samples


def _resized_prompts(prompts: Tensor | None, sample: Sample, channels: int, size: tuple[int, int]) -> Tensor:
    """The prompts of a sample at the size of the network's input. Every prompt keeps at least one pixel."""
    if prompts is None:
        return torch.zeros(channels, *size)
    check_prompts(prompts, sample, channels)
    return resize_prompts(prompts, size)

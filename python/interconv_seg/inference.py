"""Inference: the class probabilities of one or several networks, and the segmentation of sets of scans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Config
from .data import Batch, DataError, Group, Sample, Scan, collate
from .data.prompt_files import resize_prompts
from .runs import Run, common_config


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

    Args:
        runs: at least one.
        device: the device that the runs were opened on.

    Raises:
        ValueError: there are no runs, or they do not fit together (`common_config`).
    """

    def __init__(self, runs: Sequence[Run], device: torch.device | str = "cpu"):
        self.config = common_config(runs)
        self.networks, self.device = [run.network for run in runs], torch.device(device)

    @classmethod
    def open(cls, folders: Sequence[Path], device: torch.device | str = "cpu") -> Ensemble:
        """Loads runs.

        Args:
            folders: the folders of the runs.
            device: where the networks go.

        Raises:
            ValueError: as in `Run.open`, or the runs do not fit together.
        """
        return cls([Run.open(folder, device) for folder in folders], device)

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
        return torch.stack([class_probabilities(n(moved.inputs, moved.sets)) for n in self.networks]).mean(0)


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


def segment(
    ensemble: Ensemble,
    scans: Sequence[Scan],
    prompts: Sequence[Tensor | None] | None = None,
    max_set_size: int | None = None,
) -> Iterator[Segmentation]:
    """Segments the scans of one set together. Their sizes may differ.

    The scans are resized to the size of the runs, and the probabilities back to the size of each scan.

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
        samples = [replace(scan, mask_reader=None).load(config.size, config.channels) for scan in part]
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


def _resized_prompts(prompts: Tensor | None, sample: Sample, channels: int, size: tuple[int, int]) -> Tensor:
    """The prompts of a sample at the size of the network's input."""
    if prompts is None:
        return torch.zeros(channels, *size)
    if prompts.shape != (channels, *sample.stored_size):
        raise DataError(
            f"{sample.name}: prompts of shape {tuple(prompts.shape)}, expected {(channels, *sample.stored_size)} as the"
            f" image has {sample.stored_size} pixels"
        )
    return resize_prompts(prompts, size)

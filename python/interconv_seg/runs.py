"""Runs: the folders that hold the results of trainings.

config.yaml     the configuration (`Config`): enough to build the network and to resume
split.json      the subjects for training, validation and testing (`data.Split`), unless there are other validation data
data.json       digests of the images and masks, by which a resumed run notices that they have changed
metrics.csv     one row per validation
last.pt         the checkpoint to resume from
best.pt         the weights with the lowest validation loss
tensorboard/    the values of metrics.csv for TensorBoard
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import interconv_kernels as ik

from .checkpoints import load_checkpoint
from .config import Config
from .networks import SetNetwork


@dataclass(frozen=True)
class Run:
    """A trained network, for inference.

    Attributes:
        folder: the folder of the run.
        config: its configuration.
        network: its network with the weights of the lowest validation loss, in evaluation mode.
    """

    folder: Path
    config: Config
    network: SetNetwork

    @classmethod
    def open(cls, folder: Path, device: torch.device | str = "cpu") -> Run:
        """Loads a run.

        Args:
            folder: the folder of the run.
            device: where the network goes.

        Raises:
            ValueError: `folder` is not the folder of a run, the run has not saved weights yet, or they cannot be used.
        """
        config = Config.read(folder)
        if not (folder / "best.pt").is_file():
            raise ValueError(f"{folder}: no best.pt in it, expected a run with at least one validation")
        network = config.new_network()
        load_weights(network, folder / "best.pt", device)
        return cls(folder, config, network.to_device(device).eval())


def load_weights(network: SetNetwork, file: Path, device: torch.device | str) -> None:
    """Loads the weights of a checkpoint.

    Args:
        network: takes the weights.
        file: the checkpoint, such as best.pt.
        device: where it is read to.

    Raises:
        ValueError: the checkpoint cannot be used, or is not of such a network.
    """
    _load(network, load_checkpoint(file, device)["network"], file)


def _load(network: SetNetwork, weights: Mapping[str, Any], file: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{file}: does not fit the network ({' '.join(str(error).split())[:300]})") from error


def warm_start(network: SetNetwork, folder: Path, device: torch.device | str) -> None:
    """Gives an InterConv network the best weights of its baseline: Wu = W, Ws = 0, so that it starts with its outputs.

    Args:
        network: with the placement "replace".
        folder: of a run of the baseline with as many features.
        device: where the weights are read to.

    Raises:
        ValueError: the run cannot be used, or is not of such a baseline.
    """
    baseline = Run.open(folder, device)
    if baseline.config.interconv is not None:
        raise ValueError(f"{folder}: a run with InterConv ({baseline.config.interconv}), expected one of the baseline")
    ik.replace_with_interconv(baseline.network)
    _load(network, baseline.network.state_dict(), folder)


def common_config(runs: Sequence[Run]) -> Config:
    """The configuration that the runs of an ensemble or a comparison share, as to images and classes.

    Args:
        runs: at least one.

    Returns:
        The configuration of the first run.

    Raises:
        ValueError: there are no runs, or their mode, channels, labels, size, axis or group_regex differ.
    """
    if not runs:
        raise ValueError("no runs: expected at least one")
    first = runs[0]
    for run in runs[1:]:
        for name in ("mode", "channels", "labels", "size", "axis", "group_regex"):
            expected, found = getattr(first.config, name), getattr(run.config, name)
            if found != expected:
                raise ValueError(f"{run.folder}: {name} is {found}, expected {expected} as in {first.folder}")
    return first.config

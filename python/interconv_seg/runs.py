"""Runs: the configuration of a training, and the folder that holds its results.

config.json     the configuration (`Config`): enough to build the network and to resume
split.json      the subjects for training, validation and testing (`data.Split`), unless there are other validation data
data.json       digests of the images and masks, by which a resumed run notices that they have changed
metrics.csv     one row per validation
last.pt         the checkpoint to resume from
best.pt         the weights with the lowest validation loss
tensorboard/    the values of metrics.csv for TensorBoard
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from interconv_kernels._files import write_text

from .checkpoints import load_checkpoint
from .data.nifti import AXES, Axis
from .data.sets import SetRule
from .data.slices import check_slices
from .networks import SetNetwork, build
from .networks.registry import Features, Placement
from .seeding import seed_of

Mode: TypeAlias = Literal["interactive", "automatic"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Schedule: TypeAlias = Literal["constant", "cosine"]
# What nobody means is refused before memory or days are spent on it.
MAXIMUM = {
    "channels": 1024,
    "features": 16384,
    "size": 8192,
    "sets_per_batch": 65536,
    "set_sizes": 65536,
    "steps": 10**9,
    "interval": 10**9,
    "patience": 10**9,
    "accumulate": 65536,
}


@dataclass(frozen=True)
class Config:
    """The configuration of a training. `config.json` holds the same names.

    Attributes:
        mode: "interactive": binary segmentation from prompts, sets of images of a task (section 4.1); "automatic":
            segmentation into classes, sets of scans of a subject (section 4.2).
        network: a name as in `build`.
        interconv: the placement as in `build`; None: the baseline.
        features: as in `build`.
        channels: of the images. In interactive mode the network has two more input channels, the prompts.
        labels: in automatic mode, the name of each value in the masks, without the background (0). Class i of the
            network's output is the i-th value in ascending order.
        data: the paths that were read (`data.read`).
        validation_data: the paths of the validation data. If empty, the subjects of `data` are split (`data.Split`).
        size: (H, W) to which images are resized; None: as stored.
        axis: the anatomical plane of the slices of volumes.
        group_regex: finds the subject in the name of a case (`data.read`).
        sets_per_batch: B.
        set_sizes: (min, max) images in a set; None: all scans of a subject.
        augment: random geometry and intensities.
        steps: the maximum number of training steps.
        interval: steps between validations, checkpoints and rows of metrics.csv.
        patience: training stops if the validation loss has not decreased for this many steps.
        learning_rate: of Adam.
        schedule: of the learning rate. "constant"; or "cosine", decreasing to 0 at the last step.
        precision: "float32"; or "bfloat16" or (only on CUDA) "float16" by autocast, with weights in float32.
        accumulate: the number of parts in which a batch passes through the network. It saves memory and does not change
            the gradient.
        seed: of the weights, the batches and all other random choices.
        initial: the folder of a run whose best weights are the first ones (fine-tuning); None: random weights.
        sets_of: which images may form a set (`data.group_samples`); None: those of a task in interactive mode, those of
            a subject in automatic mode.
        one_per_subject: in interactive mode, of each subject only the image with the largest area of the label.
        slices: which slices of volumes are used (`data.select_slices`).

    Raises:
        ValueError: a number is out of range, or `labels` are empty in automatic mode.
    """

    mode: Mode
    network: str
    interconv: Placement | None = None
    features: Features | None = None
    channels: int = 1
    labels: dict[int, str] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    validation_data: tuple[str, ...] = ()
    size: tuple[int, int] | None = (128, 128)
    axis: Axis = "axial"
    group_regex: str | None = None
    sets_per_batch: int = 8
    set_sizes: tuple[int, int] | None = (1, 8)
    augment: bool = True
    steps: int = 100_000
    interval: int = 125
    patience: int = 40_000
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    precision: Precision = "float32"
    accumulate: int = 1
    seed: int = 0
    initial: str | None = None
    sets_of: SetRule | None = None
    one_per_subject: bool = False
    slices: str = "all"

    def __post_init__(self) -> None:
        for name, maximum in MAXIMUM.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not 1 <= number <= maximum:
                    raise ValueError(f"{name} = {value}: expected from 1 to {maximum}")
        if self.set_sizes is not None and self.set_sizes[0] > self.set_sizes[1]:
            raise ValueError(f"set_sizes = {self.set_sizes}: expected (min, max) with min <= max")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate = {self.learning_rate}: expected a finite number above 0")
        check_slices(self.slices)
        if self.mode == "automatic" and not self.labels:
            raise ValueError("labels are empty: expected the name of each value in the masks")

    @property
    def rule(self) -> SetRule:
        """Which images may form a set."""
        return self.sets_of or ("task" if self.mode == "interactive" else "subject")

    @property
    def classes(self) -> int:
        """Channels of the network's output: 1 in interactive mode, else the background and each label."""
        return 1 if self.mode == "interactive" else 1 + len(self.labels)

    def new_network(self) -> SetNetwork:
        """The network with fresh weights, which are a function of the seed."""
        prompts = 2 if self.mode == "interactive" else 0
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(self.seed, "weights"))
            return build(
                self.network,
                self.interconv,
                in_channels=self.channels + prompts,
                classes=self.classes,
                features=self.features,
            )

    def write(self, folder: Path) -> None:
        """Writes config.json.

        Args:
            folder: the folder of the run.
        """
        write_text(folder / "config.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Config:
        """Reads config.json.

        Args:
            folder: the folder of a run.

        Raises:
            ValueError: there is no config.json, or it cannot be used.
        """
        file = folder / "config.json"
        if not file.is_file():
            raise ValueError(f"{folder}: no config.json in it, expected the folder of a run (`interconv train`)")
        try:
            values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            values = {"sets_per_batch" if k == "sets" else k: v for k, v in values.items()}  # its name in old files
            if isinstance(values["axis"], int):  # as old files have it
                values["axis"] = AXES[values["axis"]]
            values["labels"] = {int(value): name for value, name in values["labels"].items()}
            for entry in fields(cls):
                if isinstance(values.get(entry.name), list):
                    values[entry.name] = tuple(values[entry.name])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file}: cannot be used ({type(error).__name__}: {error})") from error


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
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(folder, config, network.eval())


def load_weights(network: SetNetwork, file: Path, device: torch.device | str) -> None:
    """Loads the weights of a checkpoint.

    Args:
        network: takes the weights.
        file: the checkpoint, such as best.pt.
        device: where it is read to.

    Raises:
        ValueError: the checkpoint cannot be used, or is not of such a network.
    """
    weights = load_checkpoint(file, device)["network"]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{file}: does not fit the network ({' '.join(str(error).split())[:300]})") from error


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

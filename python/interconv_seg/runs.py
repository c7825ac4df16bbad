"""Runs: the configuration of a training, and the folder that holds its results.

config.json     the configuration (`Config`): enough to build the network and to resume
metrics.csv     one row per validation
last.pt         the checkpoint to resume from
best.pt         the weights with the lowest validation loss
tensorboard/    the values of metrics.csv for TensorBoard
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from interconv_kernels._files import replacing, write_text

from .networks import SetNetwork, build
from .networks.registry import Features, Placement
from .seeding import seed_of

Mode: TypeAlias = Literal["interactive", "automatic"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Schedule: TypeAlias = Literal["constant", "cosine"]


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
        validation_data: the paths of the validation data. If empty, the subjects of `data` are split (`split`).
        size: (H, W) to which images are resized; None: as stored.
        axis: along which volumes are sliced.
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
    axis: int = 2
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

    def __post_init__(self) -> None:
        for name in ("channels", "sets_per_batch", "steps", "interval", "patience", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate = {self.learning_rate}: expected a number above 0")
        if self.mode == "automatic" and not self.labels:
            raise ValueError("labels are empty: expected the name of each value in the masks")

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
            values["labels"] = {int(value): name for value, name in values["labels"].items()}
            for entry in fields(cls):
                if isinstance(values[entry.name], list):
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
            ValueError: `folder` is not the folder of a run, or the run has not saved weights yet.
        """
        config = Config.read(folder)
        if not (folder / "best.pt").is_file():
            raise ValueError(f"{folder}: no best.pt in it, expected a run with at least one validation")
        network = config.new_network()
        network.load_state_dict(load_checkpoint(folder / "best.pt", device)["network"])
        return cls(folder, config, network.to_device(device).eval())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint completely or not at all.

    Args:
        path: the file.
        state: tensors and plain values.
    """
    with replacing(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Reads a checkpoint: only tensors and plain values, without running code.

    Args:
        path: the file.
        device: where the tensors go.

    Raises:
        ValueError: the file is broken.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zip and pickle decoders raise anything
        raise ValueError(f"{path}: cannot be read as a checkpoint ({type(error).__name__})") from error


def common_config(runs: Sequence[Run]) -> Config:
    """The configuration that the runs of an ensemble or a comparison share, as to images and classes.

    Args:
        runs: at least one.

    Returns:
        The configuration of the first run.

    Raises:
        ValueError: there are no runs, or their mode, channels, labels, size or axis differ.
    """
    if not runs:
        raise ValueError("no runs: expected at least one")
    first = runs[0]
    for run in runs[1:]:
        for name in ("mode", "channels", "labels", "size", "axis"):
            expected, found = getattr(first.config, name), getattr(run.config, name)
            if found != expected:
                raise ValueError(f"{run.folder}: {name} is {found}, expected {expected} as in {first.folder}")
    return first.config

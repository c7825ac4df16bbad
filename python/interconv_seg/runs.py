"""Runs: what one training was told to do, and the folder that holds all it left.

config.json     what it was told (`Config`): enough to build the network anew and to go on
metrics.csv     a row for each interval
last.pt         the checkpoint to go on from
best.pt         the weights of the least validation loss
tensorboard/    the same figures for TensorBoard
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from .atomic import replacing, write_text
from .networks import SetNetwork, build
from .networks.registry import Features, Placement
from .seeding import seed_of

Mode = Literal["interactive", "automatic"]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Config:
    """What a training is told. `config.json` holds the same names.

    Attributes:
        mode: "interactive", binary with prompts, sets of a task's images (paper, section 4.1); or "automatic", into
            classes, sets of a subject's scans (section 4.2).
        network, interconv, features: as in `build`.
        channels: of the images; in interactive mode the network has two more, the prompts.
        labels: in automatic mode, the name of each value that masks hold, background (0) left out. Class i of the
            network's output is the i-th value in order.
        data, validation_data: the paths that were read (`data.read`). Without validation_data, the subjects of `data`
            are split (`split`).
        size: (H, W) that images are resized to; None: as they are stored.
        axis: along which volumes are sliced.
        sets: in a batch. set_sizes: (least, most) images in a set, or None, all scans of a subject.
        augment: random geometry and intensities.
        steps: iterations at most. interval: iterations between validations, checkpoints and rows of metrics.csv.
        patience: training stops when the validation loss has not fallen for so many iterations.
        learning_rate: of Adam. schedule: "constant", or "cosine", to 0 at the last step.
        precision: "float32"; "bfloat16" or, on CUDA, "float16" by autocast, weights staying float32.
        accumulate: parts that a batch goes through the network in, to save memory: the gradients are the batch's.
        seed: of weights, batches and all else that is random.
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
    sets: int = 8
    set_sizes: tuple[int, int] | None = (1, 8)
    augment: bool = True
    steps: int = 100_000
    interval: int = 125
    patience: int = 40_000
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    precision: Precision = "float32"
    accumulate: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("channels", "sets", "steps", "interval", "patience", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate = {self.learning_rate}: expected a number above 0")
        if self.mode == "automatic" and not self.labels:
            raise ValueError("labels are empty: expected the name of each value in the masks")

    @property
    def classes(self) -> int:
        """Channels of the network's output: 1 in interactive mode, else background and one for each label."""
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
        """Write config.json into the folder of a run."""
        write_text(folder / "config.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Config:
        """Raises ValueError where `folder` holds no config.json, or none that this version can use."""
        file = folder / "config.json"
        if not file.is_file():
            raise ValueError(f"{folder}: no config.json in it, expected the folder of a run (`interconv train`)")
        try:
            values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            values["labels"] = {int(value): name for value, name in values["labels"].items()}
            for entry in fields(cls):
                if isinstance(values[entry.name], list):
                    values[entry.name] = tuple(values[entry.name])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file}: cannot be used ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class Run:
    """A finished training: its config and its network with the weights of the least validation loss, for inference."""

    folder: Path
    config: Config
    network: SetNetwork

    @classmethod
    def open(cls, folder: Path, device: torch.device | str = "cpu") -> Run:
        """Raises ValueError where `folder` is not the folder of a run, or the run has saved nothing yet."""
        config = Config.read(folder)
        if not (folder / "best.pt").is_file():
            raise ValueError(f"{folder}: no best.pt in it, expected a run that got as far as its first validation")
        network = config.new_network()
        network.load_state_dict(load_checkpoint(folder / "best.pt", device)["network"])
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(folder, config, network.eval())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    with replacing(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Raises ValueError where the file is broken. Tensors and plain values are read, no code is run."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zip and pickle decoders raise anything
        raise ValueError(f"{path}: cannot be read as a checkpoint ({type(error).__name__})") from error


def same_task(runs: list[Run]) -> Config:
    """The config that runs have in common as far as images and classes go: what an ensemble or a comparison needs.

    Raises:
        ValueError: no runs, or their mode, channels, labels or size differ.
    """
    if not runs:
        raise ValueError("no runs: expected at least one")
    first = runs[0]
    for run in runs[1:]:
        for name in ("mode", "channels", "labels", "size", "axis"):
            ours, theirs = getattr(first.config, name), getattr(run.config, name)
            if ours != theirs:
                raise ValueError(f"{run.folder}: {name} is {theirs}, expected {ours} as in {first.folder}")
    return first.config

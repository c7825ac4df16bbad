"""The configuration of a training, the recipes that it can start from, and the YAML files that hold both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
import yaml

from interconv_kernels._files import write_text
from interconv_kernels.errors import unknown_name

from .data.augmentation import AUGMENTATIONS
from .data.nifti import AXES, Axis
from .data.sampling import Sampling
from .data.set_augmentation import SET_AUGMENTATIONS
from .data.sets import SetRule
from .data.slices import check_slices
from .networks import SetNetwork, build
from .networks.registry import Features, Placement
from .prompts import PromptKind
from .scribbles import ScribbleKind
from .seeding import seed_of

FILE = "config.yaml"
Mode: TypeAlias = Literal["interactive", "automatic"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Schedule: TypeAlias = Literal["constant", "cosine", "poly"]
Optimizer: TypeAlias = Literal["adam", "sgd"]
Prompted: TypeAlias = Literal["all", "some"]
Selection: TypeAlias = Literal["loss", "dice"]
RECIPES = ("small", "synthetic", "paper-interactive", "paper-automatic", "nnunet")
CHOICES: dict[str, tuple[str, ...]] = {
    "mode": get_args(Mode),
    "axis": AXES,
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "precision": get_args(Precision),
    "kind": get_args(PromptKind),
    "prompted": get_args(Prompted),
    "scribbles": get_args(ScribbleKind),
    "sampling": get_args(Sampling),
    "selection": get_args(Selection),
}
# What nobody means is refused before memory or days are spent on it.
MAXIMUM = {
    "channels": 1024,
    "features": 16384,
    "size": 8192,
    "sets_per_batch": 65536,
    "images_per_batch": 65536,
    "set_sizes": 65536,
    "steps": 10**9,
    "interval": 10**9,
    "patience": 10**9,
    "accumulate": 65536,
    "rounds": 100,
}


@dataclass(frozen=True)
class Config:
    """The configuration of a training. `config.yaml` holds the same names.

    Attributes:
        mode: "interactive": binary segmentation from prompts, sets of images of a task (section 4.1); "automatic":
            segmentation into classes, sets of scans of a subject (section 4.2).
        network: a name as in `build`.
        interconv: the placement as in `build`; None: the baseline.
        features: as in `build`.
        channels: of the images. In interactive mode the network has more input channels, for prompts.
        labels: in automatic mode, the name of each value in the masks, without the background (0). Class i of the
            network's output is the i-th value in ascending order.
        data: the paths that were read (`data.read`).
        validation_data: the paths of the validation data. If empty, the subjects of `data` are split (`data.Split`).
        size: (H, W) to which images are resized; None: as stored.
        axis: the anatomical plane of the slices of volumes.
        group_regex: finds the subject in the name of a case (`data.read`).
        sets_per_batch: B.
        images_per_batch: instead of B, the number of images in a batch. Each set then has a K of its own, and the loss
            is divided by the number of images instead of sets, so that its scale does not depend on K.
        set_sizes: (min, max) images in a set; None: all scans of a subject.
        augmentation: a name in `data.AUGMENTATIONS`, whose geometry is the same for a whole set in automatic mode,
            where scans are aligned; or "sets" or "sets-apart" (`data.SetAugmentation`).
        kind: of the prompts in training (`draw_prompts`).
        scribbles: how scribbles are drawn in training (`draw_prompts`).
        boxes: in interactive mode, the probability of a box around the label in training. Above 0, the network has one
            more input channel for boxes.
        rounds: in interactive mode, the passes of a training step. From the second on, prompts are added where the last
            prediction is wrong (`add_corrections`); the loss is the mean over the rounds.
        few_prompts: the part of the training batches with 1 or 2 positive and up to 2 negative prompts an image; the
            others have 1 to 6 and up to 6.
        prompted: which images of a set have prompts in training: "all"; or "some", n of K, n uniform in 1..K.
        focal_gamma: in interactive mode, the exponent of the focal loss.
        squared_dice: in interactive mode, soft Dice with squared denominators (`interactive_loss`).
        steps: the maximum number of training steps.
        interval: steps between validations, checkpoints and rows of metrics.csv.
        patience: training stops if the validation loss has not decreased for this many steps.
        optimizer: "adam"; or "sgd" with Nesterov momentum 0.99, as nnU-Net's.
        learning_rate: of the optimizer.
        weight_decay: of the optimizer.
        clip: the maximum norm of the gradient; None: no limit.
        warmup: the first steps, in which the learning rate grows linearly.
        ema: the decay of an exponential moving average of the weights, which is then what is validated and kept as the
            best weights; None: the weights themselves.
        schedule: of the learning rate. "constant"; or, decreasing to 0 at the last step, "cosine" or "poly", (1 -
            step/steps)^0.9, as nnU-Net's.
        precision: "float32"; or "bfloat16" or (only on CUDA) "float16" by autocast, with weights in float32.
        accumulate: the number of parts in which a batch passes through the network. It saves memory and does not change
            the gradient.
        seed: of the weights, the batches and all other random choices.
        initial: the folder of a run whose best weights are the first ones (fine-tuning); None: random weights.
        warm_start: the folder of a run of the baseline of this network. Its best weights are the first ones of the own
            halves, and the set halves are 0 (`ik.replace_with_interconv`): the outputs start as those of the baseline.
        sets_of: which images may form a set (`data.group_samples`); None: those of a task in interactive mode, those of
            a subject in automatic mode.
        one_per_subject: in interactive mode, of each subject only the image with the largest area of the label.
        slices: which slices of volumes are used (`data.select_slices`).
        sampling: how groups are sampled in training (`SetBatches`).
        weights: the weights of data sets, modalities and so on in hierarchical sampling (`SetBatches`).
        hold_out: with `validation_data`: the subjects of all data sets are split. Training has the training subjects of
            `data`; validation has the validation subjects of `data` and, separately, of `validation_data`. False:
            training and validation have all subjects.
        selection: best.pt has the weights of the lowest validation "loss" or of the highest validation "dice", on
            `validation_data` if there are any.
        set_augmentation: a name in `data.AUGMENTATIONS`; the same random changes for all images of a set, before
            `augmentation`.

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
    images_per_batch: int | None = None
    set_sizes: tuple[int, int] | None = (1, 8)
    augmentation: str = "small"
    kind: PromptKind = "mixed"
    scribbles: ScribbleKind = "stroke"
    boxes: float = 0.0
    rounds: int = 1
    few_prompts: float = 0.0
    prompted: Prompted = "all"
    focal_gamma: float = 2.0
    squared_dice: bool = False
    steps: int = 100_000
    interval: int = 125
    patience: int = 40_000
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip: float | None = None
    warmup: int = 0
    ema: float | None = None
    schedule: Schedule = "constant"
    precision: Precision = "float32"
    accumulate: int = 1
    seed: int = 0
    initial: str | None = None
    warm_start: str | None = None
    sets_of: SetRule | None = None
    one_per_subject: bool = False
    slices: str = "all"
    sampling: Sampling = "hierarchical"
    weights: dict[str, float] = field(default_factory=dict)
    hold_out: bool = False
    selection: Selection = "loss"
    set_augmentation: str = "none"

    def __post_init__(self) -> None:
        for name, maximum in MAXIMUM.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not 1 <= number <= maximum:
                    raise ValueError(f"{name} = {value}: expected from 1 to {maximum}")
        if self.set_sizes is not None and self.set_sizes[0] > self.set_sizes[1]:
            raise ValueError(f"set_sizes = {self.set_sizes}: expected (min, max) with min <= max")
        for name, value, minimum in (
            ("learning_rate", self.learning_rate, 0),
            ("clip", self.clip, 0),
            ("weight_decay", self.weight_decay, -1e-300),
            ("focal_gamma", self.focal_gamma, -1e-300),
        ):
            if value is not None and not minimum < value < math.inf:
                expected = "above 0" if minimum == 0 else "of at least 0"
                raise ValueError(f"{name} = {value}: expected a finite number {expected}")
        if self.set_augmentation not in AUGMENTATIONS:
            raise unknown_name("set_augmentation", self.set_augmentation, list(AUGMENTATIONS))
        if not 0 <= self.few_prompts <= 1:
            raise ValueError(f"few_prompts = {self.few_prompts}: expected from 0 to 1")
        if not 0 <= self.warmup <= MAXIMUM["steps"]:
            raise ValueError(f"warmup = {self.warmup}: expected from 0 to {MAXIMUM['steps']}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema = {self.ema}: expected a decay between 0 and 1, such as 0.999")
        if self.warm_start is not None and (self.initial is not None or self.interconv != "replace"):
            raise ValueError(
                f"warm_start = {self.warm_start!r} with interconv = {self.interconv!r} and initial = {self.initial!r}:"
                " expected interconv = 'replace' and no initial"
            )
        if self.augmentation not in (known := [*AUGMENTATIONS, *SET_AUGMENTATIONS]):
            raise unknown_name("augmentation", self.augmentation, known)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise unknown_name(name, getattr(self, name), list(allowed))
        check_slices(self.slices)
        if not 0 <= self.boxes <= 1:
            raise ValueError(f"boxes = {self.boxes}: expected a probability, from 0 to 1")
        if self.mode == "automatic" and self.rounds > 1:
            raise ValueError(f"rounds = {self.rounds}: expected 1 in automatic mode, which has no prompts to correct")
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

    @property
    def prompt_channels(self) -> int:
        """Input channels of the network besides the image: positive and negative prompts, and perhaps boxes."""
        return 0 if self.mode == "automatic" else 2 + (self.boxes > 0)

    def new_network(self) -> SetNetwork:
        """The network with fresh weights, which are a function of the seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(self.seed, "weights"))
            return build(
                self.network,
                self.interconv,
                in_channels=self.channels + self.prompt_channels,
                classes=self.classes,
                features=self.features,
            )

    def write(self, folder: Path) -> None:
        """Writes config.yaml.

        Args:
            folder: the folder of the run.
        """
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        write_text(folder / FILE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    @classmethod
    def read(cls, folder: Path) -> Config:
        """Reads config.yaml.

        Args:
            folder: the folder of a run.

        Raises:
            ValueError: there is no config.yaml, or it cannot be used.
        """
        file = folder / FILE
        if not file.is_file():
            raise ValueError(f"{folder}: no {FILE} in it, expected the folder of a run (`interconv train`)")
        try:
            return cls(**read_values(file))
        except TypeError as error:
            raise ValueError(f"{file}: cannot be used ({error})") from error
        except ValueError as error:
            raise ValueError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def read_values(file: Path) -> dict[str, Any]:
    """Reads entries of a `Config` from a YAML file.

    Args:
        file: with any of the names of a `Config`.

    Raises:
        ValueError: the file cannot be read, or holds other names.
    """
    try:
        return _values(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"{file}: cannot be used ({type(error).__name__}: {message})") from error


def read_recipe(name: str) -> dict[str, Any]:
    """The entries of a recipe: a configuration to start from, in recipes/<name>.yaml.

    Args:
        name: one of RECIPES.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, list(RECIPES))
    file = resources.files("interconv_seg") / "recipes" / f"{name}.yaml"
    return _values(yaml.safe_load(file.read_text(encoding="utf-8")))


def _values(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Entries as a `Config` has them."""
    if not isinstance(stored, dict):
        raise ValueError(f"a {type(stored).__name__}, expected names and values")
    known = {entry.name for entry in fields(Config)}
    if unknown := [name for name in stored if name not in known]:
        raise ValueError(f"{unknown[0]!r}: expected one of {', '.join(sorted(known))}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    if "labels" in values:
        values["labels"] = {int(value): str(name) for value, name in values["labels"].items()}
    if "weights" in values:
        values["weights"] = {str(name): float(weight) for name, weight in values["weights"].items()}
    return values

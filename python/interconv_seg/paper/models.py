"""Runs as the paper speaks of them: networks, each trained with several seeds, and their baselines."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import Config
from ..networks import SIZES
from ..networks.tables import FAMILY_NAMES


@dataclass(frozen=True, eq=False)
class Model:
    """Runs that differ in their seed: an ensemble (section 4.2).

    Attributes:
        folders: of the runs.
        config: of the first run.
    """

    folders: tuple[Path, ...]
    config: Config

    @property
    def family(self) -> str:
        """The name of the architecture, as in `networks.FAMILIES`."""
        name = self.config.network
        return SIZES[name][0] if name in SIZES else name

    @property
    def name(self) -> str:
        """The name in the paper, such as "SimpleUNet-InterConv"."""
        return FAMILY_NAMES[self.family][self.config.interconv is not None]

    @property
    def size(self) -> str:
        """What tells networks of one name apart."""
        features = "" if self.config.features is None else f" with {self.config.features} features"
        placement = "" if self.config.interconv is None else f" ({self.config.interconv})"
        return f"{self.config.network}{features}{placement}"

    @property
    def validation_dice(self) -> float:
        """Dice on the validation subjects at the step with the lowest loss, as in metrics.csv; the mean over runs."""
        return sum(_best_validation_dice(folder) for folder in self.folders) / len(self.folders)


def find_models(folders: Sequence[Path]) -> list[Model]:
    """The models that runs make up.

    Args:
        folders: of the runs.

    Raises:
        ValueError: a folder is not that of a run, or is given twice.
    """
    found: list[tuple[Config, list[Path]]] = []
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise ValueError(f"{folder}: given twice, expected each run once")
        seen.add(folder.resolve())
        config = Config.read(folder)
        for first, members in found:
            if replace(config, seed=0) == replace(first, seed=0):
                members.append(folder)
                break
        else:
            found.append((config, [folder]))
    return [Model(tuple(members), config) for config, members in found]


def baseline_of(model: Model, models: Sequence[Model]) -> Model | None:
    """The baseline that an InterConv network is compared with: the same architecture, data and mode without InterConv.

    Args:
        model: with InterConv.
        models: all models.

    Returns:
        The baseline of the same size in the paper, or the only one; None if there is none, or none that is meant.
    """
    found = [
        other
        for other in models
        if other.config.interconv is None and _task_of(other) == _task_of(model) and other.family == model.family
    ]
    same = [other for other in found if other.config.network == model.config.network]
    alike = [other for other in same if other.config.features == model.config.features]
    for candidates in (alike, same, found):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _task_of(model: Model) -> tuple[object, ...]:
    config = model.config
    return config.mode, config.data, tuple(config.labels.items()), config.size, config.axis, config.group_regex


def _best_validation_dice(folder: Path) -> float:
    file = folder / "metrics.csv"
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = [(float(row["validation_loss"]), float(row["validation_dice"])) for row in csv.DictReader(stream)]
        return min(rows)[1]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: cannot be used to choose the best size ({type(error).__name__}: {error})") from error

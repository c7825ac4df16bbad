"""The results that tables and figures share: data are read once, and each network is evaluated once per condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data import Collection, Group, Part, Split
from ..data.subjects import PARTS
from ..evaluation import Score, evaluate
from ..inference import Ensemble
from ..preparation import groups_of, read_data
from ..prompts import PromptKind
from ..reports import ConditionSummary, summarize
from .models import Model, baseline_of


@dataclass(frozen=True)
class Conditions:
    """What is evaluated.

    Attributes:
        set_sizes: each K, in interactive mode (automatic mode: whole groups).
        prompts: numbers of prompts, in interactive mode.
        seeds: repetitions with other prompts.
        kinds: of the prompts.
        part: of the subjects.
        split: the subjects of each part; None: that of the run.
        device: where the networks run.
    """

    set_sizes: tuple[int, ...] = (1, 2, 4, 8)
    prompts: tuple[int, ...] = (1, 2, 4, 8)
    seeds: int = 5
    kinds: tuple[PromptKind, ...] = ("scribble", "click")
    part: Part | None = "test"
    split: Split | None = None
    device: str = "cpu"


@dataclass(eq=False)
class Results:
    """Models, the data that they are evaluated on, and what was computed so far.

    Attributes:
        models: of the runs.
        data: paths to evaluate on; empty: those that each model was trained on.
        conditions: what is evaluated.
    """

    models: Sequence[Model]
    data: Sequence[str] = ()
    conditions: Conditions = field(default_factory=Conditions)
    _collections: dict[tuple[object, ...], list[Collection]] = field(default_factory=dict)
    _groups: dict[tuple[object, ...], list[Group]] = field(default_factory=dict)
    _scores: dict[tuple[object, ...], list[Score]] = field(default_factory=dict)
    _ensembles: dict[Model, Ensemble] = field(default_factory=dict)

    def data_of(self, model: Model) -> list[str]:
        """The paths of the data sets that a model is evaluated on."""
        return list(dict.fromkeys(str(Path(path).resolve()) for path in self.data or model.config.data))

    def collection(self, model: Model, path: str) -> Collection:
        """A data set, as a model reads it."""
        config = model.config
        key = (path, config.axis, config.group_regex, config.slices)
        if key not in self._collections:
            self._collections[key] = read_data(config, [path])
        return self._collections[key][0]

    def split(self, model: Model) -> Split | None:
        """The subjects of each part."""
        file = model.folders[0] / "split.json"
        return self.conditions.split or (Split.read(file) if file.exists() else None)

    def groups(self, model: Model, path: str) -> list[Group]:
        """The samples of a data set, grouped as a model takes them.

        Args:
            model: the model.
            path: of the data set.
        """
        config, part, split = model.config, self.conditions.part, self.split(model)
        key: tuple[object, ...] = (
            path,
            config.mode,
            config.size,
            config.channels,
            tuple(config.labels.items()),
            config.rule,
            str(split),
        )
        key += (config.axis, config.group_regex, config.slices, config.one_per_subject)
        if key not in self._groups:
            self._groups[key] = groups_of(config, [self.collection(model, path)], part, split=split)
        return self._groups[key]

    def ensemble(self, model: Model) -> Ensemble:
        """The networks of a model."""
        if model not in self._ensembles:
            self._ensembles[model] = Ensemble.open(model.folders, self.conditions.device)
        return self._ensembles[model]

    def scores(self, model: Model, path: str, kind: PromptKind = "scribble") -> list[Score]:
        """Dice of each sample of a data set, under all conditions.

        Args:
            model: the model.
            path: of the data set.
            kind: of the prompts, in interactive mode.
        """
        key = (model, path, kind if model.config.mode == "interactive" else None)
        if key not in self._scores:
            groups, ensemble = self.groups(model, path), self.ensemble(model)
            found = self.conditions
            if model.config.mode == "automatic":
                self._scores[key] = evaluate(ensemble, groups, [None])
            else:
                seeds = range(found.seeds)
                self._scores[key] = evaluate(ensemble, groups, found.set_sizes, found.prompts, seeds, kind)
        return self._scores[key]

    def compared(
        self,
        pair: tuple[Model, Model],
        path: str,
        kind: PromptKind = "scribble",
        by_scans: bool = False,
        by_task: bool = False,
    ) -> list[ConditionSummary]:
        """Summaries of an InterConv network against its baseline.

        Args:
            pair: both.
            path: of the data set.
            kind: as in `scores`.
            by_scans: as in `reports.summarize`.
            by_task: likewise.
        """
        ours, baseline = (self.scores(model, path, kind) for model in pair)
        return summarize(ours, baseline, by_scans=by_scans, by_task=by_task)

    def pairs(self, mode: str, family: str | None = None) -> list[tuple[Model, Model]]:
        """(InterConv, baseline) of each InterConv network that has a baseline.

        Args:
            mode: "automatic" or "interactive".
            family: of the architecture; None: any.
        """
        found = []
        for model in self.models:
            wanted = model.config.mode == mode and family in (None, model.family)
            if wanted and model.config.interconv is not None:
                baseline = baseline_of(model, self.models)
                found += [] if baseline is None else [(model, baseline)]
        return found

    def best_pairs(self, mode: str, family: str | None = None) -> dict[str, tuple[Model, Model]]:
        """For each data set the pair whose InterConv network has the `best` size.

        Args:
            mode: as in `pairs`.
            family: as in `pairs`.
        """
        by_path: dict[str, dict[Model, Model]] = {}
        for model, baseline in self.pairs(mode, family):
            for path in self.data_of(model):
                by_path.setdefault(path, {})[model] = baseline
        chosen = {path: best(list(pairs)) for path, pairs in by_path.items()}
        return {path: (model, by_path[path][model]) for path, model in chosen.items()}

    def trained_on(self) -> list[tuple[Model, str]]:
        """Each data set that networks were trained on once, with the first of them."""
        found: dict[str, Model] = {}
        for model in self.models:
            for path in model.config.data:
                found.setdefault(path, model)
        return [(model, path) for path, model in found.items()]

    def parts(self, model: Model, path: str) -> dict[str, Collection]:
        """The scans of each part of a data set that a model was trained on; one part if it has other validation data.

        Args:
            model: the model.
            path: of the data set.
        """
        collection = self.collection(model, path)
        if model.config.validation_data:
            return {"train": collection}
        split = self.split(model)
        if split is None or collection.name not in split.parts:
            split = Split.of([collection])
        return {part: split.select(collection, part) for part in PARTS}


def best(models: Sequence[Model]) -> Model:
    """The best size of a network, by Dice on the validation subjects.

    Args:
        models: at least one.
    """
    return models[0] if len(models) == 1 else max(models, key=lambda model: model.validation_dice)


def data_name(path: str) -> str:
    """The name of a data set, for titles.

    Args:
        path: of the data set.
    """
    return Path(path).name.removesuffix(".npz")

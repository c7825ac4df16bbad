"""Plans: which networks are trained on what, and what they are evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from interconv_seg.config import Config, read_recipe
from interconv_seg.data.synthetic import PREFIX, SyntheticTasks

LISTS = ("chosen_on", "tested_on", "each_image_a_subject")
KEYS = ("recipe", "seeds", "data", "validation_data", "runs", "comparisons", "following", *LISTS)


@dataclass(frozen=True)
class Plan:
    """A plan, as its YAML file says it.

    Attributes:
        name: of the file.
        seeds: of the weights and batches; all runs are trained with each.
        entries: of the configurations of all runs.
        runs: the entries of each run by its name. `initial` and `warm_start` name an earlier run.
        comparisons: (run, opponent).
        following: the baseline of each run whose images without prompts are scored.
        chosen_on: the real data sets on which recipes and networks are chosen.
        tested_on: the real data sets that are looked at once, at the end.
        each_image_a_subject: data sets whose ids do not say which images are of one subject.
    """

    name: str
    seeds: tuple[int, ...]
    entries: dict[str, Any]
    runs: dict[str, dict[str, Any]]
    comparisons: tuple[tuple[str, str], ...]
    following: dict[str, str]
    chosen_on: tuple[str, ...]
    tested_on: tuple[str, ...]
    each_image_a_subject: tuple[str, ...]

    @classmethod
    def read(cls, file: Path) -> Plan:
        """Reads a plan.

        Args:
            file: YAML with KEYS.

        Raises:
            ValueError: it has other keys, or a data set is both chosen and tested on.
        """
        stored = yaml.safe_load(file.read_text(encoding="utf-8"))
        if sorted(stored) != sorted(KEYS):
            raise ValueError(f"{file}: {', '.join(stored)}, expected {', '.join(KEYS)}")
        if both := set(stored["chosen_on"]) & set(stored["tested_on"]):
            raise ValueError(f"{file}: {', '.join(sorted(both))} is chosen on and tested on, expected one")
        entries = read_recipe(stored["recipe"]) | {key: tuple(stored[key]) for key in ("data", "validation_data")}
        comparisons = tuple((ours, opponent) for ours, opponent in stored["comparisons"])
        runs, following, lists = stored["runs"], stored["following"], {key: tuple(stored[key]) for key in LISTS}
        named = {name for pair in (*comparisons, *following.items()) for name in pair}
        if unknown := named - set(runs):
            raise ValueError(f"{file}: compares {', '.join(sorted(unknown))}, expected some of {', '.join(runs)}")
        return cls(file.stem, tuple(stored["seeds"]), entries, runs, comparisons, following, **lists)

    def config(self, name: str, seed: int, out: Path) -> Config:
        """The configuration of a run.

        Args:
            name: of the run.
            seed: of its weights and batches.
            out: the folder of all runs, in which synthetic tasks are kept, too.
        """
        values = self.entries | self.runs[name] | {"seed": seed}
        for key in ("initial", "warm_start"):
            if key in values:
                values[key] = str(run_folder(out, values[key], seed).resolve())
        for key in ("data", "validation_data"):
            values[key] = tuple(_kept(path, out) for path in values[key])
        lists: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return Config(**{**values, **lists})


def run_folder(out: Path, name: str, seed: int) -> Path:
    """The folder of a run."""
    return out / name / f"seed{seed}"


def _kept(path: str, out: Path) -> str:
    """Synthetic tasks with a file that keeps them, named by what they are."""
    tasks = SyntheticTasks.parse(path)
    file = out / f"{str(tasks).removeprefix(PREFIX).replace(',', '-').replace('=', '')}.pt"
    return str(SyntheticTasks(tasks.tasks, tasks.size, tasks.subjects, tasks.seed, file))

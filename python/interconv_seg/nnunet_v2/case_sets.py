"""Which images of an nnU-Net dataset are a set: the slices of one case, or several cases at one slice."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SECTION = "interconv"  # of dataset.json
MAX_SET_SIZE = 8  # of the paper's training (section 4.1)
_KEYS = {"sets", "set_pattern", "max_set_size"}


@dataclass(frozen=True)
class CaseSets:
    """The sets of a dataset.

    Attributes:
        kind: "cases": a set is several cases, such as the scans of a subject, at the same slice. "slices": a set is
            slices of one case.
        set_of: the set of each case that a sets.csv lists.
        pattern: regular expression that finds the set of a case that no sets.csv lists: its first group, or all it
            matches, in the case's name.
        max_size: largest number of images that are drawn or predicted as one set.
    """

    kind: Literal["cases", "slices"] = "slices"
    set_of: Mapping[str, str] = field(default_factory=dict)
    pattern: str | None = None
    max_size: int = MAX_SET_SIZE

    @classmethod
    def of_dataset(cls, dataset_json: Mapping[str, Any], folders: Iterable[Path]) -> CaseSets:
        """The sets to train with.

        Args:
            dataset_json: of the dataset. Its "interconv" may hold "set_pattern", "max_set_size" and "sets", the
                kind that is expected.
            folders: the first sets.csv in these counts.

        Returns:
            Sets of cases if there is a sets.csv or a set_pattern; else sets of slices.

        Raises:
            ValueError: the section or the sets.csv cannot be used.
        """
        pattern, max_size = _settings(dataset_json)
        files = [folder / "sets.csv" for folder in folders if (folder / "sets.csv").exists()]
        set_of = read_sets_csv(files[0]) if files else {}
        kind: Literal["cases", "slices"] = "cases" if files or pattern else "slices"
        wanted = dataset_json.get(SECTION, {}).get("sets", kind)
        if wanted != kind:
            found = files[0] if files else "a set_pattern" if pattern else "no sets.csv"
            raise ValueError(
                f'dataset.json: {SECTION}.sets = {wanted!r}, but there is {found}: expected "{kind}", or nothing'
            )
        return cls(kind, set_of, pattern, max_size)

    @classmethod
    def of_model(cls, dataset_json: Mapping[str, Any], folder: Path | None) -> CaseSets:
        """The sets to predict with.

        Args:
            dataset_json: of the trained model; `settings` were stored in it.
            folder: of the images. Its sets.csv, if any, lists their sets.

        Raises:
            ValueError: the model's dataset.json does not say what its sets were; or as in `of_dataset`.
        """
        kind = dataset_json.get(SECTION, {}).get("sets")
        if kind not in ("cases", "slices"):
            raise ValueError(
                f'dataset.json of the model has {SECTION} = {dataset_json.get(SECTION)!r}: expected "sets" to be'
                ' "cases" or "slices", as nnUNetTrainerInterConv writes it'
            )
        pattern, max_size = _settings(dataset_json)
        listed = kind == "cases" and folder is not None and (folder / "sets.csv").exists()
        return cls(kind, read_sets_csv(folder / "sets.csv") if listed and folder else {}, pattern, max_size)

    def settings(self) -> dict[str, Any]:
        """What a trained model has to keep, for its dataset.json."""
        pattern = {} if self.pattern is None else {"set_pattern": self.pattern}
        return {"sets": self.kind, "max_set_size": self.max_size, **pattern}

    def name_of(self, case: str) -> str | None:
        """The set of a case, or None if neither sets.csv nor the pattern tells it.

        Args:
            case: its name.
        """
        if case in self.set_of or self.pattern is None:
            return self.set_of.get(case)
        found = re.search(self.pattern, case)
        return None if found is None else found[1 if found.re.groups else 0]

    def group(self, cases: Iterable[str]) -> list[tuple[str, ...]]:
        """The cases of each set, in order of first appearance. A case without a known set is a set by itself.

        Args:
            cases: names of cases.
        """
        if self.kind == "slices":
            return [(case,) for case in cases]
        groups: dict[tuple[bool, str], list[str]] = {}
        for case in cases:
            name = self.name_of(case)
            groups.setdefault((name is None, case if name is None else name), []).append(case)
        return [tuple(members) for members in groups.values()]

    def warning(self, cases: Sequence[str], where: str) -> str | None:
        """One line that names the cases without a known set, or None if there is none.

        Args:
            cases: names of cases.
            where: the folder in which a sets.csv would be looked for.
        """
        unknown = [case for case in cases if self.name_of(case) is None] if self.kind == "cases" else []
        if not unknown:
            return None
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        source = "sets.csv" if self.set_of else f"no sets.csv in {where}"
        pattern = "" if self.pattern is None else f", and set_pattern {self.pattern!r} does not match"
        return (
            f"WARNING: the set of {len(unknown)} of {len(cases)} cases is not known ({source}{pattern});"
            f" each is a set of one image: {some}"
        )


def read_sets_csv(file: Path) -> dict[str, str]:
    """Reads which set each case belongs to.

    Args:
        file: a table with the columns `set` and `case` (the name without channel number and file ending).

    Raises:
        ValueError: it cannot be read, lacks a column or a value, lists a case twice, or is empty.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read as a table ({error})") from error
    if not rows:
        raise ValueError(f"{file}: no rows, expected one for each case, with the columns set and case")
    set_of: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        name, case = ((row.get(column) or "").strip() for column in ("set", "case"))
        if not name or not case:
            raise ValueError(f"{file}, row {number}: {row}, expected the columns set and case, both filled in")
        if case in set_of:
            raise ValueError(f"{file}, row {number}: case {case!r} is listed twice")
        set_of[case] = name
    return set_of


def check_folds(folds: Sequence[Mapping[str, Sequence[str]]], groups: Iterable[Sequence[str]], file: str) -> None:
    """Checks that no set has cases in both the training and the validation part of a fold.

    Args:
        folds: of nnU-Net's splits_final.json.
        groups: the cases of each set.
        file: the name of the file, for the message.

    Raises:
        ValueError: a set is divided.
    """
    for number, fold in enumerate(folds):
        for members in groups:
            train, val = (set(members) & set(fold[part]) for part in ("train", "val"))
            if train and val:
                raise ValueError(
                    f"{file}: fold {number} trains with {sorted(train)[0]} and validates with {sorted(val)[0]}, which"
                    " are one set, so the validation would see training data: expected folds that keep sets together"
                    " (move the file away, and a new one is made)"
                )


def _settings(dataset_json: Mapping[str, Any]) -> tuple[str | None, int]:
    """(set_pattern, max_set_size) of dataset.json, checked."""
    section = dataset_json.get(SECTION, {})
    if not isinstance(section, Mapping) or set(section) - _KEYS:
        raise ValueError(f"dataset.json: {SECTION} = {section!r}, expected an object with keys of {sorted(_KEYS)}")
    pattern, max_size = section.get("set_pattern"), section.get("max_set_size", MAX_SET_SIZE)
    if type(max_size) is not int or max_size < 1:
        raise ValueError(f"dataset.json: {SECTION}.max_set_size = {max_size!r}, expected an integer of at least 1")
    try:
        if pattern is not None:
            re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"dataset.json: {SECTION}.set_pattern = {pattern!r}, expected a regular expression ({error})"
        ) from error
    return pattern, max_size

"""Which images belong to one subject, and which subjects are for training, validation and testing.

A subject whose images lie on both sides of a split makes a network look better than it is. Readers take subjects from
folders and files (`readers.py`); a `subjects.csv` or a regular expression says where names alone do not.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from interconv_kernels._files import write_text

from ..seeding import random_of
from .errors import DataError, reading
from .scans import Collection
from .tables import read_table

Part: TypeAlias = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
ALIKE = re.compile(r"(.*\d.*)[_\-.][^_\-.]*")  # a name with a number in it, and a last part


def group_by_regex(collection: Collection, pattern: str) -> Collection:
    """The collection with subjects that a regular expression finds in the names of the cases.

    Args:
        collection: the collection.
        pattern: searched in each case. The subject is its first group, or all that it matches if it has none.

    Raises:
        DataError: it is no regular expression, or is not found in a case.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"{pattern!r}: expected a regular expression ({error})") from None
    scans = []
    for scan in collection.scans:
        match = expression.search(scan.case)
        subject = match and match[1 if expression.groups else 0]
        if not subject:
            raise DataError(
                f"{collection.name}/{scan.case}: does not contain {pattern!r}, which is to name its subject"
            )
        scans.append(replace(scan, subject=subject))
    return replace(collection, scans=tuple(scans))


def group_by_table(collection: Collection, file: Path) -> Collection:
    """The collection with the subjects of a table.

    Args:
        collection: the collection.
        file: CSV with the columns `case` and `subject`, a row for each case.

    Raises:
        DataError: the table cannot be read, or lacks a case.
    """
    _, rows = read_table(file, ("case", "subject"))
    subjects = {row["case"]: row["subject"] for _, row in rows}
    for scan in collection.scans:
        if not subjects.get(scan.case):
            raise DataError(f"{file}: no subject for {scan.case}, expected one for each case")
    scans = tuple(replace(scan, subject=subjects[scan.case]) for scan in collection.scans)
    return replace(collection, scans=scans)


@dataclass(frozen=True)
class Split:
    """The subjects of each data set that are for training, validation and testing.

    Attributes:
        parts: data set (its name) -> part -> subjects.
    """

    parts: Mapping[str, Mapping[Part, tuple[str, ...]]]

    @classmethod
    def of(cls, collections: Iterable[Collection]) -> Split:
        """60 %, 20 % and 20 % of the subjects (the paper's appendix), chosen by the subjects' names alone.

        Warns if subjects with names alike, such as patient07_ED and patient07_ES, come to lie in different parts.

        Args:
            collections: each of at least three subjects.

        Raises:
            DataError: a collection has fewer than three subjects.
        """
        return cls({collection.name: _random_parts(collection) for collection in collections})

    @classmethod
    def read(cls, file: Path) -> Split:
        """Reads a split.

        Args:
            file: JSON, {data set: {"train": [subject, ...], "validation": [...], "test": [...]}}.

        Raises:
            DataError: the file cannot be used, or lists a subject twice.
        """
        with reading(file, f"JSON with the subjects of {', '.join(PARTS)} for each data set"):
            stored = json.loads(file.read_text(encoding="utf-8"))
            parts = {name: {part: tuple(map(str, found[part])) for part in PARTS} for name, found in stored.items()}
        for name, found in parts.items():
            subjects = [subject for part in PARTS for subject in found[part]]
            repeated = sorted({subject for subject in subjects if subjects.count(subject) > 1})
            if repeated:
                raise DataError(f"{file}: lists {repeated[0]} of {name} twice, expected each subject in one part")
        return cls(parts)

    def write(self, file: Path) -> None:
        """Writes the split, as `read` reads it.

        Args:
            file: JSON.
        """
        write_text(file, json.dumps(self.parts, indent=2, ensure_ascii=False) + "\n")

    def select(self, collection: Collection, part: Part) -> Collection:
        """The scans of one part.

        Args:
            collection: a data set.
            part: "train", "validation" or "test".

        Raises:
            DataError: the split does not know the data set or one of its subjects, or has no subject for the part.
        """
        name = collection.name
        if name not in self.parts:
            raise DataError(f"{name}: not in the split, expected one of {', '.join(self.parts)}")
        part_of = {subject: other for other, subjects in self.parts[name].items() for subject in subjects}
        for scan in collection.scans:
            if scan.subject not in part_of:
                raise DataError(f"{name}: subject {scan.subject} is not in the split, expected it in one part")
        chosen = tuple(scan for scan in collection.scans if part_of[scan.subject] == part)
        if not chosen:
            raise DataError(f"{name}: the split has no subject for {part}, expected at least one")
        return replace(collection, scans=chosen)


def _random_parts(collection: Collection) -> dict[Part, tuple[str, ...]]:
    subjects = sorted({scan.subject for scan in collection.scans})
    count = len(subjects)
    if count < 3:
        raise DataError(
            f"{collection.name}: {count} subjects ({', '.join(subjects)}), expected at least 3 to split (or separate"
            " data)"
        )
    fifth = max(1, round(count / 5))
    order = [subjects[i] for i in random_of("split", *subjects).permutation(count)]
    bounds: dict[Part, tuple[int, int]] = {
        "train": (2 * fifth, count),
        "validation": (fifth, 2 * fifth),
        "test": (0, fifth),
    }
    parts = {part: tuple(sorted(order[slice(*bounds[part])])) for part in PARTS}
    part_of = {subject: part for part, names in parts.items() for subject in names}
    for first, second in _alike(subjects):
        if part_of[first] != part_of[second]:
            warnings.warn(
                f"{collection.name}: {first} is for {part_of[first]} and {second} for {part_of[second]}; if they are of"
                " one patient, results will look better than they are (--group-regex or subjects.csv says who is who)",
                stacklevel=2,
            )
            break
    return parts


def _alike(subjects: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of subjects whose names differ only after the last separator, as patient07_ED and patient07_ES do.

    Names that all begin alike, as case1_001, case1_002, ... of one data set, are no sign of that.
    """
    beginnings: dict[str, list[str]] = {}
    for subject in subjects:
        if match := ALIKE.fullmatch(subject):
            beginnings.setdefault(match[1], []).append(subject)
    if len(beginnings) < 2:
        return []
    return [(names[0], other) for names in beginnings.values() for other in names[1:]]

"""Which slices of volumes are used."""

from __future__ import annotations

from dataclasses import replace

from .errors import DataError
from .scans import Collection, Scan

EXPECTED = "expected all, middle, largest or every:N"


def check_slices(rule: str) -> str:
    """Checks the name of a rule (`select_slices`), and returns it.

    Args:
        rule: the rule.

    Raises:
        ValueError: there is no such rule.
    """
    name, _, number = rule.partition(":")
    if rule not in ("all", "middle", "largest") and (name != "every" or not number.isdecimal() or int(number) < 1):
        raise ValueError(f"slices = {rule!r}: {EXPECTED}")
    return rule


def select_slices(collection: Collection, rule: str) -> Collection:
    """The collection with some of the slices of each volume. Images that are not volumes stay.

    Args:
        collection: the collection.
        rule: "all"; "middle", the middle one; "largest", that with most labelled pixels (the paper's choice, appendix;
            all masks are read); or "every:N", each N-th, beginning with number N // 2.

    Raises:
        ValueError: there is no such rule.
        DataError: "largest", and a volume has no mask.
    """
    name, _, number = check_slices(rule).partition(":")
    if name == "all":
        return collection
    volumes: dict[str, list[Scan]] = {}
    for scan in collection.scans:
        volumes.setdefault(scan.case, []).append(scan)
    chosen: list[Scan] = []
    for slices in volumes.values():
        if slices[0].index is None:
            chosen += slices
        elif name == "middle":
            chosen.append(slices[len(slices) // 2])
        elif name == "largest":
            chosen.append(max(slices, key=_labelled_pixels))
        else:
            chosen += slices[int(number) // 2 :: int(number)] or slices[len(slices) // 2 :][:1]
    return replace(collection, scans=tuple(chosen))


def _labelled_pixels(scan: Scan) -> int:
    if scan.mask_reader is None:
        raise DataError(f"{scan.source}: no mask, expected one to choose the slice with the largest structure")
    return int((scan.mask_reader() > 0).sum())

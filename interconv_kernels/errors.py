"""Errors that say what was given and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def unknown_name(what: str, name: object, known: Sequence[str]) -> ValueError:
    """A ValueError for a name that is none of `known`, with the nearest one."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {name!r}: expected one of {', '.join(map(repr, known))}{hint}")

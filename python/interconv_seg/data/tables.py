"""Tables that a user writes: CSV with a head, in UTF-8."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .errors import DataError, reading


def read_table(file: Path, required: Sequence[str]) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Reads a table.

    Args:
        file: the table.
        required: the columns that it must have.

    Returns:
        The names of its columns; and for each row its line in the file and its values, without spaces around them,
        "" where one is missing.

    Raises:
        DataError: it cannot be read, lacks a column, or has no rows.
    """
    with reading(file, "a table"), file.open(newline="", encoding="utf-8-sig") as stream:
        table = csv.DictReader(stream, strict=True)
        columns = list(table.fieldnames or [])
        rows = [(table.line_num, {name: (row.get(name) or "").strip() for name in columns}) for row in table]
    if any(name not in columns for name in required):
        raise DataError(f"{file}: has the columns {columns}, expected the columns {' and '.join(required)}")
    if not rows:
        raise DataError(f"{file}: no rows, expected one for each image")
    return columns, rows

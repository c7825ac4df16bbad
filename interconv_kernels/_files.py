"""Files that are either complete or absent, whatever interrupts their writing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path` (created if needed), and renames it to `path` at the end.

    After the block the file is on disk under its name. If the block raises, `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers apart; the extension stays, since it names the format.
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file completely or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")

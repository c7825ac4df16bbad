"""Tables kept in a document, each between a pair of marker comments."""

from __future__ import annotations

import difflib
import os
import tempfile
from pathlib import Path


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"


def read_section(path: Path, name: str) -> str | None:
    """What stands between the markers of that name, or None where they are not."""
    text, (begin, end) = path.read_text(), _markers(name)
    if begin not in text or end not in text:
        return None
    return text.split(begin, 1)[1].split(end, 1)[0]


def write_section(path: Path, name: str, content: str) -> None:
    """Puts content between the markers; the file is replaced at once, and the rest of it stays as it is.

    Raises ValueError where the file has no such markers.
    """
    old = read_section(path, name)
    begin, end = _markers(name)
    if old is None:
        raise ValueError(f"{path} has no section {begin.strip()} ... {end.strip()}")
    text = path.read_text().replace(begin + old + end, begin + content + end)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=path.suffix, delete=False) as file:
        file.write(text)
    os.chmod(file.name, path.stat().st_mode)
    os.replace(file.name, path)


def difference(path: Path, name: str, content: str) -> str:
    """A diff from the section to what it should hold; empty where they agree."""
    old = read_section(path, name)
    if old is None:
        return f"{path} has no section {name!r}\n"
    return "".join(difflib.unified_diff(old.splitlines(True), content.splitlines(True), str(path), "compiled now"))

"""Generated tables in documents, each between a pair of marker comments."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from pathlib import Path

from interconv_kernels._files import write_text


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"


def read_section(path: Path, name: str) -> str | None:
    """The text between the markers with this name, None if the file has none."""
    text, (begin, end) = path.read_text(), _markers(name)
    if begin not in text or end not in text:
        return None
    return text.split(begin, 1)[1].split(end, 1)[0]


def write_section(path: Path, name: str, content: str) -> None:
    """Replaces the text between the markers with this name.

    Args:
        path: the document.
        name: of the section.
        content: its new text.

    Raises:
        ValueError: the file has no such markers.
    """
    old = read_section(path, name)
    begin, end = _markers(name)
    if old is None:
        raise ValueError(f"{path} has no section {begin.strip()} ... {end.strip()}")
    write_text(path, path.read_text().replace(begin + old + end, begin + content + end))


def difference(path: Path, name: str, content: str) -> str:
    """A diff from the section to `content`, empty if they are equal."""
    old = read_section(path, name)
    if old is None:
        return f"{path} has no section {name!r}\n"
    return "".join(difflib.unified_diff(old.splitlines(True), content.splitlines(True), str(path), "computed now"))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --write and --check, each with the document."""
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this document")
    target.add_argument("--check", type=Path, metavar="FILE", help="compare with the tables in this document")


def write_or_compare(arguments: argparse.Namespace, sections: Mapping[str, str]) -> str:
    """Does what --write or --check asks for.

    Args:
        arguments: with one of them.
        sections: the content of each section, by name.

    Returns:
        The differences from the document of --check; "" if there are none.

    Raises:
        ValueError: as `write_section`.
    """
    differences = ""
    for name, content in sections.items():
        if arguments.write:
            write_section(arguments.write, name, content)
        else:
            differences += difference(arguments.check, name, content)
    return differences

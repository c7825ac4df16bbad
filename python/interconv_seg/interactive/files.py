"""The file of a session: JSON with names, sizes and digests of the images, and all operations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .images import Picture
from .operations import History, Size
from .planes import unpacked

FORMAT, VERSION = "interconv-session", 1


def about(pictures: Sequence[Picture]) -> dict[str, Any]:
    """What a file says besides the operations.

    Args:
        pictures: the images.
    """
    images = [{"name": p.name, "size": list(p.size), "digest": p.digest} for p in pictures]
    return {"format": FORMAT, "version": VERSION, "images": images}


def read_history(file: Path, pictures: Sequence[Picture], grid: Size) -> History:
    """Reads the operations of a file.

    Args:
        file: the file.
        pictures: the images that it must be of.
        grid: of the network.

    Raises:
        ValueError: it cannot be used, or is of other images.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"{file}: expected an {FORMAT} of version {VERSION}")
    if content.get("images") != about(pictures)["images"]:
        raise ValueError(f"{file}: is of other images, expected the names, sizes and pixels of these")
    try:
        history = History.from_json([picture.size for picture in pictures], content)
        for operation in history.operations:
            for plane in operation.values.get("planes", {}).values():
                unpacked(plane, grid)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return history

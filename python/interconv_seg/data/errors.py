"""The error of files that cannot be used."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """An image file or folder that cannot be used. The message starts with its name and says what was expected."""


def unreadable(path: Path, expected: str, error: Exception) -> DataError:
    """The DataError for what a decoder raised.

    Args:
        path: the file.
        expected: what was expected of it, such as "an image".
        error: what was raised.
    """
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file, expected {expected}")
    message = str(error).replace(str(path), "the file").splitlines()
    return DataError(f"{path}: cannot be read as {expected} ({message[0] if message else type(error).__name__})")

"""The error of files that cannot be used, and what is checked before one is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

MAX_VALUES = 2**30  # in one file: 4 GB as float32


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


def check_regular(path: Path, expected: str) -> None:
    """Checks that a path is that of a regular file. To open a pipe or a device could block for ever.

    Args:
        path: the file.
        expected: as in `unreadable`.

    Raises:
        DataError: there is no such file, or it is another kind of file.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file, expected {expected}")
    if not path.is_file():
        raise DataError(f"{path}: not a regular file, expected {expected}")


def check_size(path: Path, shape: Sequence[int]) -> None:
    """Checks the size that a header announces, before memory is taken for it.

    Args:
        path: the file.
        shape: of its values.

    Raises:
        DataError: it has over 2^30 values.
    """
    if math.prod(shape) > MAX_VALUES:
        raise DataError(f"{path}: {'x'.join(map(str, shape))} values, expected at most {MAX_VALUES}")

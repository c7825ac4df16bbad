"""The error of files that cannot be used, and what is checked before one is decoded."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MAX_VALUES = 2**30  # in one file: 4 GB as float32
READ_SECONDS = 300  # for one file, so that a dead network share is an error


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


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Checks that a file is regular, and makes a DataError of whatever its decoding in the block raises.

    Args:
        path: the file.
        expected: as in `unreadable`.

    Raises:
        DataError: so it is, or the block takes more than 300 seconds.
    """
    check_regular(path, expected)
    try:
        with _deadline():
            yield
    except DataError:
        raise
    except Exception as error:  # decoders of broken files raise anything
        raise unreadable(path, expected, error) from error


@contextmanager
def _deadline() -> Iterator[None]:
    """Raises TimeoutError when the block has taken READ_SECONDS (in the main thread: only there are signals)."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"no result within {READ_SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, READ_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


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

"""Sets for networks that only pass x: the sets of the enclosing `use_sets` block."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .typing import SetsLike


class _Context(threading.local):
    """The sets of the innermost block, separately in each thread.

    torch.compile supports this and not a ContextVar. `sets` exists in each thread from the start, because the guards of
    torch.compile need an attribute that is always there.
    """

    def __init__(self) -> None:
        self.sets: SetsLike | None = None


_context = _Context()


def current_sets() -> SetsLike | None:
    """The sets of the innermost `use_sets` block of this thread, or None outside of any."""
    return _context.sets


class use_sets:  # noqa: N801  (reads as a statement)
    """Within the block, every InterConv2d that is given no sets uses these.

    `with ik.use_sets(sets): y = network(x)`. Blocks can be nested; the innermost counts. Each thread has its own.
    Create `Sets` once and pass that: lengths, offsets or an int are converted again by each layer.

    Args:
        sets: `Sets`, a list of set sizes, a tensor of offsets, or one int for sets of equal size.

    Raises:
        TypeError: sets is None.
    """

    def __init__(self, sets: SetsLike):
        if sets is None:
            raise TypeError(
                "use_sets(None): expected ik.Sets, a list of lengths, a tensor of offsets, or one int (equal sets)"
            )
        self.sets = sets
        self.outer: list[SetsLike | None] = []  # a stack, so that one object can be entered again inside itself

    def __enter__(self) -> None:
        self.outer.append(_context.sets)
        _context.sets = self.sets

    def __exit__(self, *exception: object) -> None:
        _context.sets = self.outer.pop()

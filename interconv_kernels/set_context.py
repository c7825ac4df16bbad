"""Sets for networks that only pass x: the sets of the enclosing `use_sets` block.

Activation checkpointing runs parts of a network again in the backward pass, when the block is over, and on GPUs in
another thread. So each call of `torch.utils.checkpoint` keeps the sets of its forward pass, and its recomputation gets
those, see `_keep_sets`. Elsewhere in a backward pass a block of the forward pass does not count, since it may be that
of another batch: layers that get no sets then raise.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import checkpoint

if TYPE_CHECKING:
    from .typing import SetsLike

NO_BACKWARD = -1  # torch's number of the backward pass that runs in this thread, if none does


class _Context(threading.local):
    """The sets of the innermost block and the backward pass in which it was entered, separately in each thread.

    torch.compile supports this and not a ContextVar. The attributes exist in each thread from the start, because the
    guards of torch.compile need attributes that are always there.
    """

    def __init__(self) -> None:
        self.sets: SetsLike | None = None
        self.backward_pass = NO_BACKWARD
        self.outer: list[tuple[SetsLike | None, int]] = []  # of the enclosing blocks, the outermost first


_context = _Context()


def current_sets() -> SetsLike | None:
    """The sets of the innermost `use_sets` block of this thread, or None outside of any.

    Raises:
        RuntimeError: in a backward pass, and the block was entered before it.
    """
    if _context.sets is not None and _is_of_forward_pass():
        raise RuntimeError(
            "a layer without sets was called in a backward pass, within a use_sets block that was entered before it and"
            " may be that of another batch: expected torch.utils.checkpoint (which keeps the sets of each call), or a"
            " use_sets block around the recomputation itself"
        )
    return _context.sets


class use_sets:  # noqa: N801  (reads as a statement)
    """Within the block, every InterConv2d that is given no sets uses these.

    `with ik.use_sets(sets): y = network(x)`. Blocks can be nested; the innermost counts. Each thread has its own.
    Create `Sets` once and pass that: lengths, offsets or an int are converted again by each layer. What
    `torch.utils.checkpoint` recomputes in the backward pass gets the sets of its forward pass.

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

    def __enter__(self) -> None:
        _context.outer.append((_context.sets, _context.backward_pass))
        _context.sets = self.sets
        if not torch.compiler.is_compiling():
            _context.backward_pass = torch._C._current_graph_task_id()

    def __exit__(self, *exception: object) -> None:
        _context.sets, _context.backward_pass = _context.outer.pop()


def _is_of_forward_pass() -> bool:
    """Whether the innermost block was entered before the backward pass that runs now in this thread."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != _context.backward_pass


def _keep_sets(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` such that it always runs with the sets of now."""
    sets = _context.sets
    if sets is None or _is_of_forward_pass():
        return function

    @functools.wraps(function)
    def with_sets(*args: Any, **kwargs: Any) -> Any:
        with use_sets(sets):
            return function(*args, **kwargs)

    return with_sets


def _extend_checkpointing() -> None:
    """Makes torch.utils.checkpoint keep the sets of each call, as it keeps the states of autocast and the generators.

    torch has no public hook for this. Both kinds get the function that they will run again through one method of a
    class, whichever way `checkpoint` was imported: `CheckpointFunction.forward(ctx, function, ...)` with
    use_reentrant=True, `_CheckpointFrame(function, ...)` without. If a version of torch has neither, the recomputation
    finds no sets, and raises.
    """
    for class_name, method in (("CheckpointFunction", "forward"), ("_CheckpointFrame", "__init__")):
        owner = getattr(checkpoint, class_name, None)
        if owner is not None:
            _bind_second_argument(owner, method)


def _bind_second_argument(owner: type, method: str) -> None:
    original = getattr(owner, method)

    @functools.wraps(original)
    def keeping_sets(first: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return original(first, _keep_sets(function), *args, **kwargs)

    setattr(
        owner, method, staticmethod(keeping_sets) if isinstance(owner.__dict__[method], staticmethod) else keeping_sets
    )


_extend_checkpointing()

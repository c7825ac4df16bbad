"""How long a call takes on a GPU, without the time that Python takes to launch it."""

from __future__ import annotations

import functools
import logging
import statistics
from collections.abc import Callable

import torch

logger = logging.getLogger("interconv_kernels")
FLUSH_BYTES = 256 * 2**20  # more than any L2 cache
BUDGET_MILLISECONDS = 60.0
MIN_REPEATS, MAX_REPEATS = 5, 100


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """The median time of a call on the device, with its input in memory and not in the L2 cache.

    The call is captured in a CUDA graph and replayed, so launches take no time on the host. Where it cannot be
    captured, it is called, behind enough other work that the device does not wait for the host.
    """
    torch.cuda.synchronize(device)  # what the call reads may still be computed on another stream
    with torch.cuda.device(device), torch.cuda.stream(_stream(device)):
        run()  # compiles what it needs, and cuDNN chooses its algorithms, before the capture
        replay, flushes = _captured(run)
        memory = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
        first = _time(replay, memory, flushes, MIN_REPEATS)
        repeats = int(BUDGET_MILLISECONDS / max(first, 1e-3))
        return _time(replay, memory, flushes, min(max(repeats, MIN_REPEATS), MAX_REPEATS))


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all calls, since torch keeps freed memory for each stream."""
    return torch.cuda.Stream(device)


def _captured(run: Callable[[], object]) -> tuple[Callable[[], object], int]:
    """(the call as a graph, or itself; how often to flush the cache before it)."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            run()
    except RuntimeError as error:
        logger.info("timed without a CUDA graph, since the call cannot be captured: %s", error)
        return run, 8  # a millisecond of work, while Python prepares the launches
    return graph.replay, 1


def _time(call: Callable[[], object], memory: torch.Tensor, flushes: int, repeats: int) -> float:
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        for _ in range(flushes):
            memory.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)

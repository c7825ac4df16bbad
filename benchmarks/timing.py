"""Times of calls that do the same work, interleaved, and the memory that each needs."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

Call = Callable[[], object]


class Quantiles(NamedTuple):
    """Quantiles of the times of one call, in seconds."""

    p20: float
    p50: float
    p80: float


def quantiles(seconds: list[float]) -> Quantiles:
    """The quantiles of times, interpolated linearly."""
    levels = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    return Quantiles(*torch.tensor(seconds, dtype=torch.float64).quantile(levels).tolist())


def interleave(
    calls: Mapping[str, Call], repeats: int, device: torch.device, before: Mapping[str, Call] = MappingProxyType({})
) -> dict[str, Quantiles]:
    """Times each call `repeats` times, in rounds that run every call once.

    Each round has its own random order. A call can slow the next one down (for example when it returns memory to the
    system, which the next has to map again), and this must not always affect the same call.

    On CUDA, times are measured by events on the device, the L2 cache is flushed before each call, and the host waits
    at the end only.

    Args:
        calls: what is timed, by name.
        repeats: timed rounds. They follow one round of warm-up, on CUDA ten (its clock drops when idle).
        device: where the calls run.
        before: by the name of a call, what runs before it and is not timed.

    Returns:
        Quantiles by name.
    """
    warm_up = 10 if device.type == "cuda" else 1
    flush = _l2_flush(device) if device.type == "cuda" else None
    spans: dict[str, list[tuple[Any, Any]]] = {name: [] for name in calls}
    order, shuffle = list(calls.items()), random.Random(0).shuffle
    for _ in range(warm_up + repeats):
        shuffle(order)
        for name, call in order:
            if name in before:
                before[name]()
            if flush is not None:
                flush.zero_()
            start = _now(device)
            result = call()
            spans[name].append((start, _now(device)))
            del result  # freed after its time was taken and before the next call
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {name: quantiles([_seconds(*span) for span in of_call[warm_up:]]) for name, of_call in spans.items()}


def _l2_flush(device: torch.device) -> Tensor:
    size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
    return torch.empty(size, dtype=torch.uint8, device=device)


def _now(device: torch.device) -> Any:
    """The time on the host's clock, or an event on the device's stream."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3


def capture(steps: Sequence[Call]) -> list[Call]:
    """Each step as a CUDA graph, which takes no time on the host.

    The graphs share a pool of memory, so that the results of a step stay valid for the next one. They can only be
    replayed in the order of `steps`.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # autograd runs a backward on the stream of its forward
        for _ in range(3):
            for step in steps:
                step()
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()
    replays: list[Call] = []
    for step in steps:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            step()
        replays.append(graph.replay)
    return replays


def peak_bytes(call: Call, device: torch.device) -> int:
    """The peak of torch's allocations during a call, results included, above what was allocated before.

    On the CPU it comes from the profiler's record of allocations, which is exact and reproducible. It does not see
    memory that libraries allocate themselves (some of oneDNN's), and ignores that older tensors are freed meanwhile.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - held
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise every profile prints two lines
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    allocations = [event for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for event in sorted(allocations, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def saved_bytes(forward: Callable[[], Tensor], inputs: tuple[Tensor, ...]) -> int:
    """The memory that a forward saves for its backward, without its inputs."""
    known = {x.untyped_storage().data_ptr() for x in inputs}
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known and x.is_floating_point():
            saved[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = forward()
    total = sum(saved.values())
    del y  # not earlier: other tensors would reuse the addresses of freed ones
    return total

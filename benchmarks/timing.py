"""How long forms of the same work take, in turns, and how much memory each needs."""

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

Run = Callable[[], object]


class Timing(NamedTuple):
    """Quantiles of the times of one form, in seconds."""

    p20: float
    p50: float
    p80: float


def quantiles(seconds: list[float]) -> Timing:
    """Between the values of the nearest ranks."""
    levels = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    return Timing(*torch.tensor(seconds, dtype=torch.float64).quantile(levels).tolist())


def take_turns(
    forms: Mapping[str, Run], repeats: int, device: torch.device, before: Mapping[str, Run] = MappingProxyType({})
) -> dict[str, Timing]:
    """Times each form `repeats` times after one round of warm-up, on CUDA ten (its clock falls while it idles).

    The order of a turn is drawn anew each time: what a form leaves behind (a heap given back to the system, say, so
    that the next one pays page faults) must not always meet the same one.

    `before` holds, by a form's name, what has to be done before it and is not timed. On CUDA the L2 cache is flushed
    before each form, times are those of events on the device, and the host waits only at the end.
    """
    warm_up = 10 if device.type == "cuda" else 1
    flush = _l2_flush(device) if device.type == "cuda" else None
    spans: dict[str, list[tuple[Any, Any]]] = {name: [] for name in forms}
    order, shuffle = list(forms.items()), random.Random(0).shuffle
    for turn in range(warm_up + repeats):
        shuffle(order)
        for name, form in order:
            if name in before:
                before[name]()
            if flush is not None:
                flush.zero_()
            start = _mark(device)
            made = form()
            end = _mark(device)
            del made  # after the clock has stopped, and before the next form begins
            if turn >= warm_up:
                spans[name].append((start, end))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {name: quantiles([_seconds(*span) for span in of_form]) for name, of_form in spans.items()}


def _l2_flush(device: torch.device) -> Tensor:
    size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
    return torch.empty(size, dtype=torch.uint8, device=device)


def _mark(device: torch.device) -> Any:
    """Now: on the host's clock, or an event on the device's stream."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3


def capture(steps: Sequence[Run]) -> list[Run]:
    """Each step as a CUDA graph, which takes no time on the host. The graphs share a pool of memory, so that what one
    step leaves for the next stays where it is: replay them in this order only."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # autograd runs a backward on the stream of its forward
        for _ in range(3):
            for step in steps:
                step()
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()
    replays: list[Run] = []
    for step in steps:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            step()
        replays.append(graph.replay)
    return replays


def peak_bytes(form: Run, device: torch.device) -> int:
    """The most that torch's allocator held at once during a call beside what it held before; results count.

    On the CPU it is read from the profiler's record of allocations: exact, and the same every time. Scratch that a
    library takes elsewhere (some of oneDNN's) is not seen, nor that older tensors are freed meanwhile.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        form()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - held
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else every profile prints two lines
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
        made = form()
    del made
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
    """What a forward keeps for its backward beside its inputs, which are alive anyway."""
    known = {x.untyped_storage().data_ptr() for x in inputs}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known and x.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = forward()
    total = sum(kept.values())
    del y  # not before: storages that are freed would give their addresses to others
    return total

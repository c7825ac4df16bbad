"""The set operations of a backend against float64, set by set: part of `interconv_kernels.selftest`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ._accuracy import ROUNDINGS
from ._backends.contract import SetOps
from .reference import relative_error
from .sets import SetIndex, Sets

LENGTHS = [3, 1, 70, 8, 2]  # on GPUs, sets of more than 64 samples are summed in two stages
CHANNELS, SIZE = 6, (7, 10)
FORMATS = (torch.contiguous_format, torch.channels_last)
Pairs = Iterator[tuple[Tensor, Tensor]]  # of results and exact results


class _Batch:
    """Random samples in one dtype and format, exactly as float64 on the CPU, and as the backend gets them."""

    def __init__(self, dtype: torch.dtype, device: torch.device, fmt: torch.memory_format):
        self.dtype, self.device, self.fmt = dtype, device, fmt
        self.random = torch.Generator().manual_seed(0)
        sets = Sets.from_lengths(LENGTHS, device)
        self.sets = SetIndex(sets.offsets, sets.set_ids)
        self.ids = sets.set_ids.long().cpu()
        self.sizes = torch.tensor(LENGTHS, dtype=torch.float64).view(-1, 1, 1, 1)

    def samples(self, rows: int, channels: int = CHANNELS) -> tuple[Tensor, Tensor]:
        """(for the backend, exact), each [rows, channels, *SIZE]."""
        x = torch.randn(rows, channels, *SIZE, generator=self.random, dtype=torch.float64).to(self.dtype)
        return x.to(self.device).contiguous(memory_format=self.fmt), x.double()

    def sums(self, x: Tensor) -> Tensor:
        """The sums over sets of exact values."""
        return torch.stack([part.sum(0) for part in x.split(LENGTHS)])


def _set_reduce(ops: SetOps, batch: _Batch) -> Pairs:
    x, exact = batch.samples(sum(LENGTHS))
    yield ops.set_reduce(x, batch.sets, mean=False), batch.sums(exact)
    yield ops.set_reduce(x, batch.sets, mean=True), batch.sums(exact) / batch.sizes


def _set_add(ops: SetOps, batch: _Batch) -> Pairs:
    (y, exact_y), (t, exact_t) = batch.samples(sum(LENGTHS)), batch.samples(len(LENGTHS))
    slope = torch.linspace(-0.5, 2, CHANNELS, dtype=torch.float64).to(batch.dtype)
    total = exact_y + exact_t[batch.ids]
    yield ops.set_add(y, t, batch.sets, mean=False, out=torch.empty_like(y)), total
    yield ops.set_add(None, t, batch.sets, mean=True, out=torch.empty_like(y)), (exact_t / batch.sizes)[batch.ids]
    activated = torch.where(total < 0, total * slope.double().view(1, -1, 1, 1), total)
    slopes = slope.to(batch.device)
    yield ops.set_add(y, t, batch.sets, mean=False, out=torch.empty_like(y), slope=slopes), activated


def _concat_set_mean(ops: SetOps, batch: _Batch) -> Pairs:
    x, exact = batch.samples(sum(LENGTHS))
    mean = batch.sums(exact) / batch.sizes
    yield ops.concat_set_mean(x, batch.sets), torch.cat([exact, mean[batch.ids]], dim=1)


def _concat_set_mean_backward(ops: SetOps, batch: _Batch) -> Pairs:
    g, exact = batch.samples(sum(LENGTHS), 2 * CHANNELS)
    own, from_set = exact.split(CHANNELS, dim=1)
    yield ops.concat_set_mean_backward(g, batch.sets), own + (batch.sums(from_set) / batch.sizes)[batch.ids]


def _center(ops: SetOps, batch: _Batch) -> Pairs:
    x, exact = batch.samples(sum(LENGTHS))
    mean = batch.sums(exact) / batch.sizes
    parts = exact.split(LENGTHS)
    for from_mean in (False, True):
        origins = mean if from_mean else torch.stack([part[-1] for part in parts])
        deviations = [part[:-1] - origin for part, origin in zip(parts, origins, strict=True)]
        yield from zip(ops.center(x, batch.sets, from_mean), (mean, torch.cat(deviations)), strict=True)


def _uncenter(ops: SetOps, batch: _Batch) -> Pairs:
    (mean, exact_mean), (dev, exact_dev) = batch.samples(len(LENGTHS)), batch.samples(sum(LENGTHS) - len(LENGTHS))
    samples = []
    for m, d, size in zip(exact_mean, exact_dev.split([size - 1 for size in LENGTHS]), LENGTHS, strict=True):
        last = m - d.sum(0) / size
        samples += [last + d, last[None]]
    yield ops.uncenter(mean, dev, batch.sets), torch.cat(samples)


OPERATIONS: dict[str, Callable[[SetOps, _Batch], Pairs]] = {
    "set_reduce": _set_reduce,
    "set_add": _set_add,
    "concat_set_mean": _concat_set_mean,
    "concat_set_mean_backward": _concat_set_mean_backward,
    "center": _center,
    "uncenter": _uncenter,
}


def worst_error(ops: SetOps, name: str, dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    """(the largest error of an operation over its variants, NaN if one is; the allowed error)."""
    errors = [
        relative_error(got, want) for fmt in FORMATS for got, want in OPERATIONS[name](ops, _Batch(dtype, device, fmt))
    ]
    return next((error for error in errors if error != error), max(errors)), ROUNDINGS[dtype]

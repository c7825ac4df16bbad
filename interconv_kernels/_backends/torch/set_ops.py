"""The set operations in plain torch. Contract: `SetOps` in ../contract.py.

On the CPU this is a loop over sets, whose offsets can be read there. On other devices it is index arithmetic alone, so
that nothing waits for the device, and uses no atomics, so that the same input gives the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...activation import leaky_relu_
from ...layout import empty_rows, flat, memory_format, sum_dtype
from ...sets import SetIndex


def set_reduce(x: Tensor, sets: SetIndex, mean: bool) -> Tensor:
    fmt = memory_format(x)
    out = empty_rows(x, sets.num_sets)
    x_rows, out_rows = flat(x, fmt), flat(out, fmt)
    if sets.host_offsets is None:
        sums = torch.segment_reduce(
            x_rows.to(sum_dtype(x)), "sum", offsets=sets.offsets.long(), axis=0, initial=0, unsafe=True
        )
        out_rows.copy_(sums / sets.sizes(sums.dtype) if mean else sums)
        return out
    for b, (lo, hi) in enumerate(sets.spans):
        _reduce_rows(x_rows[lo:hi], out_rows[b], mean)
    return out


def _reduce_rows(rows: Tensor, out: Tensor, mean: bool) -> None:
    """out [M] = the sum, or the mean, of rows [K, M]; zero for K = 0."""
    size, acc = rows.shape[0], sum_dtype(rows)
    if acc == rows.dtype:
        torch.sum(rows, 0, out=out)
        if mean and size > 1:
            out.div_(size)
    else:
        total = torch.sum(rows, 0, dtype=acc)
        out.copy_(total.div_(size) if mean and size > 1 else total)


def set_add(
    y: Tensor | None, t: Tensor, sets: SetIndex, mean: bool, out: Tensor, first: int = 0, slope: Tensor | None = None
) -> Tensor:
    fmt = memory_format(t if y is None else y)
    end = first + out.shape[0]
    t_rows, out_rows = flat(t, fmt), flat(out, fmt)
    y_rows = None if y is None else flat(y, fmt)
    if sets.host_offsets is None:
        spread = (t_rows / sets.sizes(t.dtype) if mean else t_rows).index_select(0, sets.set_ids[first:end])
        if y_rows is None:
            out_rows.copy_(spread)
        else:
            torch.add(y_rows, spread, out=out_rows)
        return leaky_relu_(out, slope)
    for b, lo, hi in sets.runs(first, end):
        scale = 1 / (sets.host_offsets[b + 1] - sets.host_offsets[b]) if mean else 1
        if y_rows is None:
            torch.mul(t_rows[b].expand(hi - lo, -1), scale, out=out_rows[lo:hi])
        else:
            torch.add(y_rows[lo:hi], t_rows[b], alpha=scale, out=out_rows[lo:hi])
    return leaky_relu_(out, slope)


def concat_set_mean(u: Tensor, sets: SetIndex) -> Tensor:
    channels = u.shape[1]
    s = set_reduce(u, sets, mean=True)
    out = empty_rows(u, u.shape[0], 2 * channels)
    out[:, :channels] = u
    if sets.host_offsets is None:
        out[:, channels:] = s.index_select(0, sets.set_ids)
    else:
        for b, (lo, hi) in enumerate(sets.spans):
            out[lo:hi, channels:] = s[b]
    return out


def concat_set_mean_backward(g: Tensor, sets: SetIndex) -> Tensor:
    channels = g.shape[1] // 2
    fmt = memory_format(g)
    g_own, g_set = (part.contiguous(memory_format=fmt) for part in g.split(channels, dim=1))
    return set_add(g_own, set_reduce(g_set, sets, mean=False), sets, mean=True, out=g_own)


def center(x: Tensor, sets: SetIndex, from_mean: bool) -> tuple[Tensor, Tensor]:
    fmt = memory_format(x)
    mean, dev = set_reduce(x, sets, mean=True), empty_rows(x, sets.num_rows - sets.num_sets)
    x_rows, mean_rows, dev_rows = flat(x, fmt), flat(mean, fmt), flat(dev, fmt)
    if sets.host_offsets is None:
        kept = _all_but_last(sets)
        ids = sets.set_ids.index_select(0, kept)
        origin = (
            mean_rows.index_select(0, ids)
            if from_mean
            else x_rows.index_select(0, sets.offsets[1:].index_select(0, ids) - 1)
        )
        torch.sub(x_rows.index_select(0, kept), origin, out=dev_rows)
        return mean, dev
    for b, (lo, hi) in enumerate(sets.spans):
        torch.sub(x_rows[lo : hi - 1], mean_rows[b] if from_mean else x_rows[hi - 1], out=dev_rows[lo - b : hi - 1 - b])
    return mean, dev


def uncenter(mean: Tensor, dev: Tensor, sets: SetIndex, out: Tensor | None = None) -> Tensor:
    fmt = memory_format(mean)
    if out is None:
        out = empty_rows(mean, sets.num_rows)
    mean_rows, dev_rows, out_rows = flat(mean, fmt), flat(dev, fmt), flat(out, fmt)
    acc = sum_dtype(mean)
    if sets.host_offsets is None:
        kept = _all_but_last(sets)
        dev_offsets = sets.offsets.long() - torch.arange(sets.num_sets + 1, device=sets.offsets.device)
        sums = torch.segment_reduce(dev_rows.to(acc), "sum", offsets=dev_offsets, axis=0, initial=0, unsafe=True)
        last = (mean_rows - sums / sets.sizes(acc)).to(mean.dtype)
        out_rows.index_copy_(0, kept, dev_rows + last.index_select(0, sets.set_ids.index_select(0, kept)))
        out_rows.index_copy_(0, sets.offsets[1:].long() - 1, last)
        return out
    for b, (lo, hi) in enumerate(sets.spans):
        devs, last = dev_rows[lo - b : hi - 1 - b], out_rows[hi - 1]
        if hi - lo == 1:
            last.copy_(mean_rows[b])
            continue
        torch.sub(mean_rows[b], torch.sum(devs, 0, dtype=acc), alpha=1 / (hi - lo), out=last)
        torch.add(devs, last, out=out_rows[lo : hi - 1])
    return out


def _all_but_last(sets: SetIndex) -> Tensor:
    """int64 [N-B]: the samples that are not the last of their set, found without reading from the device."""
    rows = torch.arange(sets.num_rows, device=sets.set_ids.device)
    ids = sets.set_ids.long()
    is_last = rows + 1 == sets.offsets[1:].long().index_select(0, ids)
    spare = sets.num_rows - sets.num_sets  # one slot past the end receives every last sample
    slots = torch.where(is_last, spare, rows - ids)
    return rows.new_zeros(spare + 1).scatter_(0, slots, rows)[:spare]

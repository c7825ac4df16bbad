"""`collate`: one batch of the sets that a data set returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from ._index_tensors import short
from .sets import Sets


def collate(items: Sequence[Any]) -> Any:
    """Packs sets into a batch: `DataLoader(dataset, batch_size=B, collate_fn=ik.collate)`, where an item is one set.

    What has one entry for each sample of a set is joined: tensors and numpy arrays [K_b, ...], into [N, ...], and lists
    of K_b entries, into a list of N. The rest, such as numbers and strings, has one entry for each set and is joined as
    by torch's `default_collate`.

    Subclasses of Tensor become plain tensors: the metadata of a batch would be those of its first set. For MONAI's
    samples, `interconv_seg.monai.collate` keeps the metadata of each.

    Args:
        items: B sets, each a tensor [K_b, ...], or a tuple or a mapping of such tensors and other values.

    Returns:
        (u [N, ...], sets) for tensors; the tuple with `sets` as a last element; or a dict with `sets` as "sets".

    Raises:
        TypeError: an item has no tensor with samples, or items are of different kinds.
        ValueError: no items; the number of samples differs within an item; shapes, dtypes or keys differ between items.
    """
    with torch._C.DisableTorchFunctionSubclass():  # a subclass chooses the type of a result there, and its metadata
        return _collate(list(items))


def _collate(items: list[Any]) -> Any:
    if not items:
        raise ValueError("no items: expected at least one set")
    kinds = sorted({_kind(item) for item in items})
    if len(kinds) > 1:
        raise TypeError(f"items are a {' and a '.join(kinds)}: expected one kind")
    lengths = [_num_samples(item, b) for b, item in enumerate(items)]
    sets = Sets.from_lengths(lengths, next(_sample_tensors(items[0])).device)
    if kinds == ["tensor"]:
        return _join(items, lengths, "item"), sets
    if kinds == ["mapping"]:
        if "sets" in items[0]:
            raise ValueError('items have a key "sets": expected none, since the batch has its sets there')
        return {**_join(items, lengths, "item"), "sets": sets}
    counts = sorted({len(item) for item in items})
    if len(counts) > 1:
        raise ValueError(f"items have {' and '.join(map(str, counts))} values: expected the same number")
    return (*(_join(values, lengths, f"item[{i}]") for i, values in enumerate(zip(*items, strict=True))), sets)


def _kind(item: Any) -> str:
    return "mapping" if isinstance(item, Mapping) else "tuple" if isinstance(item, (tuple, list)) else "tensor"


def _sample_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value that have a dimension, numpy arrays included."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        if value.dim() > 0:
            yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _sample_tensors(part)


def _num_samples(item: Any, b: int) -> int:
    first = next(_sample_tensors(item), None)
    if first is None:
        raise TypeError(
            f"items[{b}] is a {type(item).__name__} without a tensor [K, ...]: expected the samples of a set"
        )
    return len(first)


def _join(values: Sequence[Any], lengths: Sequence[int], name: str) -> Any:
    """One value of all items: joined over the samples, or over the sets."""
    first = values[0]
    if isinstance(first, Mapping):
        for value in values:
            if value.keys() != first.keys():
                raise ValueError(f"{name} has keys {list(value)} and {list(first)}: expected the same in all items")
        return {key: _join([value[key] for value in values], lengths, f"{name}[{key!r}]") for key in first}
    if isinstance(first, np.ndarray) and first.ndim:
        values = [torch.from_numpy(value) for value in values]
    elif not isinstance(first, list) and not (isinstance(first, Tensor) and first.dim()):
        return default_collate(list(values))
    sizes = [len(value) for value in values]
    if sizes != list(lengths):
        raise ValueError(
            f"{name} has {short(sizes)} entries in sets of {short(lengths)} samples: expected one for each"
        )
    if isinstance(first, list):
        return [entry for value in values for entry in value]
    kinds = {(tuple(value.shape[1:]), value.dtype) for value in values}
    if len(kinds) > 1:
        raise ValueError(f"{name} has samples of {sorted(map(str, kinds))}: expected one shape and dtype in a batch")
    return torch.cat(list(values))

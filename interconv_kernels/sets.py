"""`Sets`: which of a packed tensor's samples belong together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ._index_tensors import host_integers, index_tensors, outside_inference_mode, short
from ._traced_sets import traced_index_tensors

INT32_MAX = 2**31 - 1


class Sets:
    """The sets of a packed batch: set b holds the samples offsets[b] ... offsets[b+1]-1 of u [N, ...].

    Create it once per batch (`from_lengths`, `from_offsets`, `from_size`), from host data if possible, and pass the
    same object to every layer: all checks that need values happen here, and nothing afterwards waits for the device.

    Attributes:
        offsets: int32 [B+1], offsets[0] = 0, nondecreasing, offsets[B] = N. Empty sets and N = 0 are allowed.
        set_ids: int32 [N], the set of each sample.
        live_offsets: int32 [B'+1], the offsets of the sets that are not empty. An empty set has no output, so the
            layers use these. The same tensor as `offsets` if no set is empty.
        live_ids: int32 [N], the set of each sample, counting only the sets that are not empty.

    `Sets` is a pytree node (torch.compile, torch.export and tree_map see its four tensors).
    """

    __slots__ = ("_lengths", "live_ids", "live_offsets", "offsets", "set_ids")
    ndim = 0  # see `item`

    def __init__(
        self,
        offsets: Tensor,
        set_ids: Tensor,
        live_offsets: Tensor,
        live_ids: Tensor,
        lengths: tuple[int, ...] | None = None,
    ):
        """For tensors that are known to fit together; `from_lengths`, `from_offsets` and `from_size` check theirs."""
        self.offsets = offsets
        self.set_ids = set_ids
        self.live_offsets = live_offsets
        self.live_ids = live_ids
        self._lengths = lengths

    @classmethod
    def from_lengths(cls, lengths: Sequence[int] | Tensor, device: torch.device | str | None = None) -> Sets:
        """Sets of K_1, K_2, ... consecutive samples.

        Args:
            lengths: the set sizes, integers >= 0 (a sequence, an integer tensor or an array); N is their sum.
            device: of the index tensors; by default that of `lengths` if it is a tensor, else torch's default device.

        Returns:
            Sets with B = len(lengths).

        Raises:
            TypeError: a length is not an integer.
            ValueError: a length is negative, or N does not fit int32.
        """
        if device is None and isinstance(lengths, Tensor):
            device = lengths.device
        sizes = host_integers(lengths, "lengths")
        for b, size in enumerate(sizes):
            if size < 0:
                raise ValueError(f"lengths[{b}] = {size}: expected set sizes >= 0")
        if sum(sizes) > INT32_MAX:
            raise ValueError(f"lengths sum to {sum(sizes)} samples: expected at most {INT32_MAX} (offsets are int32)")
        device = torch.empty(0).device if device is None else torch.device(device)
        with outside_inference_mode():
            offsets, ids = index_tensors(sizes, device)
            live = (offsets, ids) if all(sizes) else index_tensors([size for size in sizes if size], device)
        return cls(offsets, ids, *live, tuple(sizes))

    @classmethod
    def from_offsets(
        cls, offsets: Sequence[int] | Tensor, num_samples: int | None = None, device: torch.device | str | None = None
    ) -> Sets:
        """Sets from their offsets [B+1], with offsets[0] = 0, nondecreasing.

        Args:
            offsets: integers (a sequence, an integer tensor or an array).
            num_samples: N, if known: the last offset must equal it.
            device: as in `from_lengths`.

        Raises:
            TypeError: an offset is not an integer.
            ValueError: no offsets, or they do not start at 0, decrease, or do not end at N (compiled: RuntimeError).
        """
        if isinstance(offsets, Tensor):
            device = device or offsets.device
            if num_samples is not None and torch.compiler.is_compiling():
                return cls(*traced_index_tensors(offsets, num_samples, torch.device(device)))
        values = host_integers(offsets, "offsets")
        if not values or values[0] != 0:
            raise ValueError(f"offsets {short(values)}: expected B+1 integers starting with 0")
        for b in range(len(values) - 1):
            if values[b + 1] < values[b]:
                change = f"from {values[b]} to {values[b + 1]} at index {b + 1}"
                raise ValueError(f"offsets decrease {change}: expected nondecreasing offsets")
        if num_samples is not None and values[-1] != num_samples:
            raise ValueError(f"offsets end at {values[-1]}: expected the number of samples, N = {num_samples}")
        return cls.from_lengths([hi - lo for lo, hi in pairwise(values)], device)

    @classmethod
    def from_size(cls, size: int, num_samples: int, device: torch.device | str | None = None) -> Sets:
        """Equal sets: N / size sets of `size` samples each.

        Args:
            size: K, at least 1.
            num_samples: N, a multiple of `size`.
            device: as in `from_lengths`.

        Raises:
            TypeError: `size` is not an integer.
            ValueError: `size` < 1, or it does not divide N.
        """
        [size] = host_integers([size], "set size")
        if size < 1:
            raise ValueError(f"set size {size}: expected an integer >= 1")
        if num_samples % size:
            raise ValueError(f"set size {size} does not divide the number of samples, N = {num_samples}")
        sets = cls.equal(num_samples // size, size, device)
        if not torch.compiler.is_compiling():  # a traced B is no Python number
            sets._lengths = (size,) * (num_samples // size)
        return sets

    @classmethod
    def equal(cls, num_sets: int, size: int, device: torch.device | str | None = None) -> Sets:
        """`num_sets` sets of `size` samples, computed on the device, so that it can be traced.

        Args:
            num_sets: B.
            size: K, at least 0.
            device: as in `from_lengths`.
        """
        if size == 0:
            return cls.from_lengths([0] * num_sets, device)
        with outside_inference_mode():
            offsets = torch.arange(num_sets + 1, dtype=torch.int32, device=device) * size
            ids = torch.arange(num_sets * size, dtype=torch.int32, device=device) // size
        return cls(offsets, ids, offsets, ids)

    @classmethod
    def cat(cls, parts: Iterable[Sets]) -> Sets:
        """The sets of all parts, one after the other, for samples that were concatenated in the same order.

        Args:
            parts: at least one, all on one device.

        Raises:
            TypeError: a part is not `Sets`.
            ValueError: no parts, or they are on different devices.
        """
        parts = list(parts)
        for position, part in enumerate(parts):
            if not isinstance(part, Sets):
                raise TypeError(f"parts[{position}] = {part!r}: expected ik.Sets")
        devices = {part.device for part in parts}
        if len(devices) != 1:
            raise ValueError(f"{len(parts)} parts on devices {sorted(map(str, devices))}: expected parts on one device")
        return cls.from_lengths([size for part in parts for size in part.lengths], devices.pop())

    @property
    def lengths(self) -> tuple[int, ...]:
        """The set sizes on the host: known from the start if created from host data, else read back once."""
        if self._lengths is None:
            self._lengths = tuple(hi - lo for lo, hi in pairwise(self.offsets.tolist()))
        return self._lengths

    @property
    def num_samples(self) -> int:
        """N, the number of samples in all sets."""
        return self.live_ids.shape[0]

    @property
    def device(self) -> torch.device:
        return self.live_offsets.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Sets:
        """The same sets with their index tensors on `device`; self if they are there already.

        Args:
            device: where to.
            non_blocking: as in `Tensor.to`.
        """
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Sets:
        """The same sets in page-locked memory (`DataLoader(pin_memory=True)` calls this); self if they are there."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Sets:
        with outside_inference_mode():
            offsets, ids = function(self.offsets), function(self.set_ids)
            if offsets is self.offsets and ids is self.set_ids:
                return self
            if self.live_offsets is self.offsets:
                return Sets(offsets, ids, offsets, ids, self._lengths)
            return Sets(offsets, ids, function(self.live_offsets), function(self.live_ids), self._lengths)

    def split(self, size: int | Sequence[int]) -> list[Sets]:
        """Parts of consecutive whole sets, as `Tensor.split` does it; `u.split([part.num_samples ...])` fits them.

        Args:
            size: sets in each part (the last may have fewer), or one number for each part, B in all.

        Raises:
            TypeError: a number is not an integer.
            ValueError: size < 1, or the numbers are negative or do not sum to B.
        """
        lengths = self.lengths
        if isinstance(size, int):
            if size < 1:
                raise ValueError(f"size = {size}: expected at least 1 set in each part")
            starts = [*range(0, len(lengths), size), len(lengths)]
        else:
            sizes = host_integers(size, "size")
            if min(sizes, default=0) < 0 or sum(sizes) != len(lengths):
                raise ValueError(f"size = {short(sizes)}: expected numbers >= 0 with the sum B = {len(lengths)}")
            starts = [0, *accumulate(sizes)]
        return [Sets.from_lengths(lengths[lo:hi], self.device) for lo, hi in pairwise(starts)]

    def __getitem__(self, b: int) -> slice:
        """The samples of set b: `u[sets[b]]`. So `for samples in sets` goes through the sets.

        There is no `__iter__`, since libraries take what has it for a list with one entry for each sample.
        """
        size, start = self.lengths[b], sum(self.lengths[:b])
        return slice(start, start + size)

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[slice]: ...

    def __eq__(self, other: object) -> bool:
        """Whether both have the same set sizes, on whatever device."""
        return self.lengths == other.lengths if isinstance(other, Sets) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.lengths)

    def __copy__(self) -> Sets:
        return self  # nothing changes an object of this class

    def __deepcopy__(self, memo: object) -> Sets:
        return self

    def __getstate__(self) -> Tensor:
        return self.offsets

    def __setstate__(self, offsets: Tensor) -> None:
        """From a file, which may hold anything: `from_offsets` checks it, since the kernels trust the index tensors."""
        sets = Sets.from_offsets(offsets)
        for name in self.__slots__:
            setattr(self, name, getattr(sets, name))

    def item(self) -> Sets:
        """Itself: MONAI's decollate_batch takes it for a scalar and gives these sets to all samples of the batch."""
        return self

    def __len__(self) -> int:
        """B, the number of sets, empty ones included."""
        return self.offsets.shape[0] - 1

    def __repr__(self) -> str:
        sizes = short(self._lengths) if self._lengths is not None else f"{len(self)} sets"
        return f"Sets({sizes}, N={self.num_samples}, device={str(self.device)!r})"


class SetIndex:
    """The two index tensors of some sets as operators get them, and their values on the host if they are on the CPU."""

    def __init__(self, offsets: Tensor, set_ids: Tensor):
        self.offsets = offsets
        self.set_ids = set_ids
        self.num_sets = offsets.shape[0] - 1
        self.num_rows = set_ids.shape[0]

    @property
    def all_single(self) -> bool:
        """Whether every set has one sample, if none is empty."""
        return self.num_sets == self.num_rows

    @cached_property
    def host_offsets(self) -> list[int] | None:
        """The offsets as Python integers, read on first use; None if they are not on the CPU."""
        return self.offsets.tolist() if self.offsets.device.type == "cpu" else None

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """(first sample, one past the last) of each set; host offsets only."""
        assert self.host_offsets is not None
        return list(zip(self.host_offsets[:-1], self.host_offsets[1:], strict=True))

    def runs(self, lo: int, hi: int) -> list[tuple[int, int, int]]:
        """(b, first, end) for each set b with samples in lo ... hi-1, counted from lo. Host offsets only."""
        spans = self.spans
        runs = []
        for b in range(max(0, bisect_right(spans, lo, key=itemgetter(0)) - 1), len(spans)):
            first, end = max(spans[b][0], lo), min(spans[b][1], hi)
            if first >= hi:
                break
            if end > first:
                runs.append((b, first - lo, end - lo))
        return runs

    def part(self, first_set: int, end_set: int) -> SetIndex:
        """The sets first_set ... end_set-1 alone, their samples counted from 0. Host offsets only."""
        lo, hi = self.spans[first_set][0], self.spans[end_set - 1][1]
        return SetIndex(self.offsets[first_set : end_set + 1] - lo, self.set_ids[lo:hi] - first_set)

    def sizes(self, dtype: torch.dtype) -> Tensor:
        """K_b as a column [B, 1] on the device, at least 1 so that an empty set's sum can be divided by it."""
        return (self.offsets[1:] - self.offsets[:-1]).clamp(min=1).to(dtype).unsqueeze(1)


def _flatten(sets: Sets) -> tuple[list[Any], None]:
    return [sets.offsets, sets.set_ids, sets.live_offsets, sets.live_ids], None


def _flatten_with_keys(sets: Sets) -> tuple[list[tuple[Any, Any]], None]:
    names = ("offsets", "set_ids", "live_offsets", "live_ids")
    return [(pytree.GetAttrKey(name), getattr(sets, name)) for name in names], None


def _unflatten(tensors: Any, context: None) -> Sets:
    return Sets(*tensors)


# The lengths are host data and not a leaf: a graph must not depend on them. A rebuilt Sets reads them back if asked.
pytree.register_pytree_node(
    Sets,
    _flatten,
    _unflatten,
    serialized_type_name="interconv_kernels.Sets",
    flatten_with_keys_fn=_flatten_with_keys,
)

torch.serialization.add_safe_globals([Sets])  # for torch.load(weights_only=True), its default

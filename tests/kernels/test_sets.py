import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import interconv_kernels as ik
from interconv_kernels.as_sets import as_sets
from interconv_kernels.sets import SetIndex


def check(sets, lengths):
    assert sets.offsets.dtype == sets.set_ids.dtype == torch.int32
    assert sets.offsets.tolist() == np.cumsum([0, *lengths]).tolist()
    assert sets.set_ids.tolist() == [b for b, k in enumerate(lengths) for _ in range(k)]
    live = [k for k in lengths if k]
    assert sets.live_offsets.tolist() == np.cumsum([0, *live]).tolist()
    assert sets.live_ids.tolist() == [b for b, k in enumerate(live) for _ in range(k)]
    assert sets.lengths == tuple(lengths)
    assert sets.num_samples == sum(lengths)
    assert len(sets) == len(lengths)


@pytest.mark.parametrize("lengths", [[3, 1, 8], [1], [0, 2, 0, 0, 5, 0], [0, 0], []])
def test_from_lengths_and_offsets(lengths):
    offsets = np.cumsum([0, *lengths])
    for given in (lengths, tuple(lengths), np.array(lengths, dtype=np.int64), torch.tensor(lengths, dtype=torch.int64)):
        check(ik.Sets.from_lengths(given), lengths)
    for given in (offsets.tolist(), offsets, torch.tensor(offsets, dtype=torch.int32)):
        check(ik.Sets.from_offsets(given), lengths)
        check(ik.Sets.from_offsets(given, num_samples=sum(lengths)), lengths)


@pytest.mark.parametrize(("size", "count"), [(1, 4), (4, 12), (7, 0), (3, 3)])
def test_from_size(size, count):
    check(ik.Sets.from_size(size, count), [size] * (count // size))


def test_what_a_caller_may_pass():
    cpu = torch.device("cpu")
    sets = ik.Sets.from_lengths([2, 4])
    assert as_sets(sets, 6, cpu) is sets
    check(as_sets([2, 4], 6, cpu), [2, 4])
    check(as_sets(torch.tensor([0, 2, 6]), 6, cpu), [2, 4])
    check(as_sets(3, 6, cpu), [3, 3])
    check(as_sets(np.int64(2), 6, cpu), [2, 2, 2])


def test_lengths_are_known_without_reading_the_device():
    """On meta there is nothing to read, so these come from the host."""
    assert ik.Sets.from_lengths([2, 0, 1], device="meta").lengths == (2, 0, 1)
    assert ik.Sets.from_offsets([0, 2, 3], device="meta").lengths == (2, 1)
    assert ik.Sets.from_size(2, 6, device="meta").lengths == (2, 2, 2)


@pytest.mark.drop_in("PyTorch", "Sets: to")
def test_to_another_device():
    for lengths in ([2, 1], [2, 0, 1]):
        sets = ik.Sets.from_lengths(lengths)
        assert sets.to("cpu") is sets
        moved = sets.to("meta")
        assert {x.device.type for x in pytree.tree_leaves(moved)} == {"meta"}
        assert moved.lengths == tuple(lengths)
        assert (moved.live_offsets is moved.offsets) == (0 not in lengths)


@pytest.mark.drop_in("PyTorch", "Sets: indexing and iteration")
@pytest.mark.parametrize("lengths", [[3, 1, 8], [0, 2, 0], []])
def test_iteration(lengths):
    u = torch.randn(sum(lengths), 2)
    sets = ik.Sets.from_lengths(lengths)
    assert [len(u[samples]) for samples in sets] == [len(u[sets[b]]) for b in range(-len(sets), 0)] == lengths
    assert torch.equal(torch.cat([u[:0], *(u[samples] for samples in sets)]), u)
    with pytest.raises(IndexError):
        sets[len(lengths)]


@pytest.mark.drop_in("PyTorch", "Sets: split and cat")
@pytest.mark.parametrize("size", [1, 2, 3, 5, [1, 0, 4], (2, 3), torch.tensor([5])])
def test_split_and_cat(size):
    """As torch.split of the sets' sizes, one entry for each set."""
    lengths = torch.tensor([3, 0, 1, 8, 2])
    sets = ik.Sets.from_lengths(lengths)
    parts = sets.split(size)
    for part, want in zip(parts, lengths.split(size if isinstance(size, int) else list(size)), strict=True):
        check(part, want.tolist())
    check(ik.Sets.cat(parts), lengths.tolist())


def test_split_and_cat_refuse():
    sets = ik.Sets.from_lengths([3, 1])
    for size, message in ((0, "size = 0: expected at least 1"), ([1], r"size = \[1\]: .* B = 2"), ([3, -1], "B = 2")):
        with pytest.raises(ValueError, match=message):
            sets.split(size)
    with pytest.raises(TypeError, match=r"size\[0\] = 1.5"):
        sets.split([1.5])
    with pytest.raises(ValueError, match=r"0 parts.*expected parts on one device"):
        ik.Sets.cat([])
    with pytest.raises(ValueError, match=r"2 parts on devices.*cpu.*meta"):
        ik.Sets.cat([sets, sets.to("meta")])
    with pytest.raises(TypeError, match=r"parts\[1\] = \[3\]: expected ik.Sets"):
        ik.Sets.cat([sets, [3]])


@pytest.mark.drop_in("PyTorch", "Sets: equality and hash")
def test_equality():
    sets = ik.Sets.from_lengths([3, 1])
    assert sets == ik.Sets.from_offsets([0, 3, 4]) == ik.Sets(*pytree.tree_leaves(sets)) == sets.to("meta")
    assert len({sets, ik.Sets.from_lengths([3, 1]), ik.Sets.from_lengths([1, 3]), ik.Sets.from_lengths([3, 1, 0])}) == 3
    assert sets != ik.Sets.from_lengths([1, 3])
    assert sets != (3, 1)


@pytest.mark.drop_in("PyTorch", "Sets: pytree")
def test_is_a_pytree():
    sets = ik.Sets.from_lengths([2, 0, 1])
    leaves, spec = pytree.tree_flatten(sets)
    assert len(leaves) == 4
    check(pytree.tree_unflatten(leaves, spec), [2, 0, 1])
    check(pytree.tree_map(torch.clone, {"sets": sets})["sets"], [2, 0, 1])


def test_repr_is_short():
    assert repr(ik.Sets.from_lengths([3, 1])) == "Sets([3, 1], N=4, device='cpu')"
    assert "... 99 in all" in repr(ik.Sets.from_lengths([1] * 99))


def test_runs_and_parts():
    sets = ik.Sets.from_lengths([2, 3, 1])
    index = SetIndex(sets.offsets, sets.set_ids)
    assert index.runs(0, 6) == [(0, 0, 2), (1, 2, 5), (2, 5, 6)]
    assert index.runs(1, 4) == [(0, 0, 1), (1, 1, 3)]
    assert index.runs(2, 3) == [(1, 0, 1)]
    part = index.part(1, 3)
    assert part.host_offsets == [0, 3, 4]
    assert part.set_ids.tolist() == [0, 0, 0, 1]

"""Groups, random batches and augmentation."""

import pickle
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from interconv_seg import data
from interconv_seg.prompts import draw_prompts
from interconv_seg.seeding import random_of, seed_of
from torch.utils.data import DataLoader


def sample(name, subject="s", task="t", value=0.5, labels=(1, 2), size=(16, 20)):
    mask = None
    if labels is not None:
        mask = torch.zeros(size, dtype=torch.int16)
        for label in labels:
            mask[4 * label : 4 * label + 3, 2:9] = label
    return data.Sample(name, subject, task, torch.full((1, *size), value), mask, size)


def ragged():
    """Subjects of 1, 2, 5 and 12 scans; the value of an image identifies the scan."""
    groups = []
    for subject, scans in enumerate((1, 2, 5, 12)):
        name = f"s{subject}"
        scans = [sample(f"{name}/{i}", name, value=(subject * 20 + i) / 100) for i in range(scans)]
        groups.append(data.Group(name, tuple(scans)))
    return groups


def same(a, b):
    return (
        torch.equal(a.images, b.images)
        and (a.masks is None) == (b.masks is None)
        and (a.masks is None or torch.equal(a.masks, b.masks))
        and (a.prompts is None) == (b.prompts is None)
        and (a.prompts is None or torch.equal(a.prompts, b.prompts))
        and a.sets.lengths == b.sets.lengths
        and (a.names, a.groups) == (b.names, b.groups)
    )


def test_seeds_are_the_same_everywhere():
    assert seed_of(0, "batch", 7) == 3751351752224634755
    assert seed_of(1, 2) != seed_of(12) != seed_of("1", 2)
    assert 0 <= seed_of() < 2**63
    assert random_of(3).random() == random_of(3).random()


def test_groups_by_subject():
    samples = [sample("1", "anna"), sample("2", "bert"), sample("3", "anna", task="u"), sample("4", "anna")]
    groups = data.group_samples(samples, "subject")
    assert [(g.name, [s.name for s in g.samples]) for g in groups] == [
        ("t/anna", ["1", "4"]),
        ("t/bert", ["2"]),
        ("u/anna", ["3"]),
    ]
    assert all(group.label is None for group in groups)


def test_groups_by_task():
    samples = [sample(str(i), labels=(1, 2) if i < 3 else (2,)) for i in range(5)]
    samples += [sample("x", task="u", labels=(1,)), sample("y", labels=()), sample("z", labels=None)]
    names = {1: "grey", 2: "white", 3: "never"}
    groups = {group.name: group for group in data.group_samples(samples, "task", names)}
    assert {name: [s.name for s in group.samples] for name, group in groups.items()} == {
        "t/grey": ["0", "1", "2"],
        "t/white": ["0", "1", "2", "3", "4"],
        "u/grey": ["x"],
    }
    assert [group.name for group in data.group_samples(samples, "task", names, min_images=4)] == ["t/white"]
    assert data.group_samples(samples, "task", names, min_images=8) == []
    batch = data.collate([groups["t/white"], groups["t/grey"]])
    assert torch.equal(batch.masks[0], (samples[0].mask == 2).long())
    assert torch.equal(batch.masks[5], (samples[0].mask == 1).long())


def test_groups_of_a_whole_data_set():
    samples = [sample("1", "anna", task="d/axial"), sample("2", "bert", task="d/coronal"), sample("3", task="e")]
    groups = data.group_samples(samples, "all")
    assert [(group.name, [s.name for s in group.samples]) for group in groups] == [("d", ["1", "2"]), ("e", ["3"])]
    subjects = data.group_samples(samples, "subject", {2: "white"})
    assert [group.name for group in subjects] == ["d/axial/anna/white", "d/coronal/bert/white", "e/s/white"]


def test_one_image_of_each_subject():
    """The slice with the largest area of the label, for each label separately."""
    samples = []
    for subject in range(9):
        slices = [sample(f"{subject}/{i}", str(subject)) for i in range(3)]
        slices[subject % 3].mask[0] = 1
        slices[(subject + 1) % 3].mask[0] = 2
        samples += slices
    grey, white = data.group_samples(samples, "task", {1: "grey", 2: "white"}, 8, one_per_subject=True)
    assert [s.name for s in grey.samples] == [f"{i}/{i % 3}" for i in range(9)]
    assert [s.name for s in white.samples] == [f"{i}/{(i + 1) % 3}" for i in range(9)]
    assert data.group_samples(samples, "task", {1: "grey"}, min_images=10, one_per_subject=True) == []


def test_parts():
    group = data.Group("g", tuple(sample(str(i)) for i in range(7)), label=2)
    parts = group.parts(3)
    assert [[s.name for s in part.samples] for part in parts] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert {(part.name, part.label) for part in parts} == {("g", 2)}


def test_a_batch_is_packed():
    groups = ragged()[:3]
    batch = data.collate(groups)
    assert batch.images.shape == (8, 1, 16, 20)
    assert batch.images.dtype == torch.float32
    assert batch.masks.shape == (8, 16, 20)
    assert batch.masks.dtype == torch.int64
    assert batch.prompts is None
    assert batch.sets.lengths == (1, 2, 5)
    assert batch.groups == ("s0", "s1", "s2")
    samples = [s for group in groups for s in group.samples]
    assert batch.names == tuple(s.name for s in samples)
    for i, one in enumerate(samples):
        assert torch.equal(batch.images[i], one.image)
        assert torch.equal(batch.masks[i], one.mask.long())
    assert torch.equal(batch.inputs, batch.images)
    moved = batch.to("meta")
    assert {moved.images.device.type, moved.masks.device.type, moved.sets.device.type} == {"meta"}
    assert moved.names == batch.names


def test_prompts_of_a_scan_do_not_depend_on_its_set():
    """So set sizes are compared on the same prompts."""
    draw = partial(draw_prompts, positive=2, negative=2)
    group = ragged()[3]
    whole = data.collate([group], prompts=draw, seeds=[5])
    assert whole.prompts.shape == (12, 2, 16, 20)
    assert torch.equal(whole.inputs, torch.cat([whole.images, whole.prompts], 1))
    assert (whole.masks[whole.prompts[:, 0] > 0] > 0).all()
    parts = group.parts(5)
    split = data.collate(parts, prompts=draw, seeds=[5] * len(parts))
    assert split.sets.lengths == (5, 5, 2)
    assert torch.equal(split.prompts, whole.prompts)
    assert not torch.equal(data.collate([group], prompts=draw, seeds=[6]).prompts, whole.prompts)
    assert whole.prompts.flatten(1).unique(dim=0).shape[0] == 12  # each scan has its own


def test_what_collate_and_set_batches_refuse():
    small, unlabelled = sample("small", size=(16, 16)), sample("unlabelled", labels=None)
    for odd, draw, words in (
        (small, None, r"small: image of shape \(1, 16, 16\), expected \(1, 16, 20\) as fine"),
        (unlabelled, None, "unlabelled: no mask"),
        (unlabelled, draw_prompts, "unlabelled: no mask"),
    ):
        with pytest.raises(data.DataError, match=words):
            data.collate([data.Group("a", (sample("fine"),)), data.Group("b", (odd,))], prompts=draw)
    with pytest.raises(data.DataError, match="unlabelled: no mask"):
        data.collate([data.Group("a", (unlabelled,))], prompts=draw_prompts)
    assert data.collate([data.Group("a", (unlabelled,))]).masks is None
    for wrong in ({"groups": []}, {"sets_per_batch": 0}, {"set_sizes": (0, 4)}, {"set_sizes": (3, 2)}):
        with pytest.raises(ValueError, match=r"expected|no groups"):
            data.SetBatches(**({"groups": ragged()} | wrong))


def test_one_set_size_per_batch_is_sampled_uniformly():
    batches = data.SetBatches([data.Group("g", tuple(sample(str(i)) for i in range(9)))], sets_per_batch=3, seed=1)
    sizes = Counter()
    for step in range(800):
        lengths = batches[step].sets.lengths
        assert len(lengths) == 3
        assert len(set(lengths)) == 1
        sizes[lengths[0]] += 1
    assert sorted(sizes) == list(range(1, 9))
    assert all(60 < count < 140 for count in sizes.values())


def test_a_set_is_different_images_of_one_group():
    groups = ragged()
    batches = data.SetBatches(groups, sets_per_batch=8, set_sizes=(1, 8))
    drawn, firsts = Counter(), Counter()
    for step in range(100):
        batch = batches[step]
        size = max(batch.sets.lengths)
        for group, names in zip(
            batch.groups, torch.arange(len(batch.names)).split(list(batch.sets.lengths)), strict=True
        ):
            names = [batch.names[i] for i in names]
            assert len(set(names)) == len(names)
            assert {name.split("/")[0] for name in names} == {group}
            have = len(groups[int(group[1])].samples)
            assert len(names) <= have
            assert len(names) == have or len(names) == size
            drawn[group] += 1
            firsts[names[0]] += 1
    assert all(150 < count < 250 for count in drawn.values())  # uniformly, whatever their sizes
    assert len([name for name in firsts if name.startswith("s3/")]) == 12


def test_all_scans_of_a_subject():
    batch = data.SetBatches(ragged(), sets_per_batch=30, set_sizes=None)[0]
    assert set(batch.sets.lengths) == {1, 2, 5, 12}
    for group, length in zip(batch.groups, batch.sets.lengths, strict=True):
        assert length == (1, 2, 5, 12)[int(group[1])]


def augmented(seed=0):
    augmentation = data.AUGMENTATIONS["small"]
    return data.SetBatches(ragged(), 4, (1, 4), augmentation, draw_prompts, seed)


def test_a_step_is_a_function_of_the_seed():
    """A resumed run gets the same batches; other steps and workers do not affect them."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (MONAI's default)
    first = augmented()
    wanted = [first[step] for step in range(4)]
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    resumed = augmented()
    assert same(resumed[3], wanted[3])
    assert same(resumed[2], wanted[2])
    assert not same(augmented(seed=1)[3], wanted[3])
    assert not same(wanted[2], wanted[3])
    loader = DataLoader(augmented(), batch_size=None, sampler=range(1, 4), num_workers=2)
    for loaded, batch in zip(loader, wanted[1:], strict=True):
        assert same(loaded, batch)
    assert same(pickle.loads(pickle.dumps(wanted[0])), wanted[0])


def test_a_scan_looks_different_at_each_step():
    one = data.Group("g", (sample("a"),))
    batches = data.SetBatches([one], 1, (1, 1), data.Augmentation(affine=1), draw_prompts)
    drawn = [batches[step] for step in range(4)]
    for what in ("images", "prompts"):
        assert len(torch.cat([getattr(batch, what) for batch in drawn]).flatten(1).unique(dim=0)) >= 3


def test_only_some_images_of_a_set_have_prompts():
    """n of K, n uniform in 1 ... K; which ones is random."""
    group = data.Group("g", tuple(sample(str(i)) for i in range(4)))
    draw = partial(draw_prompts, positive=1, negative=1)
    counts, whose = Counter(), Counter()
    for seed in range(400):
        batch = data.collate([group], prompts=draw, seeds=[seed], prompt_some=True)
        has = (batch.prompts > 0).flatten(1).any(1)
        counts[int(has.sum())] += 1
        whose.update(has.nonzero().flatten().tolist())
    assert sorted(counts) == [1, 2, 3, 4]
    assert all(70 < count < 130 for count in counts.values())
    assert all(210 < count < 290 for count in whose.values())
    whole = data.collate([group], prompts=draw, seeds=[399])
    assert torch.equal(batch.prompts[has], whole.prompts[has])

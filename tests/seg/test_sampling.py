"""Which tasks a training samples, what it validates on, and which weights it keeps."""

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from interconv_seg.cli import main
from interconv_seg.config import Config
from interconv_seg.data import AUGMENTATIONS, Group, Sample, SetBatches, Split
from interconv_seg.data.augmentation import Augmentation, in_turn
from interconv_seg.data.sampling import group_probabilities
from interconv_seg.preparation import training_batches
from interconv_seg.runs import Run
from interconv_seg.training import train
from seg_common import BINARY

# data set / modality / axis / label
TASKS = (
    "heart/mr/axial/left",
    "heart/mr/axial/right",
    "heart/ct/axial/left",
    "heart/ct/coronal/left",
    "cells/nuclei",
)


def groups(names=TASKS):
    found = []
    for name in names:
        task = name.rpartition("/")[0]
        samples = [
            Sample(f"{name}{i}", f"s{i}", task, torch.zeros(1, 4, 4), torch.ones(4, 4).short(), (4, 4))
            for i in range(2)
        ]
        found.append(Group(name, tuple(samples), 1))
    return found


def naive_hierarchy(names, random, weights):
    """One draw: at each level one of the names that are left there, as ScribblePrompt's loader does."""
    left, depth = list(names), 0
    while len(left) > 1:
        options = sorted({"/".join(name.split("/")[: depth + 1]) for name in left})
        share = np.array([weights.get(option, 1.0) for option in options])
        chosen = options[random.choice(len(options), p=share / share.sum())]
        left = [name for name in left if (name + "/").startswith(chosen + "/")]
        depth += 1
    return left[0]


@pytest.mark.parametrize("weights", [{}, {"heart": 3, "heart/ct": 2, "heart/mr/axial/left": 0.25}])
def test_hierarchical_sampling(weights):
    found = group_probabilities(groups(), "hierarchical", weights)
    assert sum(found) == pytest.approx(1)
    random = np.random.default_rng(0)
    counts = Counter(naive_hierarchy(TASKS, random, weights) for _ in range(8000))
    for name, probability in zip(TASKS, found, strict=True):
        assert counts[name] / 8000 == pytest.approx(probability, abs=0.02)
    if not weights:
        assert found == [1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 2]
    else:
        assert found == pytest.approx([3 / 4 / 3 / 5, 3 / 4 / 3 * 4 / 5, 3 / 4 / 3, 3 / 4 / 3, 1 / 4])


def test_even_sampling_takes_each_group_alike():
    assert group_probabilities(groups(), "even") == [1 / 5] * 5


def test_batches_follow_the_probabilities():
    batches = SetBatches(groups(), 40, (1, 2), sampling="hierarchical", weights={"cells": 3})
    counts = Counter(name for step in range(50) for name in batches[step].groups)
    for name, probability in zip(TASKS, (1 / 16, 1 / 16, 1 / 16, 1 / 16, 3 / 4), strict=True):
        assert counts[name] / 2000 == pytest.approx(probability, abs=0.03)


def test_a_group_of_several_tasks_lies_where_they_part():
    """Sets of a whole data set: its samples share the data set alone."""
    samples = tuple(sample for group in groups(TASKS[:3]) for sample in group.samples)
    whole = Group("heart/left", samples, 1)
    assert group_probabilities([whole, *groups(TASKS[4:])], "hierarchical") == [1 / 2, 1 / 2]


@pytest.mark.parametrize(
    ("weights", "words"),
    [({"brain": 1.0}, "'brain' is no part of the data, expected one of cells"), ({"heart": 0.0}, "heart = 0.0")],
)
def test_weights_that_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        SetBatches(groups(), sampling="hierarchical", weights=weights)


# Changes that a set shares


def ramp(count):
    torch.manual_seed(0)
    return torch.rand(1, 1, 24, 24).expand(count, 1, 24, 24), torch.ones(count, 24, 24, dtype=torch.int16)


def test_a_set_shares_its_changes():
    images, masks = ramp(5)
    every = replace(AUGMENTATIONS["scribbleprompt"], noise=0, affine=1.0, contrast=1.0, blur=1.0, elastic=1.0)
    shared = replace(every, shared_geometry=True, shared_intensities=True)
    found, _ = shared(images, masks, [3, 2], [1, 2])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[3], found[4])
    assert not torch.equal(found[0], found[3])
    noisy = replace(shared, noise=1.0, noise_deviation=(0.01, 0.01))
    found, _ = noisy(images, masks, [3, 2], [1, 2])
    assert not torch.equal(found[0], found[1])
    assert (found[0] - found[1]).abs().max() < 0.1


def test_the_changes_of_a_set_come_before_those_of_its_samples():
    images, masks = ramp(4)
    twice, half = Augmentation(contrast=1.0, contrast_range=(0, 0), brightness=0.3), Augmentation(flip=1.0)
    found, found_masks = in_turn([twice, half], images, masks, [4], [3])
    assert (found - found.mean((2, 3), keepdim=True)).abs().max() < 1e-6
    assert torch.equal(found_masks, masks)
    config = replace(BINARY, augmentation="small", set_augmentation="scribbleprompt", size=(24, 24))
    samples = tuple(
        Sample(str(i), str(i), "t", *part, (24, 24)) for i, part in enumerate(zip(images, masks, strict=True))
    )
    batches = training_batches(config, [Group("t/a", samples, 1)])
    of_set, of_sample = batches.transform.args[0]
    assert (of_set.shared_geometry, of_set.shared_intensities, of_sample.shared_geometry) == (True, True, False)
    assert len(batches[0].images.flatten(1).unique(dim=0)) == len(batches[0].images)
    assert (
        training_batches(
            replace(config, augmentation="none", set_augmentation="none"), [Group("t/a", samples, 1)]
        ).transform
        is None
    )


# Validation


def write(save, folder, count, label=200):
    """An image for each subject, with a disc that is bright."""
    random = np.random.default_rng(len(str(folder)))
    rows, columns = np.mgrid[:16, :16]
    for i in range(count):
        disc = np.hypot(rows - 8, columns - 7 - i % 3) < 4
        save(folder / f"{i}.png", (random.integers(0, 50, (16, 16)) + label * disc).astype(np.uint8))
        save(folder / f"m{i}.png", disc.astype(np.uint8))
    lines = ["set,image,mask", *(f"{i},{i}.png,m{i}.png" for i in range(count))]
    (folder / "sets.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def two_data_sets(save, tmp_path):
    for name in ("ours", "others"):
        (tmp_path / name).mkdir()
        write(save, tmp_path / name, 10)
    return tmp_path


TINY = ["--mode", "interactive", "--network", "simpleunet", "--features", "2", "--size", "16x16", "--device", "cpu"]
FAST = ["--steps", "4", "--interval", "2", "--sets-per-batch", "2", "--set-sizes", "1-2"]


def test_validation_on_held_out_subjects_and_on_other_data(two_data_sets, capsys):
    """As in the paper: 60 % of the training data, 20 % of both kinds of data for validation, the rest for testing."""
    ours, others, out = (str(two_data_sets / name) for name in ("ours", "others", "runs"))
    run = two_data_sets / "runs/seed0"
    options = ["--data", ours, "--validation", others, "--hold-out", "--selection", "dice"]
    assert main(["train", *TINY, *FAST, *options, "--out", out]) == 0
    assert "1 groups for training, 1 for validation, 1 held out" in capsys.readouterr().out
    split = Split.read(run / "split.json")
    assert {
        name: [len(parts[part]) for part in ("train", "validation", "test")] for name, parts in split.parts.items()
    } == {
        "ours": [6, 2, 2],
        "others": [6, 2, 2],
    }
    noted = (run / "data.json").read_text()
    assert noted.count("ours/") == 8
    assert noted.count("others/") == 2
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert len(rows) == 2
    assert all(float(row["held_out_loss"]) != float(row["validation_loss"]) for row in rows)
    assert main(["train", "--resume", str(run), "--extend", "2", "--device", "cpu"]) == 0
    assert len(list(csv.DictReader((run / "metrics.csv").open()))) == 3
    capsys.readouterr()
    evaluation = ["evaluate", str(run), "--data", others, "--part", "test", "--set-sizes", "1", "--prompts", "1"]
    assert main([*evaluation, "--out", str(two_data_sets / "out"), "--device", "cpu"]) == 2  # fewer than 8 images
    assert "no task has 8 images" in capsys.readouterr().err


def test_other_data_without_holding_out_are_used_whole(two_data_sets, capsys):
    ours, others, out = (str(two_data_sets / name) for name in ("ours", "others", "runs"))
    assert main(["train", *TINY, *FAST, "--data", ours, "--validation", others, "--out", out]) == 0
    run = two_data_sets / "runs/seed0"
    assert not (run / "split.json").exists()
    assert (run / "data.json").read_text().count("/") == 2 * 20
    assert "held_out_loss" not in (run / "metrics.csv").read_text()


def test_weights_and_sampling_of_the_command(two_data_sets):
    ours, others, out = (str(two_data_sets / name) for name in ("ours", "others", "runs"))
    options = ["--data", ours, others, "--weights", "ours=3", "others=0.5", "--set-augmentation", "small"]
    assert main(["train", *TINY, *FAST, *options, "--out", out]) == 0
    config = Config.read(two_data_sets / "runs/seed0")
    assert config.weights == {"ours": 3.0, "others": 0.5}
    assert (config.sampling, config.set_augmentation) == ("hierarchical", "small")
    automatic = ["--mode", "automatic", *TINY[2:], *FAST, "--data", ours, "--out", str(two_data_sets / "automatic")]
    assert main(["train", *automatic]) == 0
    assert Config.read(two_data_sets / "automatic/seed0").sampling == "even"


@pytest.mark.parametrize(("selection", "best"), [("loss", 2), ("dice", 3)])
def test_the_weights_that_are_kept(tmp_path, monkeypatch, selection, best):
    """Loss and Dice that disagree on which validation was the best."""
    found = iter([(0.5, 0.1), (0.2, 0.3), (0.4, 0.8), (0.9, 0.8)])
    monkeypatch.setattr("interconv_seg.training.Training.validate", lambda self, batches: next(found))
    config = replace(BINARY, steps=4, interval=1, selection=selection, set_sizes=(1, 2), sets_per_batch=1)
    samples = tuple(
        Sample(str(i), str(i), "t", torch.rand(1, 16, 16), torch.ones(16, 16).short(), (16, 16)) for i in range(3)
    )
    batches = training_batches(config, [Group("t/a", samples, 1)])
    training = train(tmp_path, config, batches, [batches[0]])
    assert training.best_step == best
    assert Run.open(tmp_path).config == config


def test_a_selection_by_dice_needs_a_structure(tmp_path):
    config = replace(BINARY, steps=1, interval=1, selection="dice", set_sizes=(1, 1), sets_per_batch=1)
    empty = Sample("a", "a", "t", torch.rand(1, 16, 16), torch.zeros(16, 16).short(), (16, 16))
    batches = training_batches(config, [Group("t/a", (empty,), 1)])
    with pytest.raises(ValueError, match="no image for validation has a structure"):
        train(tmp_path, config, batches, [batches[0]])

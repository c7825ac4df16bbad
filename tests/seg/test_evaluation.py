"""Evaluation: Dice, sets of K, intervals and tests, each against an independent naive computation."""

import csv
import io
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from interconv_seg import plots, reports
from interconv_seg.data import DataError
from interconv_seg.data.files import IGNORED
from interconv_seg.data.scans import Collection
from interconv_seg.estimates import Estimate, estimate, improvement
from interconv_seg.evaluation import Score, divide, evaluate, mean_scores
from interconv_seg.metrics import dice_scores
from interconv_seg.preparation import load_groups, to_classes, training_batches, validation_batches
from scipy.integrate import quad
from seg_common import BINARY, CLASSES, Spy, group

# Dice


def naive_dice(predicted, truth, classes):
    rows = []
    for p, t in zip(predicted.tolist(), truth.tolist(), strict=True):
        row = []
        for c in range(1, classes):
            ours = {(y, x) for y, line in enumerate(p) for x, v in enumerate(line) if v == c}
            theirs = {(y, x) for y, line in enumerate(t) for x, v in enumerate(line) if v == c}
            row.append(2 * len(ours & theirs) / (len(ours) + len(theirs)) if theirs else math.nan)
        rows.append(row)
    return torch.tensor(rows)


def test_dice():
    random = torch.Generator().manual_seed(0)
    predicted, truth = (torch.randint(0, 4, (5, 7, 9), generator=random) for _ in range(2))
    truth[0][truth[0] == 2] = 0  # absent in the truth
    predicted[1][predicted[1] == 3] = 0  # absent in the prediction
    truth[2], predicted[2] = 0, 0  # absent in both
    found = dice_scores(predicted, truth, 4)
    torch.testing.assert_close(found, naive_dice(predicted, truth, 4), equal_nan=True)
    assert found[0, 1].isnan()
    assert found[1, 2] == 0
    assert found[2].isnan().all()


def test_a_samples_mean_is_over_what_the_truth_has():
    score = Score("g", "s", "a", 1, None, 0, 0, (0.5, math.nan, 1.0))
    assert score.mean == 0.75
    assert math.isnan(replace(score, dice=(math.nan,)).mean)


# Sets of K


@pytest.mark.parametrize("k", [1, 2, 4, 8, 10, 11, None])
def test_every_sample_is_counted_once_in_a_set_of_k(k):
    whole = group(10)
    sets = divide(whole, k, seed=3)
    counted = [sample.name for part, own in sets for sample in part.samples[-own:]]
    assert sorted(counted) == sorted(sample.name for sample in whole.samples)
    for part, _ in sets:
        names = [sample.name for sample in part.samples]
        assert len(set(names)) == len(names) == min(k or 10, 10)


def test_larger_sets_are_made_of_smaller_ones():
    small, large = ([{s.name for s in part.samples} for part, _ in divide(group(8), k, seed=1)] for k in (2, 4))
    assert all(any(pair <= four for four in large) for pair in small)
    assert [s.name for s in divide(group(8), None, 1)[0][0].samples] != [
        s.name for s in divide(group(8), None, 2)[0][0].samples
    ]


def test_prompts_are_the_same_for_every_set_size():
    spy = Spy(BINARY)
    groups = [group(9, "g", label=1), group(8, "h", label=2)]
    scores = evaluate(spy, groups, set_sizes=(1, 4), prompts=(1, 3), seeds=(0, 1))
    assert len(scores) == 17 * 2 * 2 * 2
    seen = {}
    for batch in spy.batches:
        number = int(batch.prompts.flatten(2).sum(2).max())
        for name, prompts in zip(batch.names, batch.prompts, strict=True):
            seen.setdefault(name, []).append((number, prompts))
    for entries in seen.values():
        distinct = {tuple(prompts.flatten().tolist()) for _, prompts in entries}
        assert len(distinct) == 4  # two numbers of prompts, two seeds: not eight
    per_condition = {}
    for score in scores:
        per_condition.setdefault((score.sample, score.prompts, score.seed), set()).add(score.dice)
    assert all(len(found) == 1 for found in per_condition.values())  # the spy does not look at the set


def test_scores_belong_to_their_samples():
    whole = group(5)
    scores = evaluate(Spy(CLASSES), [whole], set_sizes=(2, None))
    assert {score.set_size for score in scores} == {2, None}
    for score in scores:
        sample = next(s for s in whole.samples if s.name == score.sample)
        expected = naive_dice(torch.ones(1, 16, 16, dtype=torch.long), sample.mask[None], 3)[0]
        assert score.dice == pytest.approx(tuple(expected.tolist()))
        assert (score.subject, score.scans, score.prompts) == (sample.subject, 5, 0)


def test_means_by_sample_and_by_subject():
    def score(subject, sample, seed, dice):
        return Score("g", subject, sample, 3, 1, 0, seed, (dice,))

    scores = [score("s", "a", 0, 0.2), score("s", "a", 1, 0.4), score("s", "b", 0, 0.6), score("t", "c", 0, math.nan)]
    assert mean_scores(scores, "sample") == pytest.approx({("g", "a"): 0.3, ("g", "b"): 0.6})
    assert mean_scores(scores, "subject") == pytest.approx({("g", "s"): 0.4})


# Intervals and tests


def test_the_bootstrap_interval():
    values = np.random.default_rng(1).gamma(2.0, 1.0, 60)
    found = estimate(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    random = np.random.default_rng(99)  # other resamples: ends agree to their own noise
    means = sorted(statistics.fmean(random.choice(values, 60)) for _ in range(4000))
    spread = means[3899] - means[99]
    assert found.low == pytest.approx(means[99], abs=0.05 * spread)
    assert found.high == pytest.approx(means[3899], abs=0.05 * spread)
    assert found == estimate(values)
    one = estimate([0.5])
    assert (one.mean, one.count) == (0.5, 1)
    assert math.isnan(one.low)
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_the_paired_t_test():
    random = np.random.default_rng(2)
    base = random.normal(0.7, 0.1, 12)
    ours = base + random.normal(0.02, 0.03, 12)
    found = improvement(dict(enumerate(ours)), dict(reversed(list(enumerate(base)))))
    gains = [a - b for a, b in zip(ours, base, strict=True)]
    t = statistics.fmean(gains) / (statistics.stdev(gains) / math.sqrt(12))
    norm = math.gamma(6) / (math.sqrt(11 * math.pi) * math.gamma(5.5))
    tail, _ = quad(lambda x: norm * (1 + x * x / 11) ** -6, abs(t), math.inf)
    assert found.p == pytest.approx(2 * tail, rel=1e-6)
    assert found.mean == pytest.approx(statistics.fmean(gains))
    assert found.low < found.mean < found.high
    with pytest.raises(ValueError, match="expected two of each"):
        improvement({"a": 1.0, "b": 1.0}, {"a": 1.0})


# Reports and pictures


@pytest.fixture
def rows():
    groups = [group(2 + i, f"g{i}") for i in range(4)]
    scores = evaluate(Spy(CLASSES), groups, (1, 2, None))
    base = [replace(score, dice=tuple(0.8 * dice for dice in score.dice)) for score in scores]
    return scores, base


def test_the_summary(rows):
    found = reports.summarize(*rows)
    assert [row.set_size for row in found] == [1, 2, None]
    for row in found:
        assert row.gain.mean == pytest.approx(0.2 * row.dice.mean)
        assert row.baseline.mean == pytest.approx(0.8 * row.dice.mean)
        assert row.dice.count == 2 + 3 + 4 + 5
        own = [score.dice[1] for score in rows[0] if score.set_size == row.set_size]
        assert row.structures[1] == pytest.approx(statistics.fmean(own))
    text = reports.summary_markdown(found, ["a", "b"]).splitlines()
    assert len({line.count("|") for line in text}) == 1
    assert f"{0.2 * found[0].dice.mean:+.3f} [" in text[2]
    [first, *_] = csv.DictReader(io.StringIO(reports.summary_csv(found, ["a", "b"])))
    assert float(first["gain"]) == pytest.approx(0.2 * float(first["dice"]))
    table = list(csv.DictReader(io.StringIO(reports.scores_csv(rows[0], ["a", "b"]))))
    assert len(table) == len(rows[0])
    by_scans = reports.summarize(rows[0], None, by_scans=True)
    assert [row.scans for row in by_scans if row.set_size is None] == [2, 3, 4, 5]
    assert all(row.gain is None for row in by_scans)


def test_pictures(tmp_path):
    def row(k, n, scans=None):
        found = Estimate(0.5 + 0.01 * k, 0.48, 0.6, 9)
        return reports.ConditionSummary(k, n, scans, found, found, Estimate(0.01 * k, 0.0, 0.1, 9, 0.01), (0.5,))

    rows = [row(k, n) for n in (1, 4) for k in (1, 2, 4)]
    plots.improvement_by_set_size(tmp_path / "k.png", rows)
    plots.improvement_by_scans(tmp_path / "scans.png", [row(1, 0, scans) for scans in (1, 3)])
    plots.dice_by_set_size(tmp_path / "dice.png", rows[:3], ("ours", "theirs"))
    masks = torch.randint(0, 3, (2, 16, 20))
    prompts = torch.rand(2, 2, 16, 20).round()
    plots.overlays(tmp_path / "o.png", torch.rand(2, 16, 20), masks, {"network": masks}, ["a", "b"], prompts)
    assert len(list(tmp_path.iterdir())) == 4
    for file in tmp_path.iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")


# From data to sets


def test_values_of_masks_become_classes():
    config = replace(CLASSES, labels={40: "b", 7: "a"})
    [sample] = group(1).samples
    sample = replace(sample, mask=torch.tensor([[0, 7], [40, 7]], dtype=torch.int16))
    [found] = to_classes([sample], config, Collection("c", (), {}))
    assert found.mask.tolist() == [[0, 1], [2, 1]]
    for wrong in (8, 41, 1):
        other = replace(sample, mask=torch.tensor([[0, wrong]], dtype=torch.int16))
        with pytest.raises(DataError, match=rf"c/g0: the mask holds {wrong}, expected 0, 7, 40"):
            list(to_classes([other], config, Collection("c", (), {})))


def test_images_without_masks_take_part_and_are_not_scored(tmp_path, arrays):
    labelled = np.isin(np.arange(12), (1, 6))  # none of the third subject
    np.savez(tmp_path / "some.npz", **arrays, has_label=labelled)
    config = replace(CLASSES, labels={1: "grey", 2: "white"}, set_sizes=None)
    groups = load_groups(config, [str(tmp_path / "some.npz")])
    assert [(g.name, len(g.samples)) for g in groups] == [("some/axial/s0", 2), ("some/coronal/s1", 2)]
    for batch in (training_batches(config, groups)[0], *validation_batches(config, groups)):
        ignored = (batch.masks == IGNORED).flatten(1).all(1)
        assert ignored.sum() == len(batch.groups)
        assert (batch.masks[~ignored] >= 0).all()
    scores = evaluate(Spy(config), groups, set_sizes=[None])
    assert sum(not math.isnan(score.mean) for score in scores) == 2
    assert {score.sample.split("/")[-1] for score in scores if not math.isnan(score.mean)} == {"1", "6"}


def test_groups_of_both_modes(tmp_path, arrays):
    np.savez(tmp_path / "d.npz", **arrays)
    path = str(tmp_path / "d.npz")
    automatic = replace(CLASSES, labels={1: "grey", 2: "white"})
    assert {len(g.samples) for g in load_groups(automatic, [path])} == {2}
    tasks = load_groups(BINARY, [path], min_images=6)
    assert [g.label for g in tasks] == [1, 2, 1, 2]
    with pytest.raises(ValueError, match="no task"):
        load_groups(BINARY, [path], min_images=7)
    with pytest.raises(DataError, match="name of another"):
        load_groups(automatic, [path, path])
    np.savez(tmp_path / "none.npz", **arrays, has_label=np.zeros(12, bool))
    with pytest.raises(DataError, match="none: no image has a mask"):
        load_groups(automatic, [str(tmp_path / "none.npz")])
    batch = training_batches(BINARY, tasks)[0]
    assert batch.inputs.shape[1] == 3
    assert batch.masks.max() == 1
    names = [n for b in validation_batches(replace(BINARY, set_sizes=(1, 4)), tasks) for n in b.names]
    assert len(names) == sum(len(g.samples) for g in tasks)
    assert max(n for b in validation_batches(replace(BINARY, set_sizes=(1, 4)), tasks) for n in b.sets.lengths) == 4

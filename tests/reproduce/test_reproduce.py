"""The reproduction: plans, trainings that stop and go on, scores, following, comparisons over subjects."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from interconv_seg.checkpoints import load_checkpoint
from interconv_seg.config import Config
from interconv_seg.data import Group, Sample
from scipy.stats import ttest_rel

from reproduce.__main__ import main
from reproduce.comparison import compare_runs
from reproduce.following import _nearest_prompted, follow
from reproduce.plan import Plan
from reproduce.scoring import load_source, read_rows, write_rows

PLAN = {
    "recipe": "synthetic",
    "seeds": [0],
    "data": ["synthetic:tasks=4,size=16"],
    "validation_data": ["synthetic:tasks=2,size=16,seed=1"],
    "runs": {
        "base": {"interconv": None, "features": 3, "steps": 3, "interval": 2, "size": [16, 16]},
        "warm": {"warm_start": "base", "features": 3, "steps": 3, "interval": 2, "size": [16, 16]},
    },
    "comparisons": [["warm", "base"]],
    "following": {"warm": "base"},
    "chosen_on": ["synthetic:tasks=1,size=16,seed=2"],
    "tested_on": ["real"],
    "each_image_a_subject": ["real"],
}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PLAN))
    return Plan.read(tmp_path / "tiny.yaml")


@pytest.mark.parametrize("name", ["interactive", "quick", "small"])
def test_committed_plans_can_be_read(name, request, tmp_path):
    plan = Plan.read(request.config.rootpath / f"reproduce/{name}.yaml")
    configs = {run: plan.config(run, 1, tmp_path) for run in plan.runs}
    assert {config.seed for config in configs.values()} == {1}
    assert not set(plan.chosen_on) & set(plan.tested_on)
    for run, config in configs.items():
        start = config.warm_start or config.initial
        assert start is None or configs[plan.runs[run].get("warm_start") or plan.runs[run]["initial"]]
        # All opponents of a comparison are trained for as many steps, whatever they start from.
        for ours, other in plan.comparisons:
            assert _steps(plan, ours) == _steps(plan, other)


def _steps(plan, name):
    run = plan.runs[name]
    before = run.get("warm_start") or run.get("initial")
    return run["steps"] + (_steps(plan, before) if before else 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tested_on": ["a", "b"], "chosen_on": ["b"]}, "b is chosen on and tested on"),
        ({"comparisons": [["warm", "other"]]}, "other"),
        ({"more": 1}, "more"),
    ],
)
def test_plans_are_checked(tmp_path, change, message):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN | change))
    with pytest.raises(ValueError, match=message):
        Plan.read(tmp_path / "plan.yaml")


def test_from_training_to_tables(tmp_path, plan, rng_images):
    assert main(["train", "tiny.yaml", "--minutes", "0"]) == 1
    assert not (tmp_path / "out/reproduce/tiny/base/seed0/last.pt").exists()
    assert main(["train", "tiny.yaml"]) == 0
    warm = Config.read(tmp_path / "out/reproduce/tiny/warm/seed0")
    assert warm.warm_start == str(tmp_path / "out/reproduce/tiny/base/seed0")
    written = (tmp_path / "out/reproduce/tiny/warm/seed0/last.pt").stat().st_mtime_ns
    assert main(["train", "tiny.yaml"]) == 0
    assert (tmp_path / "out/reproduce/tiny/warm/seed0/last.pt").stat().st_mtime_ns == written
    assert load_checkpoint(tmp_path / "out/reproduce/tiny/warm/seed0/last.pt", "cpu")["step"] == 3

    assert main(["validate", "tiny.yaml"]) == 0
    assert not (tmp_path / "reproduce").exists()  # nothing was tested
    rows = read_rows(tmp_path / "out/reproduce/tiny/validation/dice.csv")
    assert [(row["set_size"], row["prompts"]) for row in rows] == [(k, n) for k in "1248" for n in "1248"]
    np.savez(tmp_path / "real.npz", **{k: v if k == "label_names" else v[:9] for k, v in rng_images.items()})
    assert main(["test", "tiny.yaml", "--data", str(tmp_path)]) == 0
    rows = read_rows(tmp_path / "reproduce/results/tiny/dice.csv")
    assert {(row["source"], row["subjects"]) for row in rows} == {("real", "9")}
    followed = read_rows(tmp_path / "reproduce/results/tiny/following.csv")
    assert {row["opponent"] for row in followed} == {"nowhere", "baseline", "copied_prediction", "copied_truth"}


@pytest.fixture
def rng_images():
    rng = np.random.default_rng(0)
    labels = np.zeros((20, 16, 16), np.uint8)
    labels[:, 4:10, 5:12] = 1
    return {
        "images": rng.integers(0, 256, (20, 16, 16), dtype=np.uint8),
        "labels": labels,
        "ids": np.array([f"{'a' if i < 9 else 'b'}/{i}" for i in range(20)]),
        "label_names": np.array(["background", "box"]),
    }


def test_sets_are_drawn_within_a_collection_of_images(tmp_path, plan, rng_images):
    np.savez(tmp_path / "real.npz", **rng_images)
    config = plan.config("base", 0, tmp_path)
    groups = load_source(config, "real", tmp_path, plan, most=None)
    assert [(g.name, len(g.samples)) for g in groups] == [("real/a/box", 9), ("real/b/box", 11)]
    assert len({s.subject for g in groups for s in g.samples}) == 20
    others = load_source(config, "real", tmp_path, replace(plan, each_image_a_subject=()), most=10)
    assert [(g.name, len(g.samples)) for g in others] == [("real/box", 10)]
    assert {s.subject for s in others[0].samples} == {"a", "b"}


class Reader:
    """In place of a network: an image is segmented as the mean of the positive prompts of its set, if it has any."""

    def __init__(self):
        self.prompted = []

    def probabilities(self, batch):
        shared = torch.cat([p[:, 0].amax(0, keepdim=True).expand(len(p), -1, -1) for p in self._sets(batch)])
        self.prompted.append([int((p.flatten(1).sum(1) > 0).sum()) for p in self._sets(batch)])
        return torch.stack([1 - shared, shared], dim=1) + torch.tensor([0.1, 0.0])[:, None, None]

    def _sets(self, batch):
        return batch.prompts.split(list(batch.sets.lengths))


def test_following_scores_images_without_prompts():
    samples = []
    for i in range(19):
        mask = torch.zeros(16, 16, dtype=torch.int16)
        mask[2:10, 3 : 8 + i % 3] = 1
        samples.append(Sample(f"{i}", f"{i}", "t", (mask.float() * i / 20)[None], mask, (16, 16)))
    group = Group("t/box", tuple(samples), 1)
    ensemble, baseline = Reader(), Reader()
    rows = list(follow(ensemble, baseline, group, seeds=[0, 1]))
    assert {n for batch in ensemble.prompted for n in batch} == {0, 1, 2, 4}
    assert {n for batch in baseline.prompted for n in batch} == {0}
    for prompted in (1, 2, 4):
        found = [row.sample for row in rows if (row.prompted, row.prompts) == (prompted, 4)]
        # Of the sets of 8, 8 and 8, the last begins with 5 images that were counted before.
        assert len(found) == 2 * (2 * (8 - prompted) + 3)
    assert all(row.dice["nowhere"] == row.dice["baseline"] == 0 for row in rows)
    assert all(row.dice["following"] > 0 for row in rows)
    assert all(row.dice["copied_truth"] > 0.75 for row in rows)
    assert {row.dice["copied_truth"] == 1 for row in rows} == {True, False}
    # The network here gives every image of a set the same mask, so a copy is as good.
    assert all(row.dice["copied_prediction"] == row.dice["following"] for row in rows)


def test_the_nearest_prompted_image():
    images = torch.zeros(16, 1, 2, 2)
    images[:, 0, 0, 0] = torch.tensor([0.0, 1.0, 0.9, 0.1, 0.6, 0.4, 1, 0, 0.5, 0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 1])
    assert _nearest_prompted(images, 2).tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 8, 9, 9, 9, 8, 8, 8, 8]
    assert _nearest_prompted(images, 1).tolist() == [0] * 8 + [8] * 8


def test_comparisons_are_over_subjects(tmp_path, plan):
    """Against means, differences and a t-test by hand: two weight seeds, two tasks, images of four subjects."""
    random = np.random.default_rng(0)
    plan, values = replace(plan, seeds=(0, 1)), {"warm": {}, "base": {}}
    for name, by_subject in values.items():
        for seed in (0, 1):
            rows = []
            for subject, task, sample in [(s, t, i) for s in "abcd" for t in "tu" for i in range(2 + (s == "a"))]:
                dice = random.random()
                by_subject.setdefault(subject, {}).setdefault(task, []).append(dice)
                about = {"source": "x", "task": task, "subject": subject, "sample": f"{subject}{sample}"}
                for size in "1248" if name == "warm" else "1":
                    rows += [about | {"set_size": size, "prompts": n, "dice": dice} for n in "1248"]
            write_rows(tmp_path / f"{name}-{seed}.csv", rows)
    compare_runs(plan, tmp_path, (0, 1), tmp_path / "results")
    with (tmp_path / "results/dice.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if (r["set_size"], r["prompts"]) == ("4", "2"))
    ours, theirs = (
        np.array([np.mean([np.mean(found) for found in tasks.values()]) for tasks in values[name].values()])
        for name in ("warm", "base")
    )
    assert (row["source"], row["run"], row["opponent"], row["subjects"]) == ("x", "warm", "base", "4")
    assert float(row["dice"]) == pytest.approx(100 * ours.mean(), abs=0.01)
    assert float(row["opponent_dice"]) == pytest.approx(100 * theirs.mean(), abs=0.01)
    assert float(row["gain"]) == pytest.approx(100 * (ours - theirs).mean(), abs=0.01)
    assert float(row["gain_low"]) < float(row["gain"]) < float(row["gain_high"])
    assert float(row["p"]) == pytest.approx(ttest_rel(ours, theirs).pvalue, rel=0.05)

"""Corrective prompts, in training and in evaluation, and prompts that users drew."""

import csv
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from interconv_seg import reports
from interconv_seg.cli import main
from interconv_seg.config import Config
from interconv_seg.corrections import add_corrections, correction_rounds, draw_corrections
from interconv_seg.data import Batch, DataError, collate, read, read_prompts
from interconv_seg.data.files import IGNORED
from interconv_seg.evaluation import evaluate
from interconv_seg.losses import interactive_loss
from interconv_seg.preparation import (
    load_groups,
    read_data,
    recorded_prompts,
    training_batches,
    validation_batches,
)
from interconv_seg.prompts import draw_prompts
from interconv_seg.seeding import seed_of
from interconv_seg.training import Training, train
from seg_common import BINARY, CLASSES, Spy, group


def square(n, rows, columns, size=32):
    mask = torch.zeros(n, size, size, dtype=torch.bool)
    mask[:, rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


MASK = square(400, (8, 20), (8, 20))  # 144 pixels
SHIFTED = square(400, (8, 20), (11, 21))  # misses 36 pixels, adds 12


@pytest.mark.parametrize("kind", ["click", "scribble", "mixed", "both", "any"])
@pytest.mark.parametrize("scribbles", ["stroke", "mixed"])
def test_corrections_lie_in_the_errors(kind, scribbles):
    drawn = draw_corrections(SHIFTED[:40], MASK[:40].long(), range(40), 3, kind, scribbles)
    assert not drawn[:, 0][~(MASK & ~SHIFTED)[:40]].any()
    assert not drawn[:, 1][~(SHIFTED & ~MASK)[:40]].any()
    assert (drawn.flatten(1).amax(1) > 0).all()


def test_corrections_are_shared_by_the_size_of_the_errors():
    drawn = draw_corrections(SHIFTED, MASK.long(), range(400), 1, "click").sum((2, 3))
    assert (drawn.sum(1) == 1).all()
    assert 0.68 < drawn[:, 0].mean() < 0.82  # 36 / (36 + 12)
    numbers = Counter(draw_corrections(~MASK, MASK.long(), range(400), (1, 3), "click").sum((1, 2, 3)).int().tolist())
    assert sorted(numbers) == [1, 2, 3]
    assert all(100 < count < 167 for count in numbers.values())


def test_nothing_to_correct():
    right = draw_corrections(MASK[:9], MASK[:9].long(), range(9))
    assert not right.any()
    unknown = MASK[:9].long()
    unknown[unknown != SHIFTED[:9].long()] = IGNORED
    assert not draw_corrections(SHIFTED[:9], unknown, range(9)).any()


def batch_of(count=6):
    members = group(count, label=1)
    return collate([members], prompts=lambda masks, seeds: draw_prompts(masks, seeds, 1, 1, "click", boxes=0.5))


def test_corrections_are_added_to_prompts_and_only_where_there_are_some():
    batch = batch_of()
    batch.prompts[2:4] = 0
    predicted = torch.zeros_like(batch.masks, dtype=torch.bool)
    corrected = add_corrections(batch, predicted, range(6), 2, "click")
    assert (corrected.prompts >= batch.prompts).all()
    added = corrected.prompts - batch.prompts
    assert not added[2:4].any()
    assert not added[:, 1:].any()  # nothing was too much; boxes stay
    for i in (0, 1, 4, 5):
        assert added[i, 0].any()
    assert not added[:, 0][batch.masks != 1].any()
    assert torch.equal(batch.images, corrected.images)


def test_rounds_see_the_last_prediction():
    """A network that takes positive prompts for the label is corrected until it knows all of it, and nothing else."""
    batch = batch_of()
    seen = []

    def predict(part):
        seen.append(part.prompts[:, 0] > 0)
        return len(seen), seen[-1]

    assert list(correction_rounds(batch, predict, 12, range(6), 50, "click")) == list(range(1, 13))
    for before, after in itertools.pairwise(seen):
        assert (before <= after).all()
        missed = (batch.masks == 1) & ~before
        assert (after & missed).any() or not missed.any()
    assert torch.equal(seen[-1], batch.masks == 1)


def test_the_loss_of_a_step_is_the_mean_over_its_rounds():
    """Of predictions with the prompts of each round, which are made here anew, outside of training."""
    config = replace(BINARY, rounds=3, optimizer="sgd", learning_rate=1e-9, kind="click", accumulate=2)
    training, naive = Training(config), config.new_network()
    batch = collate([group(3, "a", 1), group(2, "b", 1)], prompts=draw_prompts)
    losses, part = [], batch
    for number in range(1, 4):
        logits = naive(part.inputs, part.sets)
        losses.append(interactive_loss(logits, part.masks, part.sets))
        seeds = [seed_of(seed_of(0, "step", 0, i), "correction", number) for i in range(5)]
        part = add_corrections(part, logits[:, 0] > 0, seeds, kind="click")
    assert not torch.equal(part.prompts, batch.prompts)
    (sum(losses) / 3).backward()
    training.run_step(batch)
    assert float(training.loss_sum) == pytest.approx(float(sum(losses).detach() / 3) * 2, rel=1e-5)
    for ours, theirs in zip(training.network.parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_validation_is_over_all_rounds():
    config = replace(BINARY, rounds=2, kind="click")
    training = Training(config)
    batch = collate([group(4, label=1)], prompts=draw_prompts)
    loss, dice = training.validate([batch])
    first = Training(replace(config, rounds=1)).validate([batch])
    assert loss != first[0]
    assert 0 <= dice <= 1


def test_automatic_mode_has_no_rounds():
    with pytest.raises(ValueError, match="rounds = 2"):
        replace(CLASSES, rounds=2)
    with pytest.raises(ValueError, match="rounds = 2"):
        evaluate(Spy(CLASSES), [group(2)], [2], rounds=2)


class TakesPrompts(Spy):
    """Predicts the label at the positive prompts alone."""

    def probabilities(self, batch: Batch):
        self.batches.append(batch)
        label = batch.prompts[:, :1]
        return torch.cat([1 - label, label], dim=1)


def test_evaluation_in_rounds():
    spy = TakesPrompts(BINARY)
    scores = evaluate(spy, [group(5, label=1)], [1, 2], [2], seeds=(0, 1), kind="click", rounds=3, corrections=4)
    assert Counter(score.round for score in scores) == {1: 20, 2: 20, 3: 20}
    summaries = {(s.set_size, s.round): s.dice.mean for s in reports.summarize(scores)}
    for size in (1, 2):
        assert summaries[size, 1] < summaries[size, 2] < summaries[size, 3]
    once = evaluate(TakesPrompts(BINARY), [group(5, label=1)], [1, 2], [2], seeds=(0, 1), kind="click")
    assert [score for score in scores if score.round == 1] == once
    table = reports.summary_markdown(reports.summarize(scores), ["label"])
    assert "round" in table
    assert "round" not in reports.summary_markdown(reports.summarize(once), ["label"])
    assert "round" in reports.scores_csv(scores, ["label"]).splitlines()[0].split(",")


def test_boxes_in_evaluation():
    spy = Spy(replace(BINARY, boxes=0.5))
    evaluate(spy, [group(3, label=1)], [3], [1])
    evaluate(spy, [group(3, label=1)], [3], [1], boxes=True)
    without, with_boxes = (batch.prompts for batch in spy.batches)
    assert without.shape == with_boxes.shape == (3, 3, 16, 16)
    assert not without[:, 2].any()
    assert (with_boxes[:, 2].sum((1, 2)) > 100).all()
    with pytest.raises(ValueError, match="without"):
        evaluate(Spy(BINARY), [group(2, label=1)], [2], [1], boxes=True)


def test_evaluation_on_recorded_prompts():
    members = group(4, label=1)
    drawn = {sample.name: torch.rand(2, 16, 16) for sample in members.samples[:3]}
    spy = Spy(BINARY)
    scores = evaluate(spy, [members], [4], recorded={"g": drawn})
    assert len(scores) == 4
    [batch] = spy.batches
    for name, prompts in zip(batch.names, batch.prompts, strict=True):
        assert torch.equal(prompts, drawn.get(name, torch.zeros(2, 16, 16)))


@pytest.fixture
def labelled(save, tmp_path, rng):
    """Ten images of 20 x 24 with two structures, and files of prompts for some of them."""
    lines = ["set,image,mask"]
    for i in range(10):
        mask = np.zeros((20, 24), np.uint8)
        mask[2:9, 3:9], mask[12:18, 10:20] = 3, 7
        save(tmp_path / f"scans/{i}.png", rng.integers(0, 256, (20, 24), dtype=np.uint8))
        save(tmp_path / f"scans/mask{i}.png", mask)
        lines.append(f"{i},{i}.png,mask{i}.png")
    (tmp_path / "scans/sets.csv").write_text("\n".join(lines) + "\n")
    for i in (0, 4):
        drawn = np.zeros((20, 24), np.uint8)
        drawn[3 + i, 5:8], drawn[15, 2] = 1, 2
        save(tmp_path / f"prompts/3/{i}.png", drawn)
    return tmp_path


def test_recorded_prompts_are_those_of_the_files(labelled):
    collections = read_data(BINARY, [str(labelled / "scans")])
    groups = load_groups(BINARY, [str(labelled / "scans")])
    assert [g.name.rsplit("/", 1)[1] for g in groups] == ["3", "7"]
    kept, recorded = recorded_prompts(BINARY, collections, groups, labelled / "prompts")
    assert kept == groups[:1]
    [drawn] = recorded.values()
    assert sorted(drawn) == ["0", "4"]
    for name, row in (("0", 3), ("4", 7)):
        expected = torch.zeros(2, 16, 16)  # a pixel of the small image is marked if one of those it covers is
        for channel, y, xs in ((0, row, range(5, 8)), (1, 15, [2])):
            for v in range(16):
                for u in range(16):
                    rows = range(v * 20 // 16, -(-(v + 1) * 20 // 16))
                    columns = range(u * 24 // 16, -(-(u + 1) * 24 // 16))
                    if y in rows and any(x in columns for x in xs):
                        expected[channel, v, u] = 1
        assert torch.equal(drawn[name], expected)


def test_recorded_prompts_that_are_refused(labelled, save):
    collections = read_data(BINARY, [str(labelled / "scans")])
    groups = load_groups(BINARY, [str(labelled / "scans")])
    with pytest.raises(DataError, match=r"no prompts for these images, expected files, or folders .* 3, 7"):
        recorded_prompts(BINARY, collections, groups, labelled / "scans")
    with pytest.raises(DataError, match="may be of two data sets"):
        recorded_prompts(BINARY, collections * 2, groups, labelled / "prompts")
    save(labelled / "prompts/3/other.png", np.zeros((20, 24), np.uint8))
    with pytest.raises(DataError, match=r"other\.png: is named as none"):
        recorded_prompts(BINARY, collections, groups, labelled / "prompts")


def test_boxes_in_files(labelled, save):
    """Any pixels of value 3 mark the smallest rectangle around them."""
    scans = {scan.name: scan for scan in read(labelled / "scans").scans}
    drawn = np.zeros((20, 24), np.uint8)
    drawn[4, 6], drawn[11, 3], drawn[5, 5] = 3, 3, 1
    save(labelled / "boxes/1.png", drawn)
    prompts = read_prompts(labelled / "boxes", scans["1"], boxes=True)
    assert prompts.shape == (3, 20, 24)
    assert prompts[0].nonzero().tolist() == [[5, 5]]
    expected = torch.zeros(20, 24)
    expected[4:12, 3:7] = 1
    assert torch.equal(prompts[2], expected)
    with pytest.raises(DataError, match=r"holds 3, expected 0, 1 .*; the network takes no boxes"):
        read_prompts(labelled / "boxes", scans["1"])
    save(labelled / "boxes/2.png", drawn + (drawn == 1) * np.uint8(3))
    with pytest.raises(DataError, match=r"holds 4, expected 0, 1 .* and 3"):
        read_prompts(labelled / "boxes", scans["2"], boxes=True)


def test_the_commands(labelled, capsys):
    """Training with boxes and rounds, and evaluation on simulated and recorded prompts in rounds."""
    data, run = str(labelled / "scans"), str(labelled / "runs/seed0")
    tiny = ["--network", "simpleunet", "--features", "2", "--size", "16x16", "--interval", "2", "--device", "cpu"]
    options = ["--boxes", "0.5", "--rounds", "2", "--kind", "any", "--scribbles", "mixed", "--steps", "2"]
    task = ["--mode", "interactive", "--data", data, "--sets-per-batch", "2", "--set-sizes", "1-2"]
    assert main(["train", *task, *tiny, *options, "--out", str(labelled / "runs")]) == 0
    config = Config.read(labelled / "runs/seed0")
    assert (config.boxes, config.rounds, config.kind, config.scribbles) == (0.5, 2, "any", "mixed")
    assert config.prompt_channels == 3

    evaluation = ["evaluate", run, "--data", data, "--set-sizes", "2", "--prompt-seeds", "1", "--rounds", "2"]
    simulated = ["--prompts", "1", "2", "--boxes", "--scribbles", "line", "--out", str(labelled / "simulated")]
    assert main([*evaluation, *simulated]) == 0
    assert "| K | prompts | round | n |" in capsys.readouterr().out
    recorded = ["--prompts", str(labelled / "prompts"), "--out", str(labelled / "recorded")]
    assert main([*evaluation, *recorded]) == 0
    assert "| K | round | n |" in capsys.readouterr().out
    rows = list(csv.DictReader((labelled / "recorded/scores.csv").open()))
    assert Counter((row["group"].rsplit("/", 1)[1], row["round"]) for row in rows) == {("3", "1"): 10, ("3", "2"): 10}
    assert main([*evaluation, "--prompts", "1", str(labelled), "--out", str(labelled / "none")]) == 2
    assert "expected one folder, or numbers" in capsys.readouterr().err


def test_an_interrupted_training_with_rounds_resumes_with_the_same_bits(tmp_path):
    """Corrections are functions of the seed, the step, the round and the predictions alone."""
    config = replace(BINARY, rounds=3, scribbles="mixed", kind="any", boxes=0.5, steps=4, interval=2, set_sizes=(1, 3))
    groups = [group(4, "a", 1), group(4, "b", 2, seed=1)]
    batches, validation = training_batches(config, groups), validation_batches(config, groups)
    whole = train(tmp_path / "whole", config, batches, validation)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", config, batches, validation, interrupted=lambda: True)
    resumed = train(tmp_path / "stopped", config, batches, validation)
    for ours, theirs in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert resumed.best_loss == whole.best_loss

"""Training on ragged sets: batches of a constant number of images, warm-up, averaged weights, the warm start."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from interconv_seg import preparation
from interconv_seg.checkpoints import load_checkpoint
from interconv_seg.cli import main
from interconv_seg.config import Config
from interconv_seg.data import SetBatches, collate
from interconv_seg.runs import warm_start
from interconv_seg.training import Training
from seg_common import BINARY, group
from test_training import CONFIG, groups, train_discs


def test_a_batch_has_a_constant_number_of_images():
    found = [group(20, "large"), group(3, "small")]
    batches = SetBatches(found, set_sizes=(1, 8), images_per_batch=24, seed=3)
    lengths = [batches[step].sets.lengths for step in range(200)]
    assert {sum(k) for k in lengths} == {24}
    assert all(len(set(batches[step].names)) > 1 for step in range(5))
    assert max(len(set(k)) for k in lengths) > 3  # ragged
    # K of the large group is uniform in 1 ... 8, but for the last set of each batch.
    drawn = [pair for step in range(200) for pair in list(zip(lengths[step], batches[step].groups, strict=True))[:-1]]
    sizes = Counter(length for length, name in drawn if name == "large")
    assert sorted(sizes) == list(range(1, 9))
    assert max(sizes.values()) < 2 * min(sizes.values())
    assert batches[7].names == SetBatches(found, set_sizes=(1, 8), images_per_batch=24, seed=3)[7].names
    with pytest.raises(ValueError, match="images_per_batch = 0"):
        SetBatches(found, images_per_batch=0)


def test_the_loss_of_such_a_batch_is_divided_by_its_images():
    """The same images in sets of other sizes: the same step of a baseline, which ignores sets."""
    single = [replace(g, samples=(s,)) for g in groups(2) for s in g.samples]
    config = replace(CONFIG, interconv=None, images_per_batch=10)
    in_sets, alone, per_set = Training(config), Training(config), Training(replace(config, images_per_batch=None))
    in_sets.run_step(collate(groups(2)))
    alone.run_step(collate(single))
    per_set.run_step(collate(groups(2)))
    torch.testing.assert_close(in_sets.loss_sum, alone.loss_sum)
    gradients = [[p.grad for p in t.network.parameters()] for t in (in_sets, alone, per_set)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients[2], [5 * g for g in gradients[0]], rtol=1e-4, atol=1e-6)


def test_the_learning_rate_warms_up():
    run = Training(replace(CONFIG, warmup=4, steps=100, schedule="cosine"))
    rates = []
    for run.step in (0, 1, 3, 4, 50):
        rates.append(run.learning_rate / 1e-2)
    assert rates == pytest.approx([0.2, 0.4, 0.8, 1.0, 0.5], rel=5e-3)


def test_averaged_weights_are_validated_and_kept(tmp_path):
    config = replace(CONFIG, ema=0.75, steps=6, interval=6)
    run = Training(config)
    batches = SetBatches(groups(), 3, (1, 4), seed=0)
    expected = None
    for step in range(6):
        run.run_step(batches[step])
        now = {name: p.detach().double().clone() for name, p in run.network.named_parameters()}
        expected = now if expected is None else {n: 0.75 * expected[n] + 0.25 * now[n] for n in now}
    train_discs(tmp_path, config)
    kept = load_checkpoint(tmp_path / "best.pt", "cpu")["network"]
    torch.testing.assert_close(kept, {n: v.float() for n, v in expected.items()}, rtol=1e-4, atol=1e-6)
    validation = [collate(groups(2, seed=1))]
    averaged = run.validate(validation)
    run.averaged = None
    assert averaged != run.validate(validation)


def test_a_warm_start_begins_with_the_outputs_of_the_baseline(tmp_path):
    config = replace(CONFIG, steps=3, interval=3)
    baseline = train_discs(tmp_path / "base", replace(config, interconv=None))
    warm = replace(config, warm_start=str(tmp_path / "base"), seed=5)
    network = warm.new_network().eval()
    warm_start(network, tmp_path / "base", "cpu")
    x = torch.rand(7, 1, 16, 16)
    for lengths in ([7], [1] * 7, [3, 4]):
        torch.testing.assert_close(network(x, lengths), baseline.network.eval()(x), rtol=1e-5, atol=1e-5)
    before = network(x, [7])
    done = train_discs(tmp_path / "warm", warm)
    assert not torch.equal(done.network.eval()(x, [7]), before)
    layers = [module for module in done.network.modules() if hasattr(module, "weight") and module.weight.dim() == 4]
    assert all(layer.weight[:, layer.weight.shape[1] // 2 :].any() for layer in layers)  # the set halves are trained
    with pytest.raises(ValueError, match="a run with InterConv"):
        warm_start(network, tmp_path / "warm", "cpu")
    with pytest.raises(ValueError, match="does not fit"):
        warm_start(replace(config, features=4).new_network(), tmp_path / "base", "cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"warm_start": "base", "interconv": None},
        {"warm_start": "base", "initial": "other"},
        {"few_prompts": 1.5},
        {"warmup": -1},
        {"ema": 1.0},
        {"images_per_batch": 0},
    ],
)
def test_such_configs_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CONFIG, **change)


def test_few_prompts_in_a_part_of_the_batches():
    config = replace(BINARY, few_prompts=0.5, kind="click", augmentation="none", set_sizes=(4, 4), sets_per_batch=8)
    batches = preparation.training_batches(config, [group(6, label=1)])
    most = [int(batches[step].prompts[:, 0].sum((1, 2)).max()) for step in range(100)]  # of 32 images
    few = sum(count <= 2 for count in most)
    assert 35 < few < 65
    assert sum(count >= 5 for count in most) == 100 - few


def test_the_command_trains_on_synthetic_tasks_and_starts_warm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = partial(_train, "--data", "synthetic:tasks=6,size=16,file=pool.pt", "--images-per-batch", "8")
    train("--interconv", "none", "--features", "3", "--out", "base")
    train("--warm-start", "base/seed0", "--out", "warm")
    assert main(["train", "--resume", "warm/seed0", "--extend", "1"]) == 0
    config = Config.read(tmp_path / "warm/seed0")
    assert (config.network, config.features, config.interconv, config.steps) == ("scribbleprompt", 3, "replace", 3)
    assert config.warm_start == str(tmp_path / "base/seed0")
    assert config.data == (f"synthetic:tasks=6,size=16,subjects=10,seed=0,file={tmp_path / 'pool.pt'}",)


def _train(*arguments):
    fixed = ["--recipe", "synthetic", "--validation", "synthetic:tasks=2,size=16,seed=1", "--size", "16x16"]
    assert main(["train", *fixed, "--steps", "2", "--interval", "1", *arguments]) == 0

"""Training: the same bits after a kill, early stopping, accumulation, precision, the files of a run."""

import csv
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from interconv_seg import training
from interconv_seg.checkpoints import load_checkpoint, save_checkpoint
from interconv_seg.config import RECIPES, Config, read_recipe
from interconv_seg.data import Group, Sample, SetBatches, collate
from interconv_seg.networks.registry import FAMILIES, SIZES
from interconv_seg.prompts import draw_prompts
from interconv_seg.runs import Run, common_config
from interconv_seg.training import Training, train

CONFIG = Config(
    mode="automatic",
    network="simpleunet",
    interconv="replace",
    features=3,
    labels={1: "inner", 2: "outer"},
    size=(16, 16),
    sets_per_batch=3,
    steps=9,
    interval=3,
    learning_rate=1e-2,
)


def groups(count=4, seed=0, size=16):
    """Scans of discs in rings, with noise."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    found = []
    for g in range(count):
        samples = []
        for i in range(5):
            distance = ((rows - size / 2 - i % 2) ** 2 + (columns - size / 2) ** 2).sqrt()
            mask = ((distance < 3 + g % 2).int() + (distance < 6).int()).short()
            mask = torch.tensor([0, 2, 1], dtype=torch.int16)[mask.long()]
            image = (mask / 2 + 0.1 * torch.randn(size, size, generator=random)).clamp(0, 1)[None]
            samples.append(Sample(f"{g}/{i}", f"{g}", "discs", image, mask, (size, size)))
        found.append(Group(f"discs/{g}", tuple(samples)))
    return found


def train_discs(folder, config=CONFIG, **options):
    batches = SetBatches(
        groups(), config.sets_per_batch, (1, 4), seed=config.seed, images_per_batch=config.images_per_batch
    )
    return train(folder, config, batches, [collate(groups(2, seed=1))], **options)


def logged(folder):
    """metrics.csv without the columns that depend on the clock and the machine."""
    with (folder / "metrics.csv").open() as file:
        return [list(row.values())[:5] for row in csv.DictReader(file)]


def weights(folder, name):
    state = load_checkpoint(folder / name, "cpu")
    state.pop("samples", None)
    return state


def train_and_die(folder, when, options, workers):
    """Kills this process, as `kill -9` does, while it trains.

    Within step 5; or after row 6, before both checkpoints of step 6; or between these two checkpoints.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    step_of, save = Training.run_step, training.save_checkpoint
    if when == "step":
        Training.run_step = lambda self, batch: die() if self.step == 4 else step_of(self, batch)
    elif when == "row":
        training.save_checkpoint = lambda path, state: die() if state["step"] == 6 else save(path, state)
    elif when == "best":
        training.save_checkpoint = lambda path, state: (
            die() if state["step"] == 6 and path.name == "last.pt" else save(path, state)
        )
    train_discs(Path(folder), replace(CONFIG, **options), workers=workers)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "workers", "moments"),
    [
        ({}, 0, ("step", "row", "best")),
        (
            {"images_per_batch": 7, "warmup": 4, "ema": 0.9, "clip": 1.0, "schedule": "cosine"},
            0,
            ("step", "row", "best"),
        ),
        ({"network": "swinunet"}, 2, ("step", "best")),
    ],
)
def test_a_killed_run_resumes_with_the_same_bits(tmp_path, one_thread, options, workers, moments):
    config = replace(CONFIG, **options)
    train_discs(tmp_path / "whole", config)
    for when in moments:
        call = f"train_and_die({str(tmp_path / 'killed')!r}, {when!r}, {options!r}, {workers})"
        command = [sys.executable, "-c", f"import test_training; test_training.{call}"]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert (load_checkpoint(tmp_path / "killed/last.pt", "cpu"))["step"] == 3
    with (tmp_path / "killed/metrics.csv").open("a") as file:
        file.write("9,0.1")  # and an incomplete row
    train_discs(tmp_path / "killed", config, workers=workers)
    for name in ("last.pt", "best.pt"):
        whole, killed = weights(tmp_path / "whole", name), weights(tmp_path / "killed", name)
        torch.testing.assert_close(killed, whole, rtol=0, atol=0)
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert [row[0] for row in logged(tmp_path / "killed")] == ["3", "6", "9"]
    assert not list(tmp_path.glob("whole/.partial*"))


def test_an_interrupted_run_resumes_with_the_same_bits(tmp_path, one_thread):
    train_discs(tmp_path / "whole")
    asked = iter([False] * 3 + [True])
    with pytest.raises(KeyboardInterrupt):
        train_discs(tmp_path / "stopped", interrupted=lambda: next(asked))
    assert load_checkpoint(tmp_path / "stopped/last.pt", "cpu")["step"] == 4  # between two validations
    train_discs(tmp_path / "stopped", workers=1)  # nor does it matter which process prepares the batches
    torch.testing.assert_close(
        weights(tmp_path / "stopped", "last.pt"), weights(tmp_path / "whole", "last.pt"), rtol=0, atol=0
    )
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")


def test_stochastic_depth_is_a_function_of_the_step():
    config = replace(CONFIG, network="swinunet", features=3)
    batch = collate(groups(2))
    first, second = Training(config), Training(config)
    torch.manual_seed(5)
    first.run_step(batch)
    torch.manual_seed(6)
    second.run_step(batch)
    assert torch.equal(first.loss_sum, second.loss_sum)


def test_training_stops_when_the_validation_loss_no_longer_falls(tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.0, 1.0])
    monkeypatch.setattr(Training, "validate", lambda self, batches: (next(losses), 0.5))
    done = train_discs(tmp_path, replace(CONFIG, steps=100, interval=1, patience=2))
    assert (done.step, done.best_step, done.best_loss) == (4, 2, 2.0)  # an equal loss is not lower
    assert load_checkpoint(tmp_path / "best.pt", "cpu")["step"] == 2
    assert train_discs(tmp_path, replace(CONFIG, steps=100, interval=1, patience=2)).step == 4  # and stays stopped


@pytest.mark.parametrize("network", ["simpleunet", "nnunet"])
def test_accumulated_gradients_are_those_of_the_batch(network):
    config = replace(CONFIG, network=network, features=3 if network == "simpleunet" else (3, 4))
    found = groups(3)
    ragged = collate([replace(g, samples=g.samples[: 1 + 2 * i]) for i, g in enumerate(found)])
    whole, parts = Training(config), Training(replace(config, accumulate=2))
    for run in (whole, parts):
        run.run_step(ragged)
    torch.testing.assert_close(parts.loss_sum, whole.loss_sum)
    for ours, theirs in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_a_batch_splits_into_whole_sets():
    found = [replace(g, samples=g.samples[:k]) for g, k in zip(groups(4), (1, 3, 2, 5), strict=True)]
    batch = collate([replace(g, label=1) for g in found], prompts=draw_prompts)
    parts = batch.split(3)
    assert [part.sets.lengths for part in parts] == [(1, 3), (2, 5)]
    for name in ("images", "masks", "prompts"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert sum((part.names for part in parts), ()) == batch.names
    assert sum((part.groups for part in parts), ()) == batch.groups
    assert [len(part.groups) for part in batch.split(9)] == [1, 1, 1, 1]


def test_precision(tmp_path):
    done = train_discs(tmp_path, replace(CONFIG, precision="bfloat16", steps=3))
    assert {p.dtype for p in done.network.parameters()} == {torch.float32}
    assert math.isfinite(done.best_loss)
    full = train_discs(tmp_path / "full", replace(CONFIG, steps=3))
    assert full.best_loss != done.best_loss  # autocast was on
    with pytest.raises(ValueError, match=r"float16.*CUDA"):
        Training(replace(CONFIG, precision="float16"))


def test_a_loss_that_is_not_finite_stops_training(tmp_path):
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        train_discs(tmp_path, replace(CONFIG, learning_rate=1e20))


def test_the_schedule():
    run = Training(replace(CONFIG, schedule="cosine", steps=100))
    rates = []
    for run.step in (0, 50, 100):
        rates.append(run.learning_rate)
    assert rates == pytest.approx([1e-2, 0.5e-2, 0])
    assert Training(CONFIG).learning_rate == 1e-2
    run = Training(replace(CONFIG, schedule="poly", steps=100))
    run.step = 75
    assert run.learning_rate == pytest.approx(1e-2 * 0.25**0.9)


def test_optimizers_and_clipping():
    run = Training(replace(CONFIG, optimizer="sgd", learning_rate=1e-2, weight_decay=3e-5, clip=1e-3))
    assert isinstance(run.optimizer, torch.optim.SGD)
    assert run.optimizer.defaults | {"momentum": 0.99, "nesterov": True, "weight_decay": 3e-5} == run.optimizer.defaults
    run.run_step(collate(groups(2)))
    gradients = [p.grad for p in run.network.parameters() if p.grad is not None]
    assert float(torch.stack([g.norm() for g in gradients]).norm()) == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_configurations(name):
    values = {"mode": "automatic", **read_recipe(name)}
    config = Config(**values, labels={1: "a"} if values["mode"] == "automatic" else {})
    assert config.network in (SIZES if config.features is None else FAMILIES)
    with torch.device("meta"):
        config.new_network()


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        # section 4.1, and configs/train_unet.yaml and scribbleprompt/loss/focal_dice.py of ScribblePrompt
        ("paper-interactive", {"focal_gamma": 20, "squared_dice": True, "optimizer": "adam", "learning_rate": 1e-4}),
        ("paper-interactive", {"sets_per_batch": 8, "set_sizes": (1, 8), "steps": 20000 * 125, "size": (128, 128)}),
        ("paper-interactive", {"sampling": "hierarchical", "selection": "dice", "hold_out": True, "scribbles": "line"}),
        ("paper-interactive", {"augmentation": "scribbleprompt", "one_per_subject": True, "weight_decay": 0}),
        # section 4.2
        ("paper-automatic", {"sets_per_batch": 8, "set_sizes": None, "patience": 40000, "size": (160, 192)}),
        ("paper-automatic", {"sets_of": "subject", "selection": "loss", "sampling": "even", "optimizer": "adam"}),
        # nnUNetTrainer.py of nnU-Net 2, whose momentum 0.99 and exponent 0.9 of poly are constants in training.py
        ("nnunet", {"optimizer": "sgd", "learning_rate": 1e-2, "weight_decay": 3e-5, "schedule": "poly", "clip": 12}),
        ("nnunet", {"steps": 1000 * 250, "augmentation": "nnunet"}),
    ],
)
def test_the_numbers_of_the_recipes(name, numbers):
    config = Config(**{"data": ("x",), "labels": {1: "a"}, **read_recipe(name)})
    assert {key: getattr(config, key) for key in numbers} == numbers
    assert (training.NNUNET_MOMENTUM, training.POLY_EXPONENT) == (0.99, 0.9)


def test_a_run_has_the_weights_of_the_lowest_validation_loss(tmp_path):
    done = train_discs(tmp_path)
    run = Run.open(tmp_path)
    assert run.config == CONFIG
    assert not run.network.training
    assert load_checkpoint(tmp_path / "best.pt", "cpu")["step"] == done.best_step
    batch = collate(groups(2, seed=1))
    again = Training(CONFIG)
    again.network.load_state_dict(run.network.state_dict())
    loss, dice = again.validate([batch])
    assert loss == done.best_loss
    assert dice == pytest.approx(float(next(row for row in logged(tmp_path) if row[0] == str(done.best_step))[3]))


def test_seeds_differ_and_are_the_same_again():
    first, again = CONFIG.new_network().state_dict(), CONFIG.new_network().state_dict()
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    other = replace(CONFIG, seed=1).new_network().state_dict()
    assert not torch.equal(first["body.first.0.weight"], other["body.first.0.weight"])


def test_a_folder_with_another_run_is_refused(tmp_path):
    train_discs(tmp_path, replace(CONFIG, steps=1))
    with pytest.raises(ValueError, match="another config"):
        train_discs(tmp_path, replace(CONFIG, steps=2))
    with pytest.raises(ValueError, match="validation"):
        train(tmp_path, CONFIG, SetBatches(groups()), [])


def test_broken_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        Run.open(tmp_path)
    CONFIG.write(tmp_path)
    assert Config.read(tmp_path) == CONFIG
    with pytest.raises(ValueError, match=r"no best\.pt"):
        Run.open(tmp_path)
    (tmp_path / "best.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ValueError, match=r"best\.pt: cannot be read"):
        Run.open(tmp_path)
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert values["size"] == [16, 16]
    for broken in ("{", "[]", "", "a: b: c", *(yaml.safe_dump({**values, **x}) for x in ({"steps": 0}, {"stepz": 1}))):
        (tmp_path / "config.yaml").write_text(broken)
        with pytest.raises(ValueError, match=r"config\.yaml: "):
            Config.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"sets_per_batch": 0},
        {"sets_per_batch": 10**6},
        {"steps": 10**12},
        {"size": (16, 100_000)},
        {"features": -1},
        {"features": (4, 10**6)},
        {"set_sizes": (3, 2)},
        {"set_sizes": (0, 2)},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"labels": {}},
        {"accumulate": 0},
    ],
)
def test_a_config_is_checked(change):
    with pytest.raises(ValueError, match="expected"):
        replace(CONFIG, **change)


def test_every_changed_byte_of_a_checkpoint_is_noticed(tmp_path):
    train_discs(tmp_path / "run", replace(CONFIG, steps=1))
    file = tmp_path / "run/best.pt"
    whole = file.read_bytes()
    before = load_checkpoint(file, "cpu")
    for position in range(0, len(whole), max(1, len(whole) // 200)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with suppress(ValueError):  # none where the byte is padding of the archive
            torch.testing.assert_close(load_checkpoint(file, "cpu"), before, rtol=0, atol=0)
    values = torch.arange(4.0)
    save_checkpoint(file, {"network": {"w": values}})
    flipped = file.read_bytes().replace(values.numpy().tobytes(), torch.tensor([0.0, 1, 2, 3.0001]).numpy().tobytes())
    file.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"best\.pt: (has changed|cannot be read)"):
        load_checkpoint(file, "cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    save_checkpoint(tmp_path / "best.pt", {"network": {"w": torch.tensor([1.0, value])}})
    with pytest.raises(ValueError, match=r"best\.pt: w holds values that are not finite"):
        load_checkpoint(tmp_path / "best.pt", "cpu")


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    train_discs(tmp_path, replace(CONFIG, steps=1))
    replace(CONFIG, features=4).write(tmp_path)
    with pytest.raises(ValueError, match=r"best\.pt: does not fit the network"):
        Run.open(tmp_path)
    with pytest.raises(ValueError, match=r"last\.pt: does not fit the training"):
        train_discs(tmp_path, replace(CONFIG, features=4))


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    train_discs(tmp_path, replace(CONFIG, steps=3))
    before = (tmp_path / "last.pt").read_bytes()
    config = replace(CONFIG, steps=6)
    config.write(tmp_path)

    def full(state, file):
        file.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"\.pt: cannot be written .*is the disk full"):
        train_discs(tmp_path, config)
    monkeypatch.undo()
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob(".partial*"))
    assert train_discs(tmp_path, config).step == 6


def test_two_trainings_do_not_share_a_folder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from interconv_seg.folder_lock import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"locked\n"
    with pytest.raises(ValueError, match=rf"process {other.pid} on .* trains in it"):
        train_discs(tmp_path)
    other.kill()
    other.wait()
    other.stdout.close()
    train_discs(tmp_path, replace(CONFIG, steps=1))


def test_fine_tuning_starts_from_the_best_weights(tmp_path):
    train_discs(tmp_path / "first", replace(CONFIG, steps=3))
    best = load_checkpoint(tmp_path / "first/best.pt", "cpu")["network"]
    config = replace(CONFIG, initial=str(tmp_path / "first"), learning_rate=1e-12, steps=1, seed=5)
    tuned = train_discs(tmp_path / "second", config).network.state_dict()
    torch.testing.assert_close(dict(tuned), dict(best), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="does not fit the network"):
        train_discs(tmp_path / "third", replace(config, features=4))


def test_runs_that_do_not_fit_together(tmp_path):
    run = Run(tmp_path, CONFIG, CONFIG.new_network())
    other = replace(run, config=replace(CONFIG, labels={1: "inner", 3: "outer"}))
    with pytest.raises(ValueError, match="labels"):
        common_config([run, other])
    with pytest.raises(ValueError, match="no runs"):
        common_config([])
    assert common_config([run, replace(run, config=replace(CONFIG, seed=4, features=9))]) == CONFIG

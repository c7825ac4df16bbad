"""Images in memory up to a bound, and in mapped files beyond it: the same bits, and no more memory than they need."""

import subprocess
import sys

import pytest
import torch
from interconv_seg import data, preparation
from interconv_seg.checkpoints import load_checkpoint
from interconv_seg.cli import main, options
from interconv_seg.data import TensorStore, memory
from seg_common import BINARY, CLASSES, group

from benchmarks.loading import peak_of_training, write_images


@pytest.mark.parametrize("limit", [0, 3000, None])
def test_tensors_are_kept_bit_for_bit(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(memory, "BLOCK", 1000)
    store = TensorStore(limit, tmp_path / "files")
    random = torch.Generator().manual_seed(0)
    given = [torch.rand(3, 7, i, generator=random) for i in range(1, 40)]
    given += [torch.randint(-9, 9, (i, 5), dtype=torch.int16, generator=random) for i in range(40)]
    given += [torch.tensor([float("nan"), -0.0]), torch.rand(5, 4, generator=random).T]
    kept = [store.keep(tensor) for tensor in given]
    for old, new in zip(given, kept, strict=True):
        assert torch.equal(old.contiguous().view(torch.uint8), new.view(torch.uint8))
        assert old.shape == new.shape
        assert new.data_ptr() != old.data_ptr() or not old.numel()
    assert (store.in_files > 0) == (limit is not None)
    assert store.in_memory <= store.limit
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_bound_is_half_of_the_memory_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMORY_LIMIT", tmp_path / "memory.max")
    machine = memory.usable_memory()
    assert 2**28 < machine < 2**48
    for text, expected in (("max", machine), (str(2**27), 2**27)):
        (tmp_path / "memory.max").write_text(text)
        assert memory.usable_memory() == expected
    assert TensorStore().limit == 2**26


def test_a_full_disk_is_an_error(tmp_path):
    """A file that is mapped without its blocks would end the process with SIGBUS."""
    code = """
import resource, torch
from interconv_seg.data import TensorStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    TensorStore(0).keep(torch.ones(1000))
except OSError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("refused:")


@pytest.mark.parametrize("mode", ["automatic", "interactive"])
def test_training_has_the_same_bits_from_files(tmp_path, mode):
    write_images(tmp_path / "scans", 30, 24)
    network = ["--network", "simpleunet", "--features", "2", "--size", "16x16", "--steps", "3", "--device", "cpu"]
    command = ["train", "--mode", mode, "--data", str(tmp_path / "scans"), *network, "--interval", "2"]
    for name, memory_options in (("memory", []), ("files", ["--memory", "0", "--workers", "1"])):
        assert main([*command, "--out", str(tmp_path / name), *memory_options]) == 0
    states = [load_checkpoint(tmp_path / name / "seed0/last.pt", "cpu") for name in ("memory", "files")]
    for name, weights in states[0]["network"].items():
        assert torch.equal(weights, states[1]["network"][name])
    assert states[0]["best_loss"] == states[1]["best_loss"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_training_needs_little_more_than_its_images(tmp_path):
    """`python -m benchmarks loading` measures 5,000 images."""
    write_images(tmp_path / "few", 15, 256)
    write_images(tmp_path / "many", 135, 256)
    few = peak_of_training(tmp_path / "few", tmp_path / "run_few")
    many = peak_of_training(tmp_path / "many", tmp_path / "run_many")
    tensors = many.tensors - few.tensors
    assert tensors == (110 - 10) * 6 * 256**2  # a fifth of the subjects is for testing
    assert many.process - few.process < 1.3 * tensors
    mapped = peak_of_training(tmp_path / "many", tmp_path / "run_mapped", "--memory", "0")
    assert mapped.bound - few.bound < 0.4 * tensors < many.bound - few.bound


def test_validation_batches_are_the_same_each_time():
    for config, label in ((BINARY, 1), (CLASSES, None)):
        batches = preparation.validation_batches(config, [group(9, "a", label), group(5, "b", label)])
        first, again = list(batches), list(batches)
        assert len(first) == len(batches) == 1
        assert len(first[0].images) == 14
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.masks, other.masks)
            assert one.groups == other.groups
            assert (one.prompts is not None) == (config is BINARY)
        assert len(batches[:1]) == 1


def test_workers_are_chosen_by_the_device(monkeypatch):
    monkeypatch.setattr(options.os, "sched_getaffinity", lambda _: range(16), raising=False)

    class Arguments:
        workers = None

    assert options.workers_of(Arguments, "cpu") == 0
    assert options.workers_of(Arguments, "cuda:1") == 4
    monkeypatch.setattr(options.os, "sched_getaffinity", lambda _: range(2), raising=False)
    assert options.workers_of(Arguments, "cuda") == 1
    Arguments.workers = 7
    assert options.workers_of(Arguments, "cpu") == 7
    Arguments.workers = -1
    with pytest.raises(ValueError, match="--workers -1: expected from 0 to 1024"):
        options.workers_of(Arguments, "cpu")


def test_reading_shows_its_progress(tmp_path, monkeypatch):
    write_images(tmp_path / "scans", 6, 16)
    shown = []
    monkeypatch.setattr(data.scans, "tqdm", lambda items, desc, **_: shown.append((desc, len(items))) or items)
    data.read(tmp_path / "scans").load()
    assert shown == [("reading the masks of scans", 6), ("reading scans", 6)]

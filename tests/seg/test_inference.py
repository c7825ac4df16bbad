"""Ensembles, and the segmentation of sets of scans."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from interconv_seg import data
from interconv_seg.checkpoints import save_checkpoint
from interconv_seg.config import Config
from interconv_seg.data import DataError, collate
from interconv_seg.inference import Ensemble, class_probabilities, segment
from interconv_seg.prompts import draw_prompts
from interconv_seg.runs import Run
from seg_common import BINARY, CLASSES, Spy, group

LABELS = {3: "a", 7: "b"}
SIZES = ((18, 30), (33, 21), (16, 16))


@pytest.fixture
def scans(tmp_path, save, rng):
    """One set of three images of different sizes."""
    for i, size in enumerate(SIZES):
        save(tmp_path / f"images/{i}.png", rng.integers(0, 256, size, dtype=np.uint8))
    [found] = data.read(tmp_path / "images").sets()
    return found


def ensemble(config, tmp_path, seeds=(0,)):
    return Ensemble([Run(tmp_path, config, replace(config, seed=i).new_network().eval()) for i in seeds])


@pytest.mark.parametrize("config", [BINARY, CLASSES])
def test_an_ensemble_is_the_mean_of_probabilities(config, tmp_path):
    found = ensemble(config, tmp_path, range(3))
    prompts = draw_prompts if config.mode == "interactive" else None
    batch = collate([group(3, label=1 if prompts else None)], prompts=prompts)
    expected = 0
    with torch.no_grad():
        for network in found.networks:
            logits = network(batch.inputs, [3]).double()
            if config.mode == "interactive":
                label = 1 / (1 + torch.exp(-logits))
                expected = expected + torch.cat([1 - label, label], dim=1) / 3
            else:
                expected = expected + torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True) / 3
    probabilities = found.probabilities(batch)
    torch.testing.assert_close(probabilities.double(), expected, rtol=1e-5, atol=1e-6)
    assert probabilities.shape[1] == max(2, config.classes)


def test_the_mean_of_probabilities_is_not_that_of_logits():
    logits = torch.tensor([[8.0], [-1.0], [-1.0]]).view(3, 1, 1, 1)
    assert class_probabilities(logits)[:, 1].mean() < 0.6
    assert class_probabilities(logits.mean(0, keepdim=True))[0, 1] > 0.85


def test_a_set_is_segmented_together_and_each_scan_at_its_own_size(scans, tmp_path):
    config = replace(CLASSES, labels=LABELS, interconv="replace")
    found = ensemble(config, tmp_path, range(2))
    results = list(segment(found, scans))
    assert [result.scan for result in results] == scans
    x = torch.stack([scan.load((16, 16)).image for scan in scans])
    with torch.no_grad():
        expected = sum(network(x, [3]).softmax(1) for network in found.networks) / 2
        alone = found.networks[0](x, 1).softmax(1)
    assert (alone - found.networks[0](x, 3).softmax(1)).abs().max() > 1e-3  # the set matters
    for result, size in zip(results, SIZES, strict=True):
        assert result.probabilities.shape == (3, *size)
        torch.testing.assert_close(result.probabilities.sum(0), torch.ones(size))
        assert torch.equal(result.mask, torch.tensor([0, 3, 7])[result.probabilities.argmax(0)])
    torch.testing.assert_close(results[2].probabilities, expected[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("maximum", "lengths"), [(None, [3]), (3, [3]), (9, [3]), (2, [2, 1]), (1, [1, 1, 1])])
def test_larger_sets_are_divided(scans, maximum, lengths):
    spy = Spy(replace(CLASSES, labels=LABELS))
    results = list(segment(spy, scans, max_set_size=maximum))
    assert [batch.sets.lengths for batch in spy.batches] == [(length,) for length in lengths]
    assert [name for batch in spy.batches for name in batch.names] == [scan.name for scan in scans]
    assert all((result.mask == 3).all() for result in results)


def test_prompts_stay_where_they_are(scans):
    spy = Spy(BINARY)
    drawn = torch.zeros(2, *SIZES[0])
    drawn[0, 3, 5] = drawn[1, 17, 29] = 1
    results = list(segment(spy, scans[:2], [drawn, None]))
    [batch] = spy.batches
    assert batch.inputs.shape == (2, 3, 16, 16)
    assert batch.prompts[0, 0, 2, 2] == batch.prompts[0, 1, 15, 15] == 1  # one pixel of 18 x 30 is not lost
    assert batch.prompts[0].sum() <= 6
    assert not batch.prompts[1].any()
    assert {value for result in results for value in result.mask.unique().tolist()} == {1}  # the spy's class


def test_prompts_follow_their_scans_when_a_set_is_divided(scans):
    spy = Spy(BINARY)
    prompts = [torch.full((2, *size), float(i)) for i, size in enumerate(SIZES)]
    list(segment(spy, scans, prompts, max_set_size=2))
    assert [batch.prompts.amax((1, 2, 3)).tolist() for batch in spy.batches] == [[0, 1], [2]]


def test_what_segment_refuses(scans):
    none = [None] * 3
    for config, prompts, options, message in (
        (BINARY, None, {}, "interactive mode: expected prompts"),
        (CLASSES, none, {}, "automatic mode: expected no prompts"),
        (BINARY, none[:2], {}, "2 prompts for 3 scans"),
        (CLASSES, None, {"max_set_size": 0}, "max_set_size = 0"),
    ):
        with pytest.raises(ValueError, match=message):
            list(segment(Spy(config), scans, prompts, **options))
    with pytest.raises(DataError, match=r"1: prompts of shape \(2, 18, 30\), expected \(2, 33, 21\)"):
        list(segment(Spy(BINARY), scans, [None, torch.zeros(2, 18, 30), None]))
    assert list(segment(Spy(CLASSES), [])) == []


def test_read_prompts(tmp_path, save, scans, rng):
    drawn = np.zeros(SIZES[1], np.uint8)
    drawn[4, 5], drawn[6, 7] = 1, 2
    save(tmp_path / "prompts/1.png", drawn)
    assert data.read_prompts(tmp_path / "prompts", scans[0]) is None
    prompts = data.read_prompts(tmp_path / "prompts", scans[1])
    assert prompts.dtype == torch.float32
    assert prompts.nonzero().tolist() == [[0, 4, 5], [1, 6, 7]]
    save(tmp_path / "prompts/1.png", drawn * 2)
    with pytest.raises(DataError, match=r"1\.png: holds 4, expected 0, 1 .* and 2"):
        data.read_prompts(tmp_path / "prompts", scans[1])
    with pytest.raises(DataError, match="no such folder"):
        data.read_prompts(tmp_path / "nowhere", scans[1])
    save(tmp_path / "volume/v.nii", rng.random((5, 6, 2)))  # slices of a volume have slices of prompts
    volume = np.zeros((5, 6, 2), np.uint8)
    volume[1, 2, 0], volume[3, 4, 1] = 2, 1
    save(tmp_path / "prompts/v.nii", volume)
    first, second = (data.read_prompts(tmp_path / "prompts", scan) for scan in data.read(tmp_path / "volume").scans)
    assert first.nonzero().tolist() == [[1, 1, 2]]
    assert second.nonzero().tolist() == [[0, 3, 4]]


def test_sets_of_a_collection(tmp_path, save):
    for name in "abcd":
        save(tmp_path / f"{name}.png", np.eye(4, dtype=np.uint8) * 9)
    (tmp_path / "sets.csv").write_text("set,image\nt,d.png\ns,b.png\nt,a.png\ns,c.png\n")
    assert [[scan.name for scan in scans] for scans in data.read(tmp_path).sets()] == [["b", "c"], ["d", "a"]]


def test_runs_are_opened_from_their_folders(tmp_path):
    for seed in range(2):
        config = replace(CLASSES, seed=seed)
        config.write(tmp_path / str(seed))
        save_checkpoint(tmp_path / f"{seed}/best.pt", {"network": config.new_network().state_dict()})
    found = Ensemble.open([tmp_path / "0", tmp_path / "1"])
    assert found.structures == ["a", "b"]
    assert Ensemble([Run(tmp_path, BINARY, BINARY.new_network())]).structures == ["label"]
    assert isinstance(found.config, Config)
    first, second = (network.state_dict()["body.first.0.weight"] for network in found.networks)
    assert not torch.equal(first, second)

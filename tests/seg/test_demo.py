"""The demo's parts, and the demo itself made short."""

import csv
import sys

import numpy as np
import pytest
import torch
from interconv_seg import demo
from interconv_seg.anatomy import HEIGHT, HELD_OUT_SLICES, SLAB, TRAIN_SLICES, WIDTH, Template, simulate_subject
from interconv_seg.networks import SimpleUNet

import interconv_kernels as ik


@pytest.fixture(scope="module")
def template():
    return Template.load()


def subject(template, seed, scans=8, position=90):
    return simulate_subject(template, position, scans, torch.Generator().manual_seed(seed))


def test_subjects(template):
    images, tissues = subject(template, 0)
    assert images.shape == (8, 1, HEIGHT, WIDTH)
    assert tissues.shape == (HEIGHT, WIDTH)
    assert torch.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() < 4
    shares = torch.bincount(tissues.flatten(), minlength=3) / tissues.numel()
    assert shares.shape == (3,)
    assert (shares > 0.05).all()
    again, _ = subject(template, 0)
    assert torch.equal(images, again)  # seeded
    _, other_tissues = subject(template, 1)
    assert not torch.equal(tissues, other_tissues)


def test_scans_show_the_truth_but_badly(template):
    """Scans are aligned with the truth: the mean of many tells white from grey matter better than one alone."""
    images, tissues = subject(template, 3, scans=32)

    def separation(image):
        grey, white = image[0][tissues == 1], image[0][tissues == 2]
        return float((white.mean() - grey.mean()) / (0.5 * (white.var() + grey.var())).sqrt())

    one, many = np.mean([separation(image) for image in images]), separation(images.mean(0))
    assert 0.2 < one < 1.5
    assert many > 1.3 * one


def test_held_out_slices_are_apart_from_training():
    assert min(abs(a - b) for a in TRAIN_SLICES for b in HELD_OUT_SLICES) > 2 * SLAB


def test_the_two_networks_are_of_one_size():
    with torch.device("meta"):
        base = sum(p.numel() for p in SimpleUNet(1, 3, demo.FEATURES).parameters())
        net = ik.replace_with_interconv(SimpleUNet(1, 3, demo.INTERCONV_FEATURES), keep_outputs=False).model
    assert 0.97 < sum(p.numel() for p in net.parameters()) / base <= 1


def test_eager_concat_is_the_same_network():
    layer, sets = ik.InterConv2d(3, 4), ik.Sets.from_lengths([2, 1])
    u = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(demo.EagerConcat2d(layer, sets)(u), layer(u, sets), rtol=1e-4, atol=1e-5)


def test_dice():
    tissues = torch.zeros(4, 4, dtype=torch.long)
    tissues[:2], tissues[2] = 1, 2
    assert demo._dice(tissues[None], tissues) == 1
    wrong = tissues.clone()
    wrong[2] = 0  # white matter missed: Dice 1 and 0
    assert demo._dice(wrong[None], tissues) == 0.5


def test_the_verdict_is_honest(tmp_path, capsys):
    base = np.full(4, 0.5)
    demo.report({"baseline": base, "InterConv": np.stack([base - 0.1, base + 0.1, base + 0.2, base + 0.3])}, tmp_path)
    assert "InterConv is above its baseline for every K > 1" in capsys.readouterr().out
    demo.report({"baseline": base, "InterConv": np.stack([base + 0.1, base + 0.1, base - 0.2, base + 0.3])}, tmp_path)
    assert "InterConv is NOT above its baseline for every K > 1: only for [2, 8]" in capsys.readouterr().out


def test_a_short_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "--steps", "2", "--subjects", "2", "--out", str(tmp_path)])
    demo.main()
    out = capsys.readouterr().out
    assert "simulated" in out
    assert "on eager concat" in out
    rows = list(csv.DictReader((tmp_path / "dice.csv").open()))
    assert [row["K"] for row in rows] == ["1", "2", "4", "8"]
    for name in ("predictions.png", "dice.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.partial"))

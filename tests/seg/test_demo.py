"""The demo's parts, and the demo itself made short."""

import csv
import sys

import numpy as np
import pytest
import torch
from interconv_seg import demo
from interconv_seg.anatomy import HEIGHT, HELD_OUT_SLICES, SLAB, TRAIN_SLICES, WIDTH, Template, simulate_subject
from interconv_seg.estimates import Estimate
from interconv_seg.reports import ConditionSummary


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


def test_scans_are_degraded_but_aligned(template):
    """Scans are aligned with the truth: the mean of many separates white from grey matter better than one."""
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
    base, net = (sum(p.numel() for p in c.new_network().parameters()) for c in (demo.BASELINE, demo.INTERCONV))
    assert (base, net) == (54_039, 52_860)


def test_batches_are_a_function_of_the_step(template):
    batches, again = demo.SimulatedBatches(template, 3), demo.SimulatedBatches(template, 3)
    assert torch.equal(batches[7].images, again[7].images)
    assert not torch.equal(batches[7].masks[0], batches[8].masks[0])
    lengths = {k for step in range(12) for k in batches[step].sets.lengths}
    assert min(lengths) >= 1
    assert max(lengths) <= 8
    assert len(lengths) > 3


def test_the_verdict_is_honest(tmp_path, capsys):
    def rows(*gains):
        base = Estimate(0.5, 0.4, 0.6, 24)
        return [
            ConditionSummary(k, 0, None, base, base, Estimate(gain, gain - 0.05, gain + 0.05, 24), (0.5, 0.5))
            for k, gain in zip(demo.SET_SIZES, gains, strict=True)
        ]

    demo.report(rows(-0.1, 0.01, 0.2, 0.3), tmp_path)
    out = capsys.readouterr().out
    assert "InterConv is above its baseline for every K > 1; the interval of the gain excludes 0 for K = [4, 8]" in out
    demo.report(rows(0.1, 0.1, -0.2, 0.3), tmp_path)
    assert "InterConv is NOT above its baseline for every K > 1: only for [2, 8]" in capsys.readouterr().out


def test_a_short_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "--steps", "2", "--subjects", "2", "--out", str(tmp_path)])
    demo.main()
    out = capsys.readouterr().out
    assert "simulated" in out
    assert "with concatenation in plain torch" in out
    rows = list(csv.DictReader((tmp_path / "dice.csv").open()))
    assert [row["set_size"] for row in rows] == ["1", "2", "4", "8"]
    for name in ("predictions.png", "dice.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".partial*"))

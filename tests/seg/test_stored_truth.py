"""Metrics at the stored resolution, against naive ones in numpy."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from interconv_seg import data, reports
from interconv_seg.cli import main
from interconv_seg.data.files import IGNORED
from interconv_seg.estimates import estimate
from interconv_seg.evaluation import Score, evaluate
from interconv_seg.metrics import dice_scores, surface_scores
from interconv_seg.preparation import groups_of, read_data
from interconv_seg.stored_truth import StoredTruth
from seg_common import BINARY, CLASSES


def boundary(mask):
    """The pixels of a mask that have a neighbour outside; what lies around the image is outside."""
    return [
        pixel
        for pixel in zip(*np.nonzero(mask), strict=True)
        if not all(
            0 <= pixel[axis] + step < mask.shape[axis]
            and mask[tuple(p + step * (a == axis) for a, p in enumerate(pixel))]
            for axis in range(mask.ndim)
            for step in (-1, 1)
        )
    ]


def distances(first, second, spacing):
    """From each surface point of the first to the nearest of the second."""
    a, b = (np.array(boundary(mask)) * np.array(spacing) for mask in (first, second))
    return np.array([min(math.dist(p, q) for q in b) for p in a])


def naive_surface(predicted, truth, spacing, tolerance):
    there, back = distances(predicted, truth, spacing), distances(truth, predicted, spacing)
    near = (there <= tolerance).sum() + (back <= tolerance).sum()
    return max(np.percentile(there, 95), np.percentile(back, 95)), near / (len(there) + len(back))


@pytest.mark.parametrize(
    ("shape", "spacing"), [((9, 11), (1, 1)), ((9, 11), (0.7, 2.0)), ((5, 6, 7), (1, 1, 1)), ((5, 6, 7), (3, 0.5, 0.9))]
)
def test_surface_metrics_by_brute_force(shape, spacing, rng):
    for _ in range(4):
        masks = [np.zeros(shape, np.int64) for _ in range(2)]
        for mask in masks:
            for label in (1, 2):
                corner = [rng.integers(0, n - 3) for n in shape]
                mask[tuple(slice(c, c + rng.integers(1, 4)) for c in corner)] = label
        predicted, truth = (torch.from_numpy(mask) for mask in masks)
        hd95, surface_dice = surface_scores(predicted, truth, 3, spacing, tolerance=1.2)
        for label in (1, 2):
            if (masks[1] == label).any() and (masks[0] == label).any():
                expected = naive_surface(masks[0] == label, masks[1] == label, spacing, 1.2)
                assert hd95[label - 1] == pytest.approx(expected[0], rel=1e-5)
                assert surface_dice[label - 1] == pytest.approx(expected[1], rel=1e-5)


def test_structures_that_are_missing():
    truth, predicted = torch.zeros(2, 3, 4, dtype=torch.long), torch.zeros(2, 3, 4, dtype=torch.long)
    truth[0, 0, 0], predicted[1, 1, 1] = 1, 2
    hd95, surface_dice = surface_scores(predicted, truth, 3, (2.0, 1.0, 0.5))
    assert hd95[0] == pytest.approx(math.sqrt(4**2 + 3**2 + 2**2))
    assert surface_dice[0] == 0
    assert math.isnan(hd95[1])
    assert math.isnan(surface_dice[1])


def test_pixels_without_a_class_do_not_count():
    truth = torch.tensor([[1, 1, IGNORED, IGNORED, 0]])
    predicted = torch.tensor([[1, 1, 1, 0, 0]])
    assert surface_scores(predicted, truth, 2, (1, 1)) == ((0.0,), (1.0,))


# Whole volumes


class ByPosition:
    """In place of an ensemble: an image's class-1 probability is the image itself."""

    window = None

    def __init__(self, config):
        self.config = config

    def probabilities(self, batch):
        one = batch.images[:, :1]
        parts = [1 - one, one] if self.config.mode == "interactive" else [1 - one, one, 0 * one]
        return torch.cat(parts, dim=1)


@pytest.fixture
def volumes(tmp_path, save, rng):
    """Two volumes with oblique spacing and one picture, of one subject; all labels of 4 and 9."""
    affine = np.array([[0, 0, 2.5, 4], [-0.7, 0, 0, 5], [0, 1.3, 0, 6], [0, 0, 0, 1.0]])
    lines = ["set,image,mask"]
    for name, shape in (("a.nii.gz", (12, 6, 9)), ("b.nii.gz", (10, 4, 11)), ("c.png", (14, 8))):
        image = rng.random(shape)
        mask = np.where(image > 0.5, 4, 0).astype(np.uint8)
        mask[:3] = np.where(mask[:3] > 0, 9, 0)
        noisy = np.clip(image + rng.normal(0, 0.2, shape), 0, 1)
        placed = affine if name.endswith("gz") else None
        save(
            tmp_path / "d" / name,
            noisy.astype(np.float32) if placed is not None else (255 * noisy).astype(np.uint8),
            placed,
        )
        save(tmp_path / f"d/m_{name}", mask, placed)
        lines.append(f"s,{name},m_{name}")
    (tmp_path / "d/sets.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def loaded(folder, config):
    collections = read_data(config, [str(folder / "d")])
    return collections, groups_of(config, collections, min_images=1)


def canonical(folder, name, kind):
    import nibabel as nib

    return nib.as_closest_canonical(nib.load(folder / f"d/{kind}{name}.nii.gz"))


def test_volumes_are_scored_as_they_are_stored(volumes):
    config = replace(CLASSES, labels={4: "a", 9: "b"}, size=(16, 16), set_sizes=None)
    collections, groups = loaded(volumes, config)
    scores = evaluate(ByPosition(config), groups, [None, 4], stored=StoredTruth(config, collections, tolerance=1.0))
    assert {score.sample for score in scores} == {"a", "b", "c"}
    assert len(scores) == 6
    by_name = {score.sample: score for score in scores if score.set_size is None}
    for name in "ab":
        mask = canonical(volumes, name, "m_")
        truth = torch.from_numpy(np.ascontiguousarray(mask.dataobj).astype(np.int64))
        classes = torch.searchsorted(torch.tensor([0, 4, 9]), truth.contiguous())
        slices = [scan.load((16, 16)).image for scan in collections[0].scans if scan.case == name]
        size = tuple(truth.shape[:2])
        resized = [
            torch.nn.functional.interpolate(x[None], size, mode="bilinear", antialias=True)[0, 0] for x in slices
        ]
        found = (torch.stack(resized, -1) > 0.5).long()
        score = by_name[name]
        assert score.dice == pytest.approx(dice_scores(found[None], classes[None], 3)[0].tolist(), nan_ok=True)
        overlap = 2 * int(((found == 1) & (classes == 1)).sum()) / int((found == 1).sum() + (classes == 1).sum())
        assert score.dice[0] == pytest.approx(overlap)
        expected = naive_surface(found.numpy() == 1, classes.numpy() == 1, mask.header.get_zooms(), 1.0)
        assert (score.hd95[0], score.surface_dice[0]) == pytest.approx(expected, rel=1e-5)
    assert by_name["c"].hd95[1] == pytest.approx(math.hypot(14, 8))  # the second structure is never predicted


def test_slices_with_gaps_are_images(volumes):
    config = replace(CLASSES, labels={4: "a", 9: "b"}, size=(16, 16), set_sizes=None, slices="every:2")
    collections, groups = loaded(volumes, config)
    scores = evaluate(ByPosition(config), groups, [None], stored=StoredTruth(config, collections))
    assert {score.sample.split("/")[0] for score in scores} == {"a", "b", "c"}
    assert len(scores) == len(collections[0].scans)


def test_each_label_of_the_interactive_mode_has_its_own_truth(volumes):
    config = replace(BINARY, size=(16, 16), sets_of="all")
    collections, groups = loaded(volumes, config)
    scores = evaluate(ByPosition(config), groups, [4], prompts=[1], stored=StoredTruth(config, collections))
    assert {score.task for score in scores} == {"d/4", "d/9"}
    picture = np.asarray(data.files.read_mask(volumes / "d/m_c.png"))
    image = next(s for s in collections[0].scans if s.case == "c").load((16, 16)).image
    found = torch.nn.functional.interpolate(image[None], (14, 8), mode="bilinear", antialias=True)[0, 0] > 0.5
    for label in (4, 9):
        truth = torch.from_numpy(picture == label)
        [score] = [s for s in scores if s.sample == "c" and s.task == f"d/{label}"]
        assert score.dice[0] == pytest.approx(2 * int((found & truth).sum()) / int(found.sum() + truth.sum()))


def test_the_command_writes_all_metrics(volumes, capsys):
    from interconv_seg.checkpoints import save_checkpoint

    config = replace(CLASSES, labels={4: "ventricle", 9: "wall"}, set_sizes=None, interconv="replace")
    for name in ("run", "base"):
        own = config if name == "run" else replace(config, interconv=None)
        own.write(volumes / name)
        save_checkpoint(volumes / name / "best.pt", {"network": own.new_network().state_dict()})
    options = [
        "--data",
        volumes / "d",
        "--set-sizes",
        "all",
        "--native",
        "--tta",
        "--unit",
        "subject",
        "--device",
        "cpu",
    ]
    options += ["--baseline", volumes / "base", "--out", volumes / "out"]
    assert main([str(a) for a in ["evaluate", volumes / "run", *options]]) == 0
    out = capsys.readouterr().out
    assert "| Dice [95 % CI] | SD | baseline | gain | p | HD95 | gain | surface Dice | gain | ventricle | wall |" in out
    [summary] = csv.DictReader((volumes / "out/summary.csv").open())
    rows = list(csv.DictReader((volumes / "out/scores.csv").open()))
    assert {row["sample"] for row in rows} == {"a", "b", "c"}
    means = [np.nanmean([float(row[f"hd95 {name}"]) for name in ("ventricle", "wall")]) for row in rows]
    assert float(summary["hd95"]) == pytest.approx(np.mean(means))
    assert float(rows[0]["surface_dice wall"]) >= 0
    (volumes / "file").write_text("")
    assert main(["evaluate", str(volumes / "run"), "--data", str(volumes / "d"), "--out", str(volumes / "file")]) == 2
    assert "file: is no folder" in capsys.readouterr().err


# Tables


def test_means_and_intervals_over_groups_and_tasks():
    random = np.random.default_rng(3)
    scores = [
        Score(f"g{g}", f"s{i}", f"x{i}", 4, 2, 0, 0, (float(random.normal(g / 10, 0.01)),), task=f"t{g % 2}")
        for g in range(6)
        for i in range(4)
    ]
    [by_sample], [by_group] = (reports.summarize(scores, unit=unit) for unit in ("sample", "group"))
    assert (by_sample.dice.count, by_group.dice.count) == (24, 6)
    assert by_group.dice.mean == pytest.approx(by_sample.dice.mean)
    assert by_group.dice.high - by_group.dice.low > 1.5 * (by_sample.dice.high - by_sample.dice.low)
    assert by_sample.dice.sd == pytest.approx(np.std([score.dice[0] for score in scores], ddof=1))
    tasks = reports.summarize(scores, by_task=True)
    assert [row.task for row in tasks] == ["t0", "t1"]
    own = [score.dice[0] for score in scores if score.task == "t1"]
    assert tasks[1].dice.mean == pytest.approx(np.mean(own))
    assert "| task | K |" in reports.summary_markdown(tasks, ["a"])
    assert next(csv.DictReader(reports.summary_csv(tasks, ["a"]).splitlines()))["task"] == "t0"
    assert math.isnan(estimate([1.0]).sd)

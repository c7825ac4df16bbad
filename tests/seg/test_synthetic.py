"""Synthetic tasks: what is drawn, what a target is, and what the text form says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from interconv_seg import data, preparation
from interconv_seg.data.synthetic import LEAST_AREA, SyntheticTasks, _targets, draw_tasks
from interconv_seg.data.synthetic_images import _blurred, random_images
from interconv_seg.data.synthetic_random import Random
from interconv_seg.data.synthetic_shapes import LABELS, random_geometry, random_labels
from scipy.ndimage import gaussian_filter
from seg_common import BINARY, CLASSES, refused

TEXT = "synthetic:tasks=5,size=32,subjects=6"


def test_the_text_form():
    assert SyntheticTasks.parse("synthetic:") == SyntheticTasks()
    tasks = SyntheticTasks.parse("synthetic:seed=4,tasks=12")
    assert (tasks.seed, tasks.tasks, tasks.size, tasks.file) == (4, 12, 64, None)
    assert str(tasks) == "synthetic:tasks=12,size=64,subjects=10,seed=4"
    refused("synthetic:depth=3", "depth=3", "tasks=N")
    refused("synthetic:tasks=many", "tasks=many")
    refused("synthetic:size=8", "size=8", "16 to 1024")


def test_tasks_are_a_function_of_the_seed():
    images, masks = draw_tasks(70, 3, 16, seed=2)  # more than are drawn at once
    fewer = draw_tasks(5, 3, 16, seed=2)
    assert torch.equal(images[:5], fewer[0])
    assert torch.equal(masks[:5], fewer[1])
    assert not torch.equal(images[:5], draw_tasks(5, 3, 16, seed=3)[0])
    assert len({image.numpy().tobytes() for image in images.flatten(0, 1)}) == 210


def test_targets_are_neither_small_nor_large_and_in_most_subjects():
    images, masks = draw_tasks(60, 10, 32, seed=0)
    assert (images.dtype, masks.dtype) == (torch.uint8, torch.int8)
    assert (images.flatten(2).amax(2) > 200).float().mean() > 0.95  # the whole range of intensities is used
    areas = []
    for mask in masks:
        values = set(mask.unique().tolist()) - {0}
        assert values == set(range(1, len(values) + 1)) != set()
        for value in values:
            area = (mask == value).float().mean((1, 2))
            present = area > 0
            assert present.float().mean() >= 0.8
            assert area[present].min() >= LEAST_AREA
            areas.append(float(area.mean()))
    assert 0.025 < min(areas) < 0.05  # LEAST_AREA takes some pixels away
    assert 0.25 < max(areas) <= 0.35


def test_a_background_is_no_target():
    labels = torch.zeros(2, 4, 20, 20, dtype=torch.int64)
    labels[..., :16, :] = 9  # 80 % of the image, too large
    masks, useful = _targets(labels, torch.tensor([True, False]))
    assert useful.tolist() == [False, True]  # the other 20 % are the background, or a region
    assert torch.equal(masks[1], (labels[1] == 0).to(torch.int8))


def test_subjects_of_some_tasks_differ_by_less_than_a_pixel():
    geometry = random_geometry(Random(0), 200, 4, 32)
    axis = torch.linspace(-1, 1, 32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    moved = (geometry.grid - torch.stack([x, y], -1)).norm(dim=-1).mean((1, 2, 3)) * 16  # in pixels
    little = geometry.strength < 0.03
    assert 0.15 < little.float().mean() < 0.35
    assert moved[little].max() < 1
    assert moved[~little].max() > 5
    assert moved[~little].median() > 1.5


def test_every_kind_of_label_is_drawn():
    random = Random(1)
    labels, has_background = random_labels(random, random_geometry(random, 200, 2, 32))
    assert (labels.min(), labels.max()) == (0, LABELS - 1)
    assert len(labels.unique()) == LABELS
    assert 0.2 < has_background.float().mean() < 0.4


def test_images_show_the_labels():
    """Without variation between subjects, a label has one intensity in all of them, up to texture and noise."""
    labels = torch.zeros(40, 5, 32, 32, dtype=torch.int64)
    labels[..., 8:24, 8:24] = 1
    images = random_images(Random(3), labels, torch.zeros(40), 2)
    assert 0 <= images.min() <= images.max() <= 1
    inside, outside = images[..., 10:22, 10:22].mean((2, 3)), images[..., :6].mean((2, 3))
    contrast = inside - outside
    assert (contrast.mean(1).abs() > 0.2).sum() > 15
    assert (contrast.mean(1).abs() < 0.1).sum() > 2  # and some look alike
    clear = contrast.mean(1).abs() > 0.3
    assert (contrast[clear].sign() == contrast[clear, :1].sign()).float().mean() > 0.95
    assert contrast[clear].std(1).mean() < 0.15


def test_blur_and_smooth_fields():
    image = torch.rand(2, 3, 24, 24)
    blurred = _blurred(image, torch.tensor([0.8, 1.4]))
    for i, sigma in enumerate((0.8, 1.4)):
        expected = gaussian_filter(image[i].numpy(), (0, sigma, sigma), truncate=8)[:, 8:-8, 8:-8]
        np.testing.assert_allclose(blurred[i, :, 8:-8, 8:-8].numpy(), expected, atol=1e-3)
    fields = Random(0).smooth(400, 24, torch.tensor([3.0, 12.0]))
    assert fields.mean((1, 2, 3)).abs().max() < 0.1
    torch.testing.assert_close(fields.var((1, 2, 3)), torch.ones(2), rtol=0.1, atol=0)
    steps = fields.diff(dim=3).square().mean((1, 2, 3)).sqrt()
    assert 3 < steps[0] / steps[1] < 5  # the spacing is four times as large


def test_a_collection_of_tasks():
    collection = data.read(TEXT)
    samples = collection.load((32, 32), 1)
    assert (len(samples), samples[7].name, samples[7].task) == (30, "000001/001", "synthetic:seed=0/000001")
    groups = data.group_samples(samples, "task", collection.labels)
    assert all(len({s.name[:6] for s in g.samples}) == 1 and 4 < len(g.samples) <= 6 for g in groups)
    batch = data.collate(groups[:3])
    assert 0 <= batch.images.min() <= batch.images.max() <= 1
    assert batch.images.dtype == torch.float32
    assert set(batch.masks.unique().tolist()) == {0, 1}
    loaded = collection.scans[7].load()  # like an image in a file
    assert torch.equal(loaded.mask, samples[7].mask.to(torch.int16))
    torch.testing.assert_close(loaded.image, samples[7].image / 255, atol=0.05, rtol=0.1)
    refused(TEXT, "32x32", "(16, 16)", read=lambda path: data.read(path).load((16, 16)))


def test_tasks_are_kept_in_a_file(tmp_path):
    text = f"{TEXT},file={tmp_path / 'pool.pt'}"
    first = data.read(text)
    written = (tmp_path / "pool.pt").stat().st_mtime_ns
    again = data.read(text)
    assert (tmp_path / "pool.pt").stat().st_mtime_ns == written
    for one, two, drawn in zip(first.load(), again.load(), data.read(TEXT).load(), strict=True):
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.mask, drawn.mask)
    refused(text.replace("tasks=5", "tasks=6"), "'tasks': 5", "'tasks': 6")
    (tmp_path / "pool.pt").write_bytes(b"no pool")
    refused(text, "pool.pt", "cannot be used")


def test_runs_read_them(tmp_path):
    config = replace(BINARY, size=(32, 32))
    groups = preparation.load_groups(config, [TEXT], min_images=1)
    preparation.check_unchanged(tmp_path, groups)
    assert (tmp_path / "data.json").read_text().strip() == "{}"  # the config says all about them
    training, same = preparation.read_data(config, [TEXT]), preparation.read_data(config, [TEXT])
    with pytest.raises(data.DataError, match="for training and for validation"):
        preparation.check_disjoint(training, same)
    preparation.check_disjoint(training, preparation.read_data(config, [f"{TEXT},seed=1"]))
    with pytest.raises(data.DataError, match="interactive"):
        preparation.read_data(CLASSES, [TEXT])

"""Readers return what folders and archives hold; anything else is a DataError that names the file."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from interconv_seg import data
from interconv_seg.data.files import write_mask
from PIL import Image
from seg_common import read_and_load, refused

# nnU-Net


def test_nnunet(nnunet):
    collection = data.read(nnunet)
    assert collection.name == "Dataset001_Toy"
    assert collection.labels == {1: "grey", 2: "white"}
    assert [scan.name for scan in collection.scans] == ["a", "b"]
    assert [scan.subject for scan in collection.scans] == ["a", "b"]
    for scan in collection.scans:
        sample = scan.load()
        for channel in range(2):
            stored = np.array(Image.open(nnunet / f"imagesTr/{scan.name}_{channel:04d}.png"))
            torch.testing.assert_close(sample.image[channel], data.unit_range(torch.tensor(stored)))
        np.testing.assert_array_equal(sample.mask, np.array(Image.open(nnunet / f"labelsTr/{scan.name}.png")))


def test_the_order_of_scans_does_not_depend_on_the_file_system(nnunet, monkeypatch):
    listed = Path.glob
    for order in (False, True):
        monkeypatch.setattr(Path, "glob", lambda *args, order=order: iter(sorted(listed(*args), reverse=order)))
        assert [scan.name for scan in data.read(nnunet).scans] == ["a", "b"]


def test_nnunet_volumes_and_test_images(nnunet, save, rng):
    about = json.loads((nnunet / "dataset.json").read_text())
    (nnunet / "dataset.json").write_text(json.dumps(about | {"file_ending": ".nii.gz"}))
    for channel in range(2):
        save(nnunet / f"imagesTs/c_{channel:04d}.nii.gz", rng.random((4, 5, 3)))
    collection = data.read_nnunet(nnunet, split="Ts")
    assert [scan.name for scan in collection.scans] == ["c/000", "c/001", "c/002"]
    assert {scan.subject for scan in collection.scans} == {"c"}
    assert collection.scans[2].load().image.shape == (2, 4, 5)
    assert collection.scans[2].load().mask is None
    save(nnunet / "imagesTs/c_0001.nii.gz", rng.random((4, 5, 2)))
    refused(nnunet, "c_0001.nii.gz", "4x5x2", "expected 4x5x3", read=data.read_nnunet, split="Ts")


def test_nnunet_colours_in_one_file(nnunet, save, rng):
    about = json.loads((nnunet / "dataset.json").read_text())
    about["channel_names"] = {"0": "R", "1": "G", "2": "B"}
    (nnunet / "dataset.json").write_text(json.dumps(about))
    for case in "ab":
        (nnunet / f"imagesTr/{case}_0001.png").unlink()
        save(nnunet / f"imagesTr/{case}_0000.png", rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    assert data.read(nnunet).scans[0].load(channels=3).image.shape == (3, 8, 10)


def test_broken_nnunet_folders(nnunet, save):
    (nnunet / "labelsTr/b.png").rename(nnunet / "b.png")
    refused(nnunet, "labelsTr/b.png", "no such file", "case b")
    (nnunet / "b.png").rename(nnunet / "labelsTr/b.png")
    save(nnunet / "labelsTr/b.png", np.zeros((8, 9), np.uint8))
    refused(nnunet, "b_0000.png", "(8, 10)", "(8, 9)", read=read_and_load)
    (nnunet / "imagesTr/b_0001.png").unlink()
    (nnunet / "imagesTr/a_0001.png").unlink()
    refused(nnunet, "a_0000.png", "1 channels, expected 2", read=lambda path: data.read(path).load(channels=2))
    good = json.loads((nnunet / "dataset.json").read_text())
    for change, word in (
        ({"labels": {"background": 0, "both": [1, 2]}}, "both"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "unique"),
        ({"labels": {"0": "background"}}, "class indices"),
        ({"labels": []}, "labels"),
        ({"channel_names": None}, "channel_names"),
        ({"file_ending": ".mha"}, ".mha"),
        ({"file_ending": ".tif"}, "_0000.tif"),
    ):
        (nnunet / "dataset.json").write_text(json.dumps(good | change))
        refused(nnunet, str(nnunet), word)
    for text in ("", "[1]", "{", "\x00"):
        (nnunet / "dataset.json").write_text(text)
        refused(nnunet, "dataset.json")


def test_labels_without_an_image_are_refused(nnunet, save, rng):
    save(nnunet / "labelsTr/c.png", rng.integers(0, 3, (8, 10), dtype=np.uint8))
    refused(nnunet, "labelsTr/c.png", "its image is missing", "imagesTr/c_0000.png")


def test_nnunet_without_labels(nnunet, save, rng):
    for case in "ab":
        (nnunet / f"labelsTr/{case}.png").unlink()
    refused(nnunet, "labelsTr/a.png", "no such file")
    (nnunet / "labelsTr").rmdir()
    assert [scan.mask_reader for scan in data.read(nnunet).scans] == [None, None]
    for channel in range(2):
        save(nnunet / f"imagesTs/c_{channel:04d}.png", rng.integers(0, 256, (8, 10), dtype=np.uint8))
    [scan] = data.read(nnunet / "imagesTs").scans
    assert (scan.case, len(scan.image_readers), scan.mask_reader) == ("c", 2, None)
    [file] = data.write_masks(nnunet / "out", [scan], [torch.zeros(8, 10)])
    assert file.name == "c.png"


def test_an_ignore_label_is_not_a_class(nnunet, save):
    about = json.loads((nnunet / "dataset.json").read_text())
    (nnunet / "dataset.json").write_text(json.dumps(about | {"labels": {"background": 0, "grey": 1, "ignore": 2}}))
    mask = np.arange(80, dtype=np.uint8).reshape(8, 10) % 3
    save(nnunet / "labelsTr/a.png", mask)
    collection = data.read(nnunet)
    assert collection.labels == {1: "grey"}
    np.testing.assert_array_equal(collection.scans[0].load().mask, np.where(mask == 2, -1, mask.astype(int)))


# Plain folders


def test_a_plain_folder_is_one_set(tmp_path, save, rng):
    for name in ("b.png", "a.tif", "c.nii.gz"):
        save(tmp_path / name, rng.integers(0, 200, (6, 6), dtype=np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    collection = data.read(tmp_path)
    assert [scan.name for scan in collection.scans] == ["a", "b", "c"]
    assert {scan.subject for scan in collection.scans} == {tmp_path.name}
    assert collection.labels == {}
    assert all(sample.mask is None for sample in collection.load())


def test_sets_csv(tmp_path, save, rng):
    for i in range(4):
        save(tmp_path / f"images/{i}.png", rng.integers(0, 200, (6, 6), dtype=np.uint8))
    save(tmp_path / "truth.png", np.full((6, 6), 3, np.uint8))
    rows = ["s2,images/1.png,truth.png", "s1,images/0.png,", "s2,images/3.png,truth.png"]
    (tmp_path / "sets.csv").write_text("\ufeff" + "\r\n".join(["set,image,mask", *rows]), encoding="utf-8")
    collection = data.read(tmp_path)
    assert [(scan.subject, scan.name) for scan in collection.scans] == [
        ("s2", "images/1"),
        ("s1", "images/0"),
        ("s2", "images/3"),
    ]
    assert collection.labels == {3: "3"}
    samples = collection.load()
    assert samples[1].mask is None
    assert (samples[2].mask == 3).all()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "columns"),
        ("image\na.png", "columns"),
        ("set,image\n", "no rows"),
        ("set,image\ns,missing.png", "missing.png"),
        ("set,image,mask\ns,a.png,missing.png", "missing.png"),
        ("set,image\ns,\n", "line 2"),
        ("set,image\n,a.png\n", "line 2"),
        ("set,image\ns,a.png\nt,a.png", "two images are named a"),
        ("set,image\ns,sets.csv", "expected an image file"),
        ("set,image\ns,a.png\ns,./b.png", "a and b are the same file"),
        ("set,image,image_t2\ns,a.png,\n", "line 2"),
        ("set,image,image_t2\ns,a.png,missing.png\n", "missing.png"),
        ("set,image,mask\ns,a.png,a.png", "a.png"),
        ('set,image\ns,"a.png\n', "sets.csv"),
    ],
)
def test_broken_sets_csv(tmp_path, save, text, word):
    save(tmp_path / "a.png", np.full((2, 2, 3), 9, np.uint8))
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "sets.csv").write_text(text)
    refused(tmp_path, str(tmp_path), word)


def test_sets_csv_with_several_channels(tmp_path, save):
    for name, value in (("t1", 10), ("t2", 20), ("pd", 30)):
        save(tmp_path / f"{name}.png", np.full((4, 4), value, np.uint8))
    (tmp_path / "sets.csv").write_text("set,image_t2,image,image_pd\ns,t2.png,t1.png,pd.png\n")
    [scan] = data.read(tmp_path).scans
    assert [int(read().max()) for read in scan.image_readers] == [10, 20, 30]
    assert scan.case == "t1"


def test_nothing_to_read(tmp_path):
    refused(tmp_path, "no images")
    refused(tmp_path / "nowhere", "nowhere")
    refused(tmp_path / "nowhere.npz", "nowhere.npz", "no such file")


# .npz


def test_npz(tmp_path, arrays):
    has_label = np.arange(12) != 5
    np.savez(tmp_path / "toy.npz", **arrays, has_label=has_label, has_outer=has_label)
    collection = data.read(tmp_path / "toy.npz")
    assert collection.name == "toy"
    assert collection.labels == {1: "grey", 2: "white"}
    for i, scan in enumerate(collection.scans):
        assert (scan.name, scan.subject) == (arrays["ids"][i], f"s{i // 4}")
        assert scan.task == ("toy/axial" if i % 2 else "toy/coronal")
        sample = scan.load()
        torch.testing.assert_close(sample.image[0], data.unit_range(torch.tensor(arrays["images"][i])))
        if i == 5:
            assert sample.mask is None
        else:
            np.testing.assert_array_equal(sample.mask, arrays["labels"][i])


def test_an_npz_of_several_data_sets(tmp_path, arrays):
    np.savez(tmp_path / "toy.npz", **arrays, tasks=np.array(["x", "y"] * 6))
    assert {scan.task for scan in data.read(tmp_path / "toy.npz").scans} == {"toy/x/coronal", "toy/y/axial"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"images": None}, "no array 'images'"),
        ({"ids": None}, "no array 'ids'"),
        ({"images": np.zeros((12, 16, 21))}, "labels has shape"),
        ({"labels": np.zeros((12, 16, 20))}, "labels is float64"),
        ({"labels": np.full((12, 16, 20), 3)}, "below 3"),
        ({"labels": np.full((12, 16, 20), -1)}, "below 3"),
        ({"ids": np.array(["a"] * 12)}, "two images are named a"),
        ({"ids": np.arange(12)}, "ids is int64"),
        ({"images": np.zeros((12, 16), np.uint8)}, "expected real numbers with 3 axes"),
        ({"images": np.array([None] * 12)}, "toy.npz"),
        ({"has_label": np.ones(3, bool)}, "has_label has shape (3,)"),
        ({"images": np.zeros((0, 16, 20), np.uint8)}, "at least one image"),
    ],
)
def test_broken_npz(tmp_path, arrays, change, word):
    kept = {key: array for key, array in (arrays | change).items() if array is not None}
    np.savez(tmp_path / "toy.npz", **kept)
    refused(tmp_path / "toy.npz", "toy.npz", word)


# Writing


def test_segmentations_of_volumes_keep_the_affine(tmp_path, save, rng):
    affine = np.diag([0.5, 2, 3, 1])
    affine[:3, 3] = 7, 8, 9
    save(tmp_path / "in/v.nii.gz", rng.random((4, 5, 6, 1)).astype(np.float32), affine)
    save(tmp_path / "in/flat.nii", rng.random((4, 5, 1)).astype(np.float32), affine)
    save(tmp_path / "in/p.png", rng.integers(0, 200, (3, 4), dtype=np.uint8))
    scans = data.read(tmp_path / "in", axis="coronal").scans
    truth = rng.integers(0, 9, (4, 5, 6))
    masks = {"v": truth, "flat": truth[..., 0], "p": truth[:3, :4, 1] * 300}
    given = [torch.tensor(masks[scan.case] if scan.index is None else truth[:, scan.index]) for scan in scans]
    written = data.write_masks(tmp_path / "out", scans, given)
    assert sorted(written) == sorted(tmp_path.glob("out/*"))
    assert [file.name for file in written] == ["flat.nii", "p.png", "v.nii.gz"]
    for name, shape in (("v.nii.gz", (4, 5, 6, 1)), ("flat.nii", (4, 5, 1))):
        image = nib.load(tmp_path / "out" / name)
        assert image.shape == shape
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(image.affine, affine)
        np.testing.assert_array_equal(np.asarray(image.dataobj).squeeze(), masks[name.split(".")[0]])
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out/p.png")), masks["p"])


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(self, path):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_mask(tmp_path / "m.png", np.zeros((2, 2), int))
    assert not list(tmp_path.iterdir())


# Real images, if available


@pytest.mark.skipif("INTERCONV_DATA" not in os.environ, reason="INTERCONV_DATA names no folder of .npz files")
def test_real_images():
    files = sorted(Path(os.environ["INTERCONV_DATA"]).glob("*.npz"))
    assert files
    for file in files:
        collection = data.read(file)
        samples = collection.load(channels=1)
        assert {sample.image.shape for sample in samples} == {samples[0].image.shape}
        assert data.group_samples(samples, "task", collection.labels)
        assert data.group_samples(samples, "subject")

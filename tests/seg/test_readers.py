"""Every reader gives what the files hold; everything else is a DataError that names the file."""

import gzip
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from interconv_seg import data
from interconv_seg.data.files import read_image, read_mask, write_mask
from PIL import Image


def refused(path, *words, read=data.read, **options):
    with pytest.raises(data.DataError) as caught:
        read(path, **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def read_and_load(path):
    return data.read(path).load()


def ends(values):
    return values.min().item(), values.max().item()


# Intensities


def test_unit_range_is_linear_between_the_percentiles():
    values = torch.arange(1001.0)
    scaled = data.unit_range(values)
    assert ends(scaled) == (0, 1)
    torch.testing.assert_close(scaled[5:996], (values[5:996] - 5) / 990)
    assert (scaled[:5] == 0).all()
    assert (scaled[996:] == 1).all()
    torch.testing.assert_close(data.unit_range(values * 37 - 4e4), scaled)


def test_unit_range_of_odd_images():
    ramp = torch.arange(1001.0)
    hot = ramp.clone()
    hot[[3, 4]] = 1e9  # two hot pixels leave the rest where it was
    torch.testing.assert_close(data.unit_range(hot)[10:900], data.unit_range(ramp)[10:900], atol=0.01, rtol=0)
    few = torch.zeros(1000)
    few[0], few[1] = 4, 1  # too few for a percentile
    assert data.unit_range(few).tolist() == [1.0, 0.25] + [0.0] * 998
    assert data.unit_range(torch.full((7,), 3.0)).tolist() == [0.0] * 7
    holes = data.unit_range(torch.tensor([torch.nan, torch.inf, -torch.inf, 1, 2, 3]))
    assert holes[:3].tolist() == [0, 1, 0]
    assert holes.isfinite().all()
    with pytest.raises(ValueError, match="finite"):
        data.unit_range(torch.full((7,), torch.nan))


# One file


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int32])
def test_grey_pictures(tmp_path, save, rng, dtype):
    picture = (rng.random((5, 7)) * 250).astype(dtype)
    if dtype == np.uint16:
        picture *= 200
    file = save(tmp_path / "grey.tif", picture)
    np.testing.assert_array_equal(read_image(file), picture[None])


def test_16_bit_png_keeps_its_bits(tmp_path, save):
    picture = np.arange(60000, 60035, dtype=np.uint16).reshape(5, 7)
    np.testing.assert_array_equal(read_image(save(tmp_path / "deep.png", picture)), picture[None])
    sample = data.read(tmp_path).scans[0].load()
    assert len(sample.image.unique()) == 35


def test_coloured_pictures(tmp_path, rng):
    colours = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    rgb = Image.fromarray(colours)
    rgb.save(tmp_path / "rgb.png")
    rgba = rgb.copy()
    rgba.putalpha(7)
    rgba.save(tmp_path / "rgba.png")
    for name in ("rgb", "rgba"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), colours.transpose(2, 0, 1))
    rgb.quantize(8).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").shape == (3, 5, 7)
    Image.fromarray(colours[..., :2], "LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), colours[None, ..., 0])
    rgb.convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read_image(tmp_path / "bits.png"))) == {0, 1}


def test_colours_become_grey_for_a_network_of_one_channel(tmp_path, save):
    colours = np.zeros((2, 2, 3), np.uint8)
    colours[0, 0], colours[0, 1], colours[1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    save(tmp_path / "rgb.png", colours)
    [scan] = data.read(tmp_path).scans
    assert scan.load().image.shape == (3, 2, 2)
    np.testing.assert_allclose(scan.load(channels=1).image[0].flatten(), [0.299, 0.587, 0.114, 0])
    refused(tmp_path / "rgb.png", "rgb.png", "3 channels", "expected 2", read=lambda _: scan.load(channels=2))


def test_masks(tmp_path, save):
    classes = np.array([[0, 1], [2, 7]], np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", classes)), classes)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.nii", classes.astype(np.float32))), classes)
    many = classes.astype(np.uint16) * 300
    np.testing.assert_array_equal(read_mask(save(tmp_path / "c.png", many)), many)
    binary = np.array([[0, 255]], np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "d.png", binary)), [[0, 1]])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "e.png", np.zeros((1, 2), np.uint8))), [[0, 0]])
    palette = Image.fromarray(classes, "P")
    palette.putpalette([9, 9, 9] * 256)
    palette.save(tmp_path / "f.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "f.png"), classes)
    for wrong, said in ((0.5, "0.5"), (-1, "-1"), (np.nan, "nan"), (1e6, "1000000")):
        file = save(tmp_path / "wrong.nii", np.array([[0, wrong]], np.float32))
        refused(file, "wrong.nii", said, "class indices", read=read_mask)
    refused(save(tmp_path / "rgb.png", np.zeros((2, 2, 3), np.uint8)), "rgb.png", "one channel", read=read_mask)


def test_nifti_is_sliced_along_an_axis(tmp_path, save, rng):
    volume, mask = rng.random((4, 5, 6)).astype(np.float32), rng.integers(0, 3, (4, 5, 6), dtype=np.uint8)
    save(tmp_path / "x/v.nii.gz", volume)
    save(tmp_path / "y/v.nii.gz", mask)
    (tmp_path / "sets.csv").write_text("set,image,mask\nanna,x/v.nii.gz,y/v.nii.gz\n")
    for axis in range(3):
        collection = data.read(tmp_path, axis=axis)
        assert [scan.name for scan in collection.scans] == [f"x/v/{i:03d}" for i in range(volume.shape[axis])]
        assert {scan.subject for scan in collection.scans} == {"anna"}
        assert collection.labels == {1: "1", 2: "2"}
        for i, scan in enumerate(collection.scans):
            sample = scan.load()
            torch.testing.assert_close(sample.image[0], data.unit_range(torch.tensor(volume.take(i, axis))))
            np.testing.assert_array_equal(sample.mask, mask.take(i, axis))


def test_a_flat_nifti_is_one_image(tmp_path, save, rng):
    for shape in ((4, 5), (4, 5, 1), (4, 5, 1, 1)):
        save(tmp_path / "flat.nii", rng.random(shape).astype(np.float32))
        [scan] = data.read(tmp_path).scans
        assert scan.name == "flat"
        assert scan.load().image.shape == (1, 4, 5)
    save(tmp_path / "flat.nii", np.zeros((2, 3, 4, 5), np.float32))
    refused(tmp_path, "flat.nii", "(2, 3, 4, 5)", "2-D image or a 3-D volume")
    save(tmp_path / "flat.nii", np.zeros((4, 5), np.complex64))
    refused(tmp_path, "flat.nii", "complex64", read=read_and_load)


def test_sizes(tmp_path, save):
    picture = np.zeros((8, 8), np.uint8)
    picture[:, 4:] = 200
    save(tmp_path / "i.png", picture)
    save(tmp_path / "m.png", (picture > 0).astype(np.uint8) * 2)
    (tmp_path / "sets.csv").write_text("set,image,mask\na,i.png,m.png\n")
    sample = data.read(tmp_path).load(size=(4, 16))[0]
    assert sample.image.shape == (1, 4, 16)
    assert sample.mask.shape == (4, 16)
    assert sample.mask.dtype == torch.int16
    assert sample.stored_size == (8, 8)
    assert sample.mask.tolist() == [[0] * 8 + [2] * 8] * 4
    assert ((sample.image[0] > 0.5) == (sample.mask > 0)).all()


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


def test_the_order_of_scans_is_not_the_disks(nnunet, monkeypatch):
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
    refused(nnunet, "c_0001.nii.gz", "2 slices", "expected 3", read=data.read_nnunet, split="Ts")


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
        ("set,image,mask\ns,a.png,a.png", "a.png"),
        ('set,image\ns,"a.png\n', "sets.csv"),
    ],
)
def test_broken_sets_csv(tmp_path, save, text, word):
    save(tmp_path / "a.png", np.full((2, 2, 3), 9, np.uint8))
    (tmp_path / "sets.csv").write_text(text)
    refused(tmp_path, str(tmp_path), word)


def test_nothing_to_read(tmp_path):
    refused(tmp_path, "no images")
    refused(tmp_path / "nowhere", "nowhere")
    refused(tmp_path / "nowhere.npz", "nowhere.npz", "No such file")


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
    scans = data.read(tmp_path / "in", axis=1).scans
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


# Fuzzing: a file that was cut, spoiled or replaced is read right or refused with its name, whatever the libraries say


def mutations(good, rng):
    """Truncated at many lengths, single bytes and stretches spoiled, random bytes, nothing."""
    yield b""
    for length in np.unique(np.linspace(1, len(good) - 1, 40).astype(int)):
        yield good[:length]
    for _ in range(60):
        spoiled = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(min(len(good), 400) if rng.random() < 0.7 else len(good))
            spoiled[at : at + 2] = rng.bytes(rng.integers(1, 5))
        yield bytes(spoiled)
    for length in (1, 100, 400, 5000):
        yield rng.bytes(length)
    yield b"%PDF-1.7 not an image"


def read_or_refuse(path):
    """(samples, None) or (None, what the user is told)."""
    try:
        with np.errstate(all="ignore"):
            return data.read(path).load(), None
    except data.DataError as error:
        return None, str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".bmp", ".nii", ".nii.gz"])
def test_fuzzed_images_and_masks(tmp_path, save, rng, ending):
    lossless = ".png" if ending == ".jpg" else ending
    image = save(tmp_path / f"case{ending}", rng.integers(0, 200, (9, 11), dtype=np.uint8))
    mask = save(tmp_path / f"truth{lossless}", rng.integers(0, 3, (9, 11), dtype=np.uint8))
    (tmp_path / "sets.csv").write_text(f"set,image,mask\ns,{image.name},{mask.name}\n")
    assert read_or_refuse(tmp_path)[1] is None
    refusals = 0
    for target in (image, mask):
        good = target.read_bytes()
        packed = ending == ".nii.gz"
        for bad in mutations(gzip.decompress(good) if packed else good, rng):
            target.write_bytes(gzip.compress(bad, 1) if packed and rng.random() < 0.5 else bad)
            samples, refusal = read_or_refuse(tmp_path)
            for sample in samples or ():
                assert sample.image.isfinite().all()
                assert 0 <= sample.image.min() <= sample.image.max() <= 1
                assert sample.mask.shape == sample.image.shape[1:]
                assert sample.mask.min() >= 0
            if refusal is not None:
                refusals += 1
                assert refusal.startswith(str(tmp_path))
                assert "\n" not in refusal
        target.write_bytes(good)
    assert refusals > 50


def test_fuzzed_npz(tmp_path, rng, arrays):
    file = tmp_path / "toy.npz"
    np.savez_compressed(file, **{key: array[:3] for key, array in arrays.items()})
    good = file.read_bytes()
    for bad in mutations(good, rng):
        file.write_bytes(bad)
        _, refusal = read_or_refuse(file)
        assert refusal is None or refusal.startswith(str(file))


@pytest.mark.parametrize("name", ["sets.csv", "dataset.json"])
def test_fuzzed_tables(nnunet, rng, name):
    if name == "sets.csv":
        (nnunet / "dataset.json").unlink()
        lines = [f"s{i},imagesTr/{case}_000{i}.png,labelsTr/{case}.png\n" for case in "ab" for i in range(2)]
        (nnunet / name).write_text("set,image,mask\n" + "".join(lines))
    good = (nnunet / name).read_bytes()
    assert read_or_refuse(nnunet)[1] is None
    for bad in (*mutations(good, rng), good + b"s," + b"x" * 5000, good + b"s,a\0b", b"[" * 100_000):
        (nnunet / name).write_bytes(bad)
        _, refusal = read_or_refuse(nnunet)
        assert refusal is None or refusal.startswith(str(nnunet))


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64", "int8", "complex64", "rgb"])
def test_odd_dtypes_of_nifti(tmp_path, dtype):
    array = np.ones((4, 5, 3), [(c, "u1") for c in "RGB"] if dtype == "rgb" else dtype)
    nib.save(nib.Nifti1Image(array, np.eye(4), dtype=array.dtype), tmp_path / "odd.nii")
    if dtype in ("complex64", "rgb"):
        refused(tmp_path, "odd.nii", "expected real numbers", read=read_and_load)
    else:
        assert len(data.read(tmp_path).load()) == 3


# Real images, where they are at hand


@pytest.mark.skipif("INTERCONV_DATA" not in os.environ, reason="INTERCONV_DATA names no folder of .npz files")
def test_real_images():
    files = sorted(Path(os.environ["INTERCONV_DATA"]).glob("*.npz"))
    assert files
    for file in files:
        collection = data.read(file)
        samples = collection.load(channels=1)
        assert {sample.image.shape for sample in samples} == {samples[0].image.shape}
        assert data.by_task(samples, collection.labels)
        assert data.by_subject(samples)

"""One image or mask: intensities, colours, slices, sizes, dtypes."""

import nibabel as nib
import numpy as np
import pytest
import torch
from interconv_seg import data
from interconv_seg.data.files import read_image, read_mask
from PIL import Image
from seg_common import read_and_load, refused


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
    hot[[3, 4]] = 1e9  # two hot pixels do not change the rest
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


def test_jpeg_masks(tmp_path, rng):
    disc = np.zeros((64, 64), np.uint8)
    disc[20:40, 15:50] = 255
    Image.fromarray(disc).save(tmp_path / "m.jpg", quality=95)
    assert len(np.unique(np.array(Image.open(tmp_path / "m.jpg")))) > 2
    np.testing.assert_array_equal(read_mask(tmp_path / "m.jpg"), disc // 255)
    Image.fromarray(disc // 255 * 3).save(tmp_path / "m.jpg")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.jpg"), 0 * disc)
    Image.fromarray(rng.integers(0, 31, (64, 64), dtype=np.uint8) * 8).save(tmp_path / "m.jpg")
    refused(tmp_path / "m.jpg", "m.jpg", "a JPEG mask with", "PNG", read=read_mask)


def test_pipes_and_huge_images_are_refused_at_once(tmp_path, monkeypatch):
    import os

    for name in ("p.png", "p.nii", "p.npz"):
        os.mkfifo(tmp_path / name)
    for name, read in (("p.png", read_image), ("p.nii", read_image), ("p.npz", data.read)):
        refused(tmp_path / name, name, "not a regular file", read=read)
    monkeypatch.setattr(data.errors, "MAX_VALUES", 11)
    Image.new("L", (4, 3)).save(tmp_path / "i.png")
    refused(tmp_path / "i.png", "i.png", "4x3 values, expected at most 11", read=read_image)
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 3), np.uint8), np.eye(4)), tmp_path / "i.nii")
    refused(tmp_path / "i.nii", "i.nii", "2x2x3 values", read=lambda path: read_image(path, 0))


def test_nifti_is_sliced_along_an_axis(tmp_path, save, rng):
    volume, mask = rng.random((4, 5, 6)).astype(np.float32), rng.integers(0, 3, (4, 5, 6), dtype=np.uint8)
    save(tmp_path / "x/v.nii.gz", volume)
    save(tmp_path / "y/v.nii.gz", mask)
    (tmp_path / "sets.csv").write_text("set,image,mask\nanna,x/v.nii.gz,y/v.nii.gz\n")
    for axis, name in enumerate(("sagittal", "coronal", "axial")):
        collection = data.read(tmp_path, axis=name)
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


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64", "int8", "complex64", "rgb"])
def test_odd_dtypes_of_nifti(tmp_path, dtype):
    array = np.ones((4, 5, 3), [(c, "u1") for c in "RGB"] if dtype == "rgb" else dtype)
    nib.save(nib.Nifti1Image(array, np.eye(4), dtype=array.dtype), tmp_path / "odd.nii")
    if dtype in ("complex64", "rgb"):
        refused(tmp_path, "odd.nii", "expected real numbers", read=read_and_load)
    else:
        assert len(data.read(tmp_path).load()) == 3

"""Orientation and position of NIfTI files: an image and its mask are compared in space, not by their arrays."""

import nibabel as nib
import numpy as np
import pytest
from interconv_seg import data
from interconv_seg.data import nifti
from nibabel.orientations import aff2axcodes
from seg_common import refused

AFFINE = np.array([[0.5, 0, 0, -7], [0, 2.0, 0, 8], [0, 0, 3.0, 9], [0, 0, 0, 1]])


def stored(array, codes, affine=AFFINE):
    """The same image with its axes stored as `codes`, such as "LAS"."""
    image = nib.Nifti1Image(array, affine)
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    return image.as_reoriented(change)


@pytest.fixture
def pair(tmp_path, rng):
    """Writes an image and a mask in their own orientations, and returns the folder and both arrays in RAS."""

    def write(image_codes, mask_codes, mask_affine=AFFINE, shape=(4, 5, 6)):
        volume, mask = rng.random(shape).astype(np.float32), rng.integers(0, 3, shape).astype(np.uint8)
        nib.save(stored(volume, image_codes), tmp_path / "v.nii.gz")
        nib.save(stored(mask, mask_codes, mask_affine), tmp_path / "m.nii.gz")
        (tmp_path / "sets.csv").write_text("set,image,mask\na,v.nii.gz,m.nii.gz\n")
        return tmp_path, volume, mask

    return write


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPI", "SRA", "PIR"])
@pytest.mark.parametrize("axis", nifti.AXES)
def test_slices_are_anatomical_whatever_the_orientations(pair, codes, axis):
    folder, volume, mask = pair("RAS" if codes == "LAS" else "LAS", codes)
    along = nifti.AXES.index(axis)
    scans = data.read(folder, axis=axis).scans
    assert len(scans) == volume.shape[along]
    for i, scan in enumerate(scans):
        np.testing.assert_array_equal(scan.image_readers[0]()[0], volume.take(i, along))
        np.testing.assert_array_equal(scan.mask_reader(), mask.take(i, along))


@pytest.mark.parametrize("codes", ["RAS", "LAS", "SRA"])
@pytest.mark.parametrize("flat", [False, True])
def test_masks_are_written_in_the_orientation_of_their_image(pair, tmp_path, codes, flat):
    folder, _, mask = pair(codes, "LPS", shape=(4, 5, 1) if flat and codes != "SRA" else (4, 5, 6))
    scans = data.read(folder, axis="coronal").scans
    [file] = data.write_masks(tmp_path / "out", scans, [torch_of(scan.mask_reader()) for scan in scans])
    image, found = nib.load(folder / "v.nii.gz"), nib.load(file)
    np.testing.assert_array_equal(found.affine, image.affine)
    assert aff2axcodes(found.affine) == tuple(codes)
    assert found.shape == image.shape
    np.testing.assert_array_equal(np.asarray(nib.as_closest_canonical(found).dataobj), mask)


def torch_of(array):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def moved(shift=(0, 0, 0), scale=1.0):
    affine = AFFINE.copy()
    affine[:3, 3] += shift
    affine[:3, :3] *= scale
    return affine


def test_pairs_that_do_not_lie_in_one_place_are_refused(pair):
    for affine, word in (
        (moved(shift=(100, 0, 0)), "100 mm"),
        (moved(scale=2.0), "voxels of 1x4x6 and 0.5x2x3 mm"),
        (moved(shift=(0.06, 0, 0)), "mm apart"),
    ):
        folder, *_ = pair("RAS", "LAS", affine)
        refused(folder, "v.nii.gz", "m.nii.gz", word)
    pair("RAS", "LAS", moved(shift=(0.04, 0, 0)))
    assert len(data.read(folder).scans) == 6


def test_pairs_of_other_shapes_are_refused(pair, save):
    folder, _, mask = pair("RAS", "RAS")
    save(folder / "m.nii.gz", mask[:, :4], AFFINE)
    refused(folder, "m.nii.gz", "4x4x6 voxels", "expected 4x5x6", "v.nii.gz")
    save(folder / "m.nii.gz", mask[:, :, 0], AFFINE)
    refused(folder, "m.nii.gz", "4x5x1 (a 2-D image) voxels", "expected 4x5x6")


def test_a_mask_without_a_place_lies_where_its_image_lies(pair):
    folder, volume, mask = pair("RAS", "RAS")
    image = nib.Nifti1Image(mask, None)  # nibabel takes such files as LAS
    assert image.header["sform_code"] == image.header["qform_code"] == 0
    nib.save(image, folder / "m.nii.gz")
    for i, scan in enumerate(data.read(folder).scans):
        np.testing.assert_array_equal(scan.image_readers[0]()[0], volume[..., i])
        np.testing.assert_array_equal(scan.mask_reader(), mask[..., i])


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_affine_that_cannot_be_inverted_is_refused(tmp_path, affine):
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), None)
    image.header.set_sform(affine, code=1)
    image.to_filename(tmp_path / "v.nii")
    with open(tmp_path / "v.nii", "r+b") as file:  # nibabel would not write it
        file.seek(252)
        file.write(np.array([0, 1], "<i2").tobytes())
        file.seek(280)
        file.write(affine[:3].astype("<f4").tobytes())
    refused(tmp_path, "v.nii", "affine")


def test_the_spacing_is_known(pair):
    folder, *_ = pair("SRA", "RAS")
    assert nifti.grid(folder / "v.nii.gz").spacing == (0.5, 2.0, 3.0)

"""DICOM series become NIfTI volumes at the same place, with the same intensities."""

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("pydicom", reason="the environment of the integrations has no pydicom")
import pydicom
from interconv_seg import data
from interconv_seg.cli import main
from interconv_seg.data.dicom import convert_dicom
from pydicom.dataset import FileDataset, FileMetaDataset
from seg_common import refused

AXES = np.array([[0.0, 1, 0], [0, 0, -1]])  # columns run to the back, rows to the feet: a sagittal series
SPACING = (0.5, 0.8)  # of rows and columns, as PixelSpacing has it
ORIGIN, STEP = np.array([-20.0, 30, 40]), np.array([-3.0, 0, 0])  # along the cross product of the axes


def write_slice(path, i, pixels, series="1.2.3", **changes):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.9.{i}"
    image = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.PatientID, image.SeriesNumber, image.SeriesInstanceUID = "Doe/../Jane", 7, series
    image.Rows, image.Columns = pixels.shape
    image.PixelSpacing, image.ImageOrientationPatient = list(SPACING), AXES.flatten().tolist()
    image.ImagePositionPatient = (ORIGIN + i * STEP).tolist()
    image.RescaleSlope, image.RescaleIntercept, image.SamplesPerPixel = 2, -100, 1
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PhotometricInterpretation, image.PixelData = "MONOCHROME2", pixels.astype(np.uint16).tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(image, name)
        else:
            setattr(image, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path, rng):
    """Five slices, whose files are not in the order of their positions."""
    pixels = rng.integers(0, 4000, (5, 6, 4))
    for i in range(5):
        write_slice(tmp_path / f"study/deep/{(7 * i) % 5}.dcm", i, pixels[i])
    (tmp_path / "study/notes.txt").write_text("not an image")
    return tmp_path / "study", pixels


def test_a_series_becomes_a_volume_at_its_place(series, tmp_path, rng):
    folder, pixels = series
    [file] = convert_dicom(folder, tmp_path / "out")
    assert file == tmp_path / "out/Doe_.._Jane_007.nii.gz"
    volume = nib.load(file)
    assert volume.shape == (4, 6, 5)
    np.testing.assert_array_equal(np.asarray(volume.dataobj), 2.0 * pixels.transpose(2, 1, 0) - 100)
    for column, row, i in rng.integers(0, 4, (9, 3)):
        # The equation of the DICOM standard (C.7.6.2.1.1), whose axes run to the left, the back and the head.
        lps = ORIGIN + i * STEP + column * SPACING[1] * AXES[0] + row * SPACING[0] * AXES[1]
        np.testing.assert_allclose(volume.affine @ [column, row, i, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-6)
    assert (tmp_path / "out/sets.csv").read_text() == f'set,image\n"Doe_.._Jane",{file.name}\n'
    scans = data.read(tmp_path / "out", axis="sagittal").scans
    assert [scan.subject for scan in scans] == ["Doe_.._Jane"] * 5


def test_two_series_of_a_patient_are_one_set(series, tmp_path, capsys):
    folder, pixels = series
    write_slice(folder / "other.dcm", 0, pixels[0], "1.2.99")
    assert main(["dicom", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "2 series" in capsys.readouterr().out
    assert len(data.read(tmp_path / "out", axis="sagittal").sets()) == 1
    assert main(["dicom", str(folder), "--out", str(tmp_path / "out")]) == 2  # nothing is replaced
    assert "exists, expected a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"ImagePositionPatient": [-20.0, 30, 41]}, "mm from the slice before"),
        ({"ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0]}, "another orientation"),
        ({"PixelSpacing": [1.0, 1.0]}, "size and spacing"),
        ({"PixelData": b"12"}, "cannot be read as a DICOM image"),
    ],
)
def test_a_series_that_is_no_volume_is_refused(series, tmp_path, changes, word):
    folder, pixels = series
    write_slice(folder / "deep/4.dcm", 2, pixels[2], **changes)
    refused(folder, ".dcm", word, read=lambda path: convert_dicom(path, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*"))


def test_folders_without_series_are_refused(tmp_path):
    (tmp_path / "text.dcm").write_text("no DICOM")
    refused(tmp_path, "no DICOM images", read=lambda path: convert_dicom(path, tmp_path / "out"))
    refused(tmp_path / "none", "no such folder", read=lambda path: convert_dicom(path, tmp_path / "out"))

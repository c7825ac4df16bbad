import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def save():
    """Writes an array in the format of the file's ending, with nibabel or Pillow."""

    def save(path, array, affine=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith((".nii", ".nii.gz")):
            nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        else:
            Image.fromarray(array).save(path)
        return path

    return save


@pytest.fixture
def nnunet(tmp_path, save, rng):
    """An nnU-Net raw folder of two cases of two channels, 8 x 10 PNG."""
    folder = tmp_path / "Dataset001_Toy"
    folder.mkdir()
    about = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "grey": 1, "white": 2},
        "numTraining": 2,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    for case in ("b", "a"):
        for channel in range(2):
            save(folder / f"imagesTr/{case}_{channel:04d}.png", rng.integers(0, 256, (8, 10), dtype=np.uint8))
        save(folder / f"labelsTr/{case}.png", rng.integers(0, 3, (8, 10), dtype=np.uint8))
    return folder


@pytest.fixture
def arrays(rng):
    """The arrays of an .npz of 12 images of 3 subjects."""
    ids = [f"s{i // 4}/{'axial' if i % 2 else 'coronal'}/{i}" for i in range(12)]
    return {
        "images": rng.integers(0, 256, (12, 16, 20), dtype=np.uint8),
        "labels": rng.integers(0, 3, (12, 16, 20), dtype=np.uint8),
        "ids": np.array(ids),
        "label_names": np.array(["background", "grey", "white"]),
    }

"""The slices of volumes that are used."""

import nibabel as nib
import numpy as np
import pytest
from interconv_seg import data


@pytest.fixture
def volumes(tmp_path, save):
    """Two volumes of 7 and 2 slices with masks, and a picture."""
    lines = ["set,image,mask"]
    for name, count in (("v", 7), ("w", 2)):
        mask = np.zeros((4, 5, count), np.uint8)
        mask[:2, :, 1], mask[:, :, 0] = 1, np.eye(4, 5)
        save(tmp_path / f"{name}.nii", np.arange(20 * count, dtype=np.float32).reshape(4, 5, count))
        save(tmp_path / f"{name}_mask.nii", mask)
        lines.append(f"s,{name}.nii,{name}_mask.nii")
    save(tmp_path / "p.png", np.zeros((4, 5), np.uint8))
    (tmp_path / "sets.csv").write_text("\n".join([*lines, "s,p.png,"]) + "\n")
    return data.read(tmp_path)


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("all", ["v/000", "v/001", "v/002", "v/003", "v/004", "v/005", "v/006", "w/000", "w/001", "p"]),
        ("middle", ["v/003", "w/001", "p"]),
        ("largest", ["v/001", "w/001", "p"]),
        ("every:3", ["v/001", "v/004", "w/001", "p"]),
        ("every:9", ["v/004", "w/001", "p"]),
    ],
)
def test_rules(volumes, rule, chosen):
    assert [scan.name for scan in data.select_slices(volumes, rule).scans] == chosen


@pytest.mark.parametrize("rule", ["", "every", "every:0", "every:-1", "every:x", "first", "all:2"])
def test_unknown_rules(volumes, rule):
    with pytest.raises(ValueError, match="expected all, middle, largest or every:N"):
        data.select_slices(volumes, rule)


def test_the_largest_needs_masks(tmp_path, save):
    save(tmp_path / "v.nii", np.zeros((4, 5, 3), np.float32))
    with pytest.raises(data.DataError, match=r"v\.nii: no mask"):
        data.select_slices(data.read(tmp_path), "largest")


def test_chosen_slices_are_written_into_one_volume(volumes, tmp_path):
    import torch

    scans = data.select_slices(volumes, "every:3").scans[:2]
    [file] = data.write_masks(tmp_path / "out", scans, [torch.full((4, 5), 3), torch.full((4, 5), 4)])
    found = np.asarray(nib.load(file).dataobj)
    assert [int(found[..., i].max()) for i in range(7)] == [0, 3, 0, 0, 4, 0, 0]

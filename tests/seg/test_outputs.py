"""Outputs lie where the user said, and never replace an input."""

import numpy as np
import pytest
import torch
from interconv_seg import data


def images(folder, save, *names):
    for name in names:
        save(folder / name, np.full((4, 5), 9, np.uint8))
    return folder


def masks_of(scans):
    return [torch.ones(4, 5, dtype=torch.long) for _ in scans]


@pytest.mark.parametrize("name", ["../{}/a.png", "/{}/a.png", "sub/../../{}/a.png"])
def test_names_of_images_do_not_lead_outside(tmp_path, save, name):
    other = images(tmp_path / "elsewhere", save, "a.png")
    folder = images(tmp_path / "data", save, "b.png")
    (folder / "sub").mkdir()
    listed = name.format(str(other)[1:] if name.startswith("/") else "elsewhere")
    (folder / "sets.csv").write_text(f"set,image\ns,{listed}\n")
    scans = data.read(folder).scans
    [written] = data.write_masks(tmp_path / "out", scans, masks_of(scans))
    assert written.resolve().is_relative_to(tmp_path / "out")
    assert written.exists()
    assert written.name == "a.png"
    assert torch.from_numpy(np.array(data.files.read_mask(other / "a.png"))).unique().tolist() == [9]


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../../x", "C:\\x", "..\\..\\x"])
def test_ids_in_archives_do_not_lead_outside(tmp_path, arrays, name):
    arrays["ids"] = np.array([name, *arrays["ids"][1:]])
    np.savez(tmp_path / "toy.npz", **arrays)
    scans = data.read(tmp_path / "toy.npz").scans
    written = data.write_masks(tmp_path / "deep/out", scans, [torch.zeros(16, 20) for _ in scans])
    assert len(written) == 12
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == {*written, tmp_path / "toy.npz"}
    assert all(file.resolve().is_relative_to(tmp_path / "deep/out") for file in written)


@pytest.mark.parametrize("name", ["..", "", "a\x00b", "a\nb"])
def test_impossible_names_are_refused(tmp_path, arrays, name):
    arrays["ids"] = np.array([name + "\x01" if name.startswith("a\x00") else name, *arrays["ids"][1:]])
    np.savez(tmp_path / "toy.npz", **arrays)
    with pytest.raises(data.DataError, match="printable name"):
        data.read(tmp_path / "toy.npz")


def test_inputs_are_never_replaced(tmp_path, save):
    folder = images(tmp_path / "data", save, "a.png", "truth/a.png")
    (folder / "sets.csv").write_text("set,image,mask\ns,a.png,truth/a.png\n")
    scans = data.read(folder).scans
    (tmp_path / "link").symlink_to(folder / "truth")
    for out in (folder, folder / "truth", tmp_path / "link"):
        for overwrite in (False, True):
            with pytest.raises(data.DataError, match=r"a\.png: is one of the inputs"):
                data.write_masks(out, scans, masks_of(scans), overwrite)
    with pytest.raises(data.DataError, match="is one of the inputs"):
        data.check_outputs(tmp_path / "prompts", scans, inputs=[tmp_path / "prompts/a.png"])


def test_links_inside_the_folder_do_not_lead_outside(tmp_path, save):
    folder = images(tmp_path / "data", save, "sub/a.png")
    (folder / "sets.csv").write_text("set,image\ns,sub/a.png\n")
    scans = data.read(folder).scans
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(data.DataError, match="expected a file inside"):
        data.write_masks(tmp_path / "out", scans, masks_of(scans), overwrite=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_masks_of_an_earlier_call_are_kept_unless_told(tmp_path, save):
    folder = images(tmp_path / "data", save, "a.png", "b.png")
    scans = data.read(folder).scans
    [first, _] = data.write_masks(tmp_path / "out", scans, masks_of(scans))
    before = first.read_bytes()
    with pytest.raises(data.DataError, match=r"a\.png: exists, expected a new folder \(or --overwrite\)"):
        data.write_masks(tmp_path / "out", scans, [mask * 2 for mask in masks_of(scans)])
    assert first.read_bytes() == before
    data.write_masks(tmp_path / "out", scans, [mask * 2 for mask in masks_of(scans)], overwrite=True)
    assert first.read_bytes() != before

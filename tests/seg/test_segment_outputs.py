"""Windows, test-time augmentation and maps: what `segment` can do beyond one mask from one whole image."""

import json
from dataclasses import dataclass, replace
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch
from interconv_seg import data
from interconv_seg.cli import main
from interconv_seg.config import Config
from interconv_seg.inference import Ensemble, Segmentation, segment
from interconv_seg.runs import Run
from PIL import Image
from seg_common import BINARY, CLASSES

import interconv_kernels as ik


@dataclass(frozen=True, eq=False)
class FakeRun:
    """A run whose network is given."""

    network: torch.nn.Module
    config: Config
    folder: str = "fake"


class Pointwise(torch.nn.Module):
    """Each pixel's logits depend on that pixel of all images of the set, and on nothing else."""

    def forward(self, x, sets):
        mean = torch.cat([part.mean(0, keepdim=True).expand_as(part) for part in x.split(list(sets.lengths))])
        return torch.cat([x, 3 * mean, x * mean - 1], dim=1)


class Shifted(torch.nn.Module):
    """Looks at the left neighbour: not equivariant to flips."""

    def forward(self, x, sets):
        return torch.cat([x.roll(1, 3), 1 - x, 0 * x], dim=1)


def ensemble(network, config=CLASSES, **options):
    return Ensemble([FakeRun(network, replace(config, labels={1: "a", 2: "b"}))], **options)


def folder_of(tmp_path, save, rng, shapes):
    for i, shape in enumerate(shapes):
        save(tmp_path / f"images/{i}.png", rng.integers(0, 256, shape, dtype=np.uint8))
    [scans] = data.read(tmp_path / "images").sets()
    return scans


def stored(scans):
    """The images as they are, without the network's size."""
    return torch.stack([scan.load().image for scan in scans])


def test_windows_of_a_pointwise_network_equal_the_whole_image(tmp_path, save, rng):
    scans = folder_of(tmp_path, save, rng, [(75, 50)] * 3)
    results = list(segment(ensemble(Pointwise(), window=(32, 20)), scans))
    expected = Pointwise()(stored(scans), ik.Sets.from_lengths([3])).softmax(1)
    for found, wanted in zip(results, expected, strict=True):
        assert found.probabilities.shape == (3, 75, 50)
        torch.testing.assert_close(found.probabilities, wanted, rtol=1e-5, atol=1e-6)


def test_a_window_is_the_same_place_of_all_images_of_a_set(tmp_path, save, rng):
    seen = []

    class Recording(Pointwise):
        def forward(self, x, sets):
            seen.append((x, sets.lengths))
            return super().forward(x, sets)

    scans = folder_of(tmp_path, save, rng, [(40, 30)] * 2)
    list(segment(ensemble(Recording(), window=(16, 30)), scans))
    images = stored(scans)
    places = []
    for x, lengths in seen:
        assert set(lengths) == {2}
        for pair in x.split(2):
            [start] = [i for i in range(25) if torch.equal(images[:, :, i : i + 16], pair)]
            places.append(start)
    assert sorted(places) == [0, 8, 16, 24]


def test_images_of_a_set_with_several_sizes_get_one_size_for_windows(tmp_path, save, rng):
    scans = folder_of(tmp_path, save, rng, [(40, 20), (20, 36), (40, 36)])
    sizes = set()

    class Recording(Pointwise):
        def forward(self, x, sets):
            sizes.add(tuple(x.shape[2:]))
            return super().forward(x, sets)

    results = list(segment(ensemble(Recording(), window=(256, 256)), scans))
    assert sizes == {(40, 36)}
    assert [tuple(found.mask.shape) for found in results] == [(40, 20), (20, 36), (40, 36)]


def test_flips_of_an_equivariant_network_change_nothing(tmp_path, save, rng):
    scans = folder_of(tmp_path, save, rng, [(16, 16)] * 2)
    plain, flipped = (list(segment(ensemble(Pointwise(), flips=on), scans)) for on in (False, True))
    for a, b in zip(plain, flipped, strict=True):
        torch.testing.assert_close(a.probabilities, b.probabilities, rtol=1e-6, atol=1e-6)


def test_flips_are_averaged_after_they_are_undone(tmp_path, save, rng):
    scans = folder_of(tmp_path, save, rng, [(16, 16)] * 2)
    results = list(segment(ensemble(Shifted(), flips=True), scans))
    x = stored(scans)
    expected = 0
    for up, left in product((False, True), repeat=2):
        axes = [axis for axis, on in ((2, up), (3, left)) if on]
        expected = expected + Shifted()(x.flip(axes), None).softmax(1).flip(axes) / 4
    for found, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(found.probabilities, wanted, rtol=1e-5, atol=1e-6)
    [plain, _] = segment(ensemble(Shifted()), scans)
    assert (plain.probabilities - results[0].probabilities).abs().max() > 0.05


def test_prompts_are_flipped_and_cut_with_their_images(tmp_path, save, rng):
    class Prompts(torch.nn.Module):
        def forward(self, x, sets):
            return 20 * (x[:, 1:2] - 0.5)

    scans = folder_of(tmp_path, save, rng, [(40, 40)] * 2)
    drawn = torch.zeros(2, 40, 40)
    drawn[0, 3:9, 20:31] = 1
    [first, second] = segment(ensemble(Prompts(), BINARY, window=(16, 16), flips=True), scans, [drawn, None])
    assert torch.equal(first.mask.float(), drawn[0])
    assert not second.mask.any()


def test_small_windows_are_refused():
    with pytest.raises(ValueError, match=r"window = \(8, 64\): expected at least 16 pixels"):
        ensemble(Pointwise(), window=(8, 64))


def test_uncertainty_is_the_entropy_between_0_and_1():
    p = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]).T[:, None]
    found = Segmentation(None, p, p.argmax(0)).uncertainty
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, np.log(2) / np.log(3)]], dtype=torch.float32))


@pytest.fixture
def volumes(tmp_path, save, rng):
    """A folder of two volumes and a picture, the first in another orientation than canonical; and a run."""
    affine = np.array([[0, 0, 2.5, 4], [-0.7, 0, 0, 5], [0, 1.3, 0, 6], [0, 0, 0, 1.0]])
    save(tmp_path / "d/a.nii.gz", rng.normal(90, 9, (12, 9, 5)).astype(np.float32), affine)
    save(tmp_path / "d/b.nii", rng.integers(0, 99, (10, 11, 4)).astype(np.int16))
    save(tmp_path / "d/c.png", rng.integers(0, 256, (14, 8), dtype=np.uint8))
    config = replace(CLASSES, labels={3: "left", 9: "right"}, set_sizes=None, interconv="replace")
    config.write(tmp_path / "run")
    from interconv_seg.checkpoints import save_checkpoint

    save_checkpoint(tmp_path / "run/best.pt", {"network": config.new_network().state_dict()})
    return tmp_path


def segmented(folder, *options):
    arguments = ["segment", folder / "run", "--data", folder / "d", "--out", folder / "m", "--device", "cpu", *options]
    return main([str(a) for a in arguments])


def expected_of(folder, limit=None):
    """Probabilities by Python, for each case: canonical volumes [classes,X,Y,Z], or [classes,H,W]."""
    found = Ensemble([Run.open(folder / "run")])
    [scans] = data.read(folder / "d").sets()
    cases = {}
    for result in segment(found, scans, max_set_size=limit):
        cases.setdefault(result.scan.case, []).append(result.probabilities.numpy())
    return {case: np.stack(slices, -1) if len(slices) > 1 else slices[0] for case, slices in cases.items()}


def test_maps_of_volumes_lie_where_their_images_lie(volumes):
    assert segmented(volumes, "--save", "probabilities", "uncertainty") == 0
    files = {str(f.relative_to(volumes / "m")) for f in (volumes / "m").rglob("*") if f.is_file()}
    masks = {"a.nii.gz", "b.nii", "c.png"}
    maps = {f"probabilities/{name}" for name in ("a.nii.gz", "b.nii", "c.npz")} | {f"uncertainty/{n}" for n in masks}
    assert files == masks | maps | {"labels.json"}
    assert json.loads((volumes / "m/labels.json").read_text()) == {"0": "background", "3": "left", "9": "right"}
    expected = expected_of(volumes)
    for name in ("a.nii.gz", "b.nii"):
        source = nib.load(volumes / "d" / name)
        for kind, classes in (("probabilities", (3,)), ("uncertainty", ())):
            image = nib.load(volumes / "m" / kind / name)
            assert image.shape == (*source.shape, *classes)
            np.testing.assert_allclose(image.affine, source.affine)
            assert image.get_data_dtype() == np.uint16
            canonical = nib.as_closest_canonical(image).get_fdata()
            wanted = np.moveaxis(expected[name.split(".")[0]], 0, -1)
            if kind == "uncertainty":
                wanted = -(wanted * np.log(wanted)).sum(-1) / np.log(3)
            np.testing.assert_allclose(canonical, wanted, atol=1e-5)
        mask = nib.as_closest_canonical(nib.load(volumes / "m" / name))
        assert np.array_equal(mask.get_fdata(), np.array([0, 3, 9])[expected[name.split(".")[0]].argmax(0)])
    with np.load(volumes / "m/probabilities/c.npz") as archive:
        assert archive["probabilities"].dtype == np.float16
        np.testing.assert_allclose(archive["probabilities"], expected["c"], atol=1e-3)
        assert archive["classes"].tolist() == ["background", "left", "right"]
    with Image.open(volumes / "m/uncertainty/c.png") as picture:
        p = expected["c"]
        np.testing.assert_allclose(np.array(picture) / 65535, -(p * np.log(p)).sum(0) / np.log(3), atol=1e-5)


def test_slices_of_a_volume_in_sets_of_bounded_size_give_one_volume(volumes, capsys):
    assert segmented(volumes, "--max-set-size", "4", "--slices", "all") == 0
    assert "14 images in 1 set (subject), at most 4 together: 3 masks" in capsys.readouterr().out
    expected = expected_of(volumes, limit=4)
    mask = nib.as_closest_canonical(nib.load(volumes / "m/a.nii.gz")).get_fdata()
    assert np.array_equal(mask, np.array([0, 3, 9])[expected["a"].argmax(0)])


def test_nothing_is_written_if_anything_is_wrong(volumes, save, capsys):
    (volumes / "d/z.png").write_bytes(b"no picture")
    assert segmented(volumes, "--save", "uncertainty") == 2
    assert "z.png" in capsys.readouterr().err
    assert not (volumes / "m").exists()
    (volumes / "d/z.png").unlink()
    for options, message in (
        (["--window", "8x8"], "window = (8, 8)"),
        (["--prompts", volumes / "d"], "expected no prompts"),
        (["--slices", "some"], "slices = 'some'"),
    ):
        assert segmented(volumes, *options) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit):
        segmented(volumes, "--window", "wide")
    assert "--window" in capsys.readouterr().err
    assert not (volumes / "m").exists()
    (volumes / "m").write_text("a file")
    assert segmented(volumes) == 2
    assert "m: is no folder" in capsys.readouterr().err


def test_maps_are_checked_like_masks(volumes, save, rng, capsys):
    save(volumes / "m/uncertainty/c.png", np.zeros((2, 2), np.uint8))
    assert segmented(volumes, "--save", "uncertainty") == 2
    assert "uncertainty/c.png: exists" in capsys.readouterr().err
    assert not (volumes / "m/c.png").exists()
    save(volumes / "d/uncertainty/c.png", rng.integers(0, 256, (14, 8), dtype=np.uint8))
    (volumes / "d/sets.csv").write_text("set,image\ns,c.png\ns,uncertainty/c.png\n")
    assert segmented(volumes, "--save", "uncertainty", "--overwrite") == 2
    assert "would be the file of c and of uncertainty/c" in capsys.readouterr().err


def test_masks_of_other_labels_are_not_mixed(volumes, save, rng, capsys):
    assert segmented(volumes) == 0
    for file in (volumes / "d").iterdir():
        file.unlink()
    save(volumes / "d/new.png", rng.integers(0, 256, (14, 8), dtype=np.uint8))
    assert segmented(volumes) == 0  # further images of the same labels
    (volumes / "d/new.png").rename(volumes / "d/newer.png")
    (volumes / "m/labels.json").write_text("{}")
    assert segmented(volumes) == 2
    assert "labels.json: names other labels" in capsys.readouterr().err


def test_slices_that_do_not_follow_each_other_are_not_lost(volumes):
    [scans] = data.read(volumes / "d").sets()
    first, second = (next(i for i, s in enumerate(scans) if s.case == case) for case in "ab")
    mixed = [scans[first], scans[second], scans[first + 1]]
    found = segment(Ensemble([Run.open(volumes / "run")]), mixed)
    with pytest.raises(data.DataError, match="slices of a do not follow each other"):
        data.write_segmentations(volumes / "m", found)

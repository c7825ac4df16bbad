"""`interconv init`, and the commands that it prints."""

import shlex

import nibabel as nib
import numpy as np
from interconv_seg import data
from interconv_seg.cli import main


def test_the_commands_that_it_prints_run(tmp_path, capsys):
    folder = tmp_path / "example"
    assert main(["init", str(folder)]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  interconv")]
    assert len(commands) == 3
    fewer = ["--network", "simpleunet", "--features", "2", "--steps", "2", "--interval", "2", "--device", "cpu"]
    for command in commands:
        _, name, *options = shlex.split(command)
        assert main([name, *options, *(fewer if name == "train" else [])]) == 0
    for contrast in ("t1", "t2"):
        mask, image = (nib.load(folder / f"{place}/new_{contrast}.nii.gz") for place in ("masks", "new_patient"))
        assert mask.shape == image.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
    assert "organ" in (folder / "results/summary.md").read_text() + (folder / "results/scores.csv").read_text()


def test_the_example_is_the_same_each_time_and_never_replaces_anything(tmp_path, capsys):
    for name in ("one", "other"):
        assert main(["init", str(tmp_path / name)]) == 0
    one, other = (data.read(tmp_path / name / "scans") for name in ("one", "other"))
    assert len(one.sets()) == 12
    assert one.labels == {1: "1", 2: "2"}
    for scan, twin in zip(one.scans[::7], other.scans[::7], strict=True):
        assert np.array_equal(scan.load().image, twin.load().image)
        assert np.array_equal(scan.load().mask, twin.load().mask)
    assert main(["init", str(tmp_path / "one")]) == 2
    assert "exists, expected a new folder" in capsys.readouterr().err

"""What the page exports, made again or read back by others."""

import nibabel as nib
import numpy as np
import pytest
from interconv_seg.cli import main
from interconv_seg.interactive import Model, Session
from interconv_seg.interactive.export import Choice, export
from interconv_seg.page.sources import file_scans
from page_common import follower
from PIL import Image

TINY = "--network simpleunet --interconv replace --features 2 --size 32x32 --steps 2 --interval 1 --sets-per-batch 2"


def test_the_command_makes_the_masks_again_from_the_exported_prompts(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    lines = ["set,image,mask"]
    for i in range(10):
        mask = np.zeros((40, 48), np.uint8)
        mask[10:30, 10 + i % 3 : 30] = 1
        Image.fromarray(mask).save(tmp_path / f"scans/m{i}.png")
        Image.fromarray((90 * mask + random.normal(80, 9, mask.shape)).astype(np.uint8)).save(
            tmp_path / f"scans/x{i}.png"
        )
        lines.append(f"s{i},x{i}.png,m{i}.png")
    (tmp_path / "scans/sets.csv").write_text("\n".join(lines))
    (tmp_path / "new").mkdir()
    for i in range(4):
        (tmp_path / f"new/x{i}.png").write_bytes((tmp_path / f"scans/x{i}.png").read_bytes())
    run = tmp_path / "run"
    train = ["train", "--mode", "interactive", "--data", str(tmp_path / "scans"), "--out", str(run), *TINY.split()]
    assert main(train) == 0
    model = Model.open([run / "seed0"])
    session = Session(tmp_path / "new", model).stroke(0, [(14, 14), (25, 22)]).stroke(1, [(2, 2)], positive=False)
    export(session, tmp_path / "exported", Choice(threshold=0.5))
    prompts = tmp_path / "exported/prompts/1-structure-1"
    command = ["segment", str(run / "seed0"), "--data", str(tmp_path / "new"), "--prompts", str(prompts)]
    assert main([*command, "--out", str(tmp_path / "again")]) == 0
    found = [np.array(Image.open(tmp_path / f"again/x{i}.png")) for i in range(4)]
    assert 0 < np.mean(found) < 1
    for i, mask in enumerate(found):
        assert (mask == np.array(Image.open(tmp_path / f"exported/masks/labels/x{i}.png"))).all()


def test_a_volume_comes_back_as_a_volume_with_its_affine(tmp_path):
    affine = np.array([[-2.0, 0, 0, 10], [0, 0, 3, -4], [0, 1.5, 0, 7], [0, 0, 0, 1]])
    values = np.random.default_rng(0).normal(100, 20, (20, 4, 24)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "v.nii.gz")
    scans, _ = file_scans([tmp_path / "v.nii.gz"], [])
    session = Session(scans, follower()).stroke(1, [(8, 8), (12, 9)])
    export(session, tmp_path / "out", Choice())
    for name in ("masks/labels", "probabilities/1-structure-1", "prompts/1-structure-1"):
        image = nib.load(tmp_path / "out" / name / "v.nii.gz")
        assert np.allclose(image.affine, affine)
        assert image.shape == values.shape
    assert np.asanyarray(nib.load(tmp_path / "out/masks/labels/v.nii.gz").dataobj).any()


@pytest.mark.parametrize("content", ["{}", "[]", '{"contents": ["x"]}', '{"threshold": 2}', '{"structures": [0]}'])
def test_wrong_choices_are_refused(content):
    import json

    if content == "{}":
        assert Choice.from_json({}) == Choice()
        return
    with pytest.raises(ValueError, match="expected"):
        Choice.from_json(json.loads(content))

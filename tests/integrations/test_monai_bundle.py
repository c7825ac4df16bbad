"""The bundle in examples/monai_bundle: trained and applied by MONAI's commands on a small data set."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import interconv_seg
import nibabel
import numpy as np
import pytest
import torch
from interconv_seg.monai import SetSlidingWindowInferer
from monai.bundle import ConfigWorkflow, run, verify_net_in_out
from PIL import Image

BUNDLE = Path(__file__).parents[2] / "examples" / "monai_bundle"
SMALL = {"network_def#name": "simpleunet", "network_def#features": 4, "patch_size": [32, 32], "classes": 2}
# What MONAI's schema for metadata.json requires (meta_schema_20240725.json, which `verify_metadata` downloads).
REQUIRED = {
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
    "description", "authors", "copyright", "network_data_format",
}  # fmt: skip
REQUIRED_OF_A_TENSOR = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The bundle beside a data set: noisy discs, ragged sets of one to three images of a subject."""
    folder = tmp_path_factory.mktemp("monai")
    shutil.copytree(BUNDLE, folder / "bundle")
    (folder / "data").mkdir()
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :48]
    entries = {"training": [], "validation": [], "test": []}
    for subject in range(8):
        part = ["training"] * 4 + ["validation"] * 2 + ["test"] * 2
        mask = (np.hypot(rows - 18 - subject, columns - 24) < 12).astype(np.uint8)
        Image.fromarray(mask).save(folder / f"data/mask{subject}.png")
        for scan in range(1 + subject % 3):
            name = f"p{subject}_{scan}.png"
            noisy = (80 * mask + random.normal(80, 30, mask.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / "data" / name)
            entry = {"image": name, "label": f"mask{subject}.png", "subject": f"p{subject}"}
            if part[subject] == "test":
                del entry["label"]
            entries[part[subject]].append(entry)
    (folder / "data" / "dataset.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.drop_in("MONAI", "bundle: `monai.bundle run` trains, and inference segments sets in sliding windows")
def test_the_bundle_trains_and_segments(folder):
    config = {**SMALL, "dataset_dir": str(folder / "data"), "num_workers": 0}
    fast = {"epochs": 60, "val_interval": 20, "learning_rate": 0.01}
    options = [word for name, value in {**config, **fast}.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/train.json", *options]
    done = subprocess.run(command, cwd=folder / "bundle", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "val_mean_dice" in done.stdout + done.stderr
    run(config_file=str(folder / "bundle/configs/inference.json"), bundle_root=str(folder / "bundle"), **config)

    weights = torch.load(folder / "bundle/models/model.pt")
    network = interconv_seg.build("simpleunet", "replace", features=4, classes=2).eval().requires_grad_(False)
    network.load_state_dict(weights)
    inferer = SetSlidingWindowInferer((32, 32), 16, overlap=0.5, mode="gaussian")
    written = sorted(path.name for path in (folder / "bundle/eval").iterdir())
    assert written == ["p6_0_seg.nii.gz", "p7_0_seg.nii.gz", "p7_1_seg.nii.gz"]
    for names in (written[:1], written[1:]):
        images = [Image.open(folder / "data" / name.replace("_seg.nii.gz", ".png")) for name in names]
        x = torch.stack([torch.from_numpy(np.array(image, np.float32).T)[None] for image in images])  # MONAI's axes
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        expected = inferer((x - low) / (high - low), network, [len(names)]).argmax(1)
        for name, labels in zip(names, expected, strict=True):
            found = np.asarray(nibabel.load(folder / "bundle/eval" / name).dataobj).squeeze()
            assert (found == labels.numpy()).mean() > 0.999  # rounding decides where the classes are equal
            subject = name[1]
            mask = np.array(Image.open(folder / f"data/mask{subject}.png")).T
            dice = 2 * (found * mask).sum() / (found.sum() + mask.sum())
            assert dice > 0.9


@pytest.mark.drop_in("MONAI", "bundle: the metadata has what MONAI's schema requires")
def test_metadata():
    metadata = json.loads((BUNDLE / "configs/metadata.json").read_text())
    assert metadata.keys() >= REQUIRED
    assert all(isinstance(metadata[key], str) for key in ("version", "task", "description", "authors", "copyright"))
    formats = metadata["network_data_format"]
    for tensor in [*formats["inputs"].values(), *formats["outputs"].values()]:
        assert tensor.keys() >= REQUIRED_OF_A_TENSOR
        assert isinstance(tensor["num_channels"], int)


@pytest.mark.drop_in("MONAI", "bundle: the {kind} configuration has the properties of MONAI's workflows")
@pytest.mark.parametrize("kind", ["train", "inference"])
def test_properties(folder, kind):
    options = {"dataset_dir": str(folder / "data"), "bundle_root": str(folder / "bundle")}
    workflow = ConfigWorkflow(str(BUNDLE / f"configs/{kind}.json"), workflow_type=kind, logging_file=False, **options)
    workflow.initialize()
    assert not workflow.check_properties()


@pytest.mark.drop_in("MONAI", "bundle: `monai.bundle verify_net_in_out` with sets as an extra argument")
def test_network_of_the_metadata(caplog):
    files = {"meta_file": str(BUNDLE / "configs/metadata.json"), "config_file": str(BUNDLE / "configs/inference.json")}
    with caplog.at_level("INFO", "monai.bundle"):
        verify_net_in_out("network", **files, any=32, extra_forward_args={"sets": [1]})
    assert "verified with no error" in caplog.text
    with pytest.raises(ValueError, match="no sets"):
        verify_net_in_out("network", **files, any=32)

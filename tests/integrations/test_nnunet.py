"""nnU-Net v2's own commands with nnUNetTrainerInterConv, from raw images to evaluated predictions."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from interconv_seg import nnunet_v2
from interconv_seg.cli import main
from nnunet_data import write_dataset, write_sets
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

ROOT = Path(__file__).parents[2]
NAME = "Dataset501_Tumour"
# 1000 epochs of 250 batches take too long; each of the two trainers is trained for the same few.
SHORT_TRAINERS = """\
import os

import torch
from interconv_seg.nnunet_v2 import nnUNetTrainerInterConv
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class Short:
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 3, 40, 2
        self.save_every = 1

    def on_epoch_start(self):
        if self.current_epoch == int(os.environ.get("STOP_AT_EPOCH", "-1")):
            raise SystemExit(3)
        super().on_epoch_start()


class ShortInterConv(Short, nnUNetTrainerInterConv):
    pass


class ShortPlain(Short, nnUNetTrainer):
    pass
"""


class Commands:
    """nnU-Net's commands on a dataset in `folder`."""

    def __init__(self, folder, extensions):
        self.raw, self.preprocessed, self.results = (folder / part for part in ("raw", "preprocessed", "results"))
        self.paths = {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_extTrainer": str(extensions),
        }

    def run(self, command, *arguments, expect=0, **variables):
        """Runs the function behind a console script, with one thread, and returns what it printed."""
        [entry] = entry_points(group="console_scripts", name=command)
        code = (
            "import multiprocessing; multiprocessing.cpu_count = lambda: 1; "
            f"from {entry.module} import {entry.attr} as command; command()"
        )
        search = os.pathsep.join([str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
        few = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": search}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, **self.paths, **few, **variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    def train(self, trainer, *arguments, **options):
        return self.run("nnUNetv2_train", "501", "2d", "0", "-tr", trainer, "-device", "cpu", *arguments, **options)

    def fold(self, trainer):
        return self.results / NAME / f"{trainer}__nnUNetPlans__2d" / "fold_0"

    def dice(self, trainer):
        """nnU-Net's mean Dice of the exported validation cases, checked against that of the files."""
        folder = self.fold(trainer) / "validation"
        summary = json.loads((folder / "summary.json").read_text())
        scores = [self.dice_of(file) for file in sorted(folder.glob("*.nii.gz"))]
        assert summary["foreground_mean"]["Dice"] == pytest.approx(np.mean(scores))
        return np.mean(scores)

    def dice_of(self, file):
        found, true = load(file) == 1, load(self.label_of(file)) == 1
        return 2 * (found & true).sum() / (found.sum() + true.sum())

    def chance(self, trainer):
        """The Dice of a prediction that is tumour everywhere."""
        shares = [load(self.label_of(file)).mean() for file in (self.fold(trainer) / "validation").glob("*.nii.gz")]
        return np.mean([2 * share / (1 + share) for share in shares])

    def label_of(self, file):
        return self.raw / NAME / "labelsTr" / file.name


def load(file):
    return np.asarray(nib.load(file).dataobj)


def make_small(file):
    """Edits the plans that nnU-Net made, as its users do: a network, patches and batches for a CPU."""
    plans = json.loads(file.read_text())
    configuration = plans["configurations"]["2d"]
    configuration.update(batch_size=8, patch_size=[40, 40])
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments.update(n_stages=4, features_per_stage=[8, 16, 32, 32], n_conv_per_stage_decoder=[2, 2, 2])
    for key in ("kernel_sizes", "strides", "n_conv_per_stage"):
        arguments[key] = (arguments[key] + arguments[key][-1:])[:4]
    file.write_text(json.dumps(plans))


@pytest.fixture
def commands(tmp_path, monkeypatch, capsys):
    extensions = tmp_path / "trainers"
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    assert main(["nnunet", "install", "--folder", str(extensions)]) == 0
    assert f'export nnUNet_extTrainer="{extensions}"' in capsys.readouterr().out
    (extensions / "short_trainers.py").write_text(SHORT_TRAINERS)
    commands = Commands(tmp_path, extensions)
    for variable, value in commands.paths.items():
        monkeypatch.setenv(variable, value)
    return commands


@pytest.mark.drop_in("nnU-Net", "plan, train 3 epochs, validate, predict and evaluate, beside nnUNetTrainer")
def test_plan_train_validate_and_predict(commands, tmp_path, capsys):
    patient_of = write_dataset(commands.raw, NAME)
    write_sets(commands.raw / NAME / "sets.csv", patient_of)
    commands.run("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "2d", "-np", "1", "-npfp", "1")
    make_small(commands.preprocessed / NAME / "nnUNetPlans.json")

    # The trainer is found, and refuses 3-D configurations.
    assert recursive_find_trainer_class_by_name("nnUNetTrainerInterConv") is nnunet_v2.nnUNetTrainerInterConv
    with pytest.raises(ValueError, match="2-D configurations only"):
        get_trainer_from_args(NAME, "3d_fullres", 0, "nnUNetTrainerInterConv")

    # Three epochs of each trainer, ours stopped after two of them and continued.
    commands.train("ShortInterConv", STOP_AT_EPOCH="2", expect=3)
    continued = commands.train("ShortInterConv", "--c", "--npz")
    assert "Epoch 2" in continued
    assert "Epoch 1" not in continued
    commands.train("ShortPlain")
    ours, plain = commands.dice("ShortInterConv"), commands.dice("ShortPlain")
    with capsys.disabled():
        print(f"\nnnU-Net, 3 epochs, fold 0: validation Dice {plain:.3f}, with InterConv {ours:.3f}")
    assert ours > commands.chance("ShortInterConv")

    # Folds keep sets together, and the probabilities were exported.
    folds = json.loads((commands.preprocessed / NAME / "splits_final.json").read_text())
    for fold in folds:
        assert not {patient_of[case] for case in fold["train"]} & {patient_of[case] for case in fold["val"]}
    validation = commands.fold("ShortInterConv") / "validation"
    for case in folds[0]["val"]:
        with np.load(validation / f"{case}.npz") as archive:
            assert archive["probabilities"].shape[1:] == load(validation / f"{case}.nii.gz").T.shape

    # Validation alone gives the same files.
    before = {file.name: load(file) for file in validation.glob("*.nii.gz")}
    assert sorted(before) == [f"{case}.nii.gz" for case in sorted(folds[0]["val"])]
    shutil.rmtree(validation)
    commands.train("ShortInterConv", "--val")
    assert all(np.array_equal(load(validation / name), segmentation) for name, segmentation in before.items())

    # So does prediction of the raw images; a case without a set is predicted alone, and named.
    images, predicted = tmp_path / "images", tmp_path / "predicted"
    images.mkdir()
    for case in folds[0]["val"]:
        shutil.copy(commands.raw / NAME / "imagesTr" / f"{case}_0000.nii.gz", images)
    shutil.copy(images / f"{folds[0]['val'][0]}_0000.nii.gz", images / "alone_0000.nii.gz")
    write_sets(images / "sets.csv", {case: patient_of[case] for case in folds[0]["val"]})
    model = ("-d", "501", "-c", "2d", "-tr", "ShortInterConv", "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1")
    printed = commands.run("nnUNetv2_predict", "-i", images, "-o", predicted, *model, "--save_probabilities")
    assert "the set of 1 of 5 cases is not known (sets.csv); each is a set of one image: alone" in printed
    assert all(np.array_equal(load(predicted / name), segmentation) for name, segmentation in before.items())
    with np.load(predicted / "alone.npz") as alone, np.load(predicted / f"{folds[0]['val'][0]}.npz") as together:
        assert np.abs(alone["probabilities"] - together["probabilities"]).max() > 0.01

    # Without sets.csv, a set is the slices of a volume; a model of the other kind of sets is not continued with these.
    (commands.raw / NAME / "sets.csv").unlink()
    assert "was trained on sets of cases, but the dataset has sets of slices" in commands.train(
        "ShortInterConv", "--val", expect=1
    )
    shutil.rmtree(commands.fold("ShortInterConv"))
    assert "a set is slices of one case" in commands.train("ShortInterConv")
    slices = commands.dice("ShortInterConv")
    with capsys.disabled():
        print(f"with InterConv on sets of slices {slices:.3f}")
    assert slices > commands.chance("ShortInterConv")

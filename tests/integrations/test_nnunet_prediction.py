"""nnU-Net v2 with InterConv: the network, the folds and the predictor (whole runs: test_nnunet.py)."""

import copy
import json

import numpy as np
import pytest
import torch
from interconv_seg.nnunet_v2 import SetPredictor, nnUNetTrainerInterConv
from nnunet_common import DATASET, PLAIN, RESIDUAL, build, plans
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

import interconv_kernels as ik


def predictor_of(cls, network, sets="slices", max_set_size=8, **options):
    predictor = cls(device=torch.device("cpu"), allow_tqdm=False, **options)
    manager = plans()
    about = {**DATASET, "interconv": {"sets": sets, "max_set_size": max_set_size}}
    predictor.manual_initialization(network, manager, manager.get_configuration("2d"), None, about, "", (0, 1))
    return predictor


@pytest.mark.drop_in("nnU-Net", "network of the plans, same keys of the state dict")
@pytest.mark.parametrize("network", [PLAIN, RESIDUAL])
def test_the_network_is_that_of_the_plans_with_interconv_layers(network):
    manager = plans(network)
    plain, ours = build(nnUNetTrainer, manager), build(nnUNetTrainerInterConv, manager)
    assert list(plain.state_dict()) == list(ours.state_dict())
    modules = dict(ours.named_modules())
    changed = 0
    for name, module in plain.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            changed += 1
            twice = (module.out_channels, 2 * module.in_channels, *module.kernel_size)
            assert isinstance(modules[name], ik.InterConv2d)
            assert modules[name].weight.shape == twice
            assert modules[name].stride == module.stride
        else:
            assert type(modules[name]) is type(module)
    assert changed >= 10
    with pytest.raises(ValueError, match="no sets"):
        ours(torch.randn(2, 1, 32, 32))


@pytest.mark.drop_in("nnU-Net", "3-D configurations", limitation="refused: layers are 2-D")
def test_3d_configurations_are_refused():
    with pytest.raises(ValueError, match="2-D configurations only"):
        build(nnUNetTrainerInterConv, plans(patch_size=(16, 32, 32)))


@pytest.mark.drop_in("nnU-Net", "predictor: equals nnU-Net's where the set has no weight")
def test_the_predictor_is_that_of_nnunet_where_the_set_has_no_weight():
    """Several windows, Gaussian weights, mirroring: the same logits as nnU-Net's predictor with the plain network."""
    plain = build(nnUNetTrainer, plans())
    ours = copy.deepcopy(plain)
    ik.replace_with_interconv(ours)
    volume = torch.randn(1, 5, 50, 40)
    expected = predictor_of(nnUNetPredictor, plain).predict_sliding_window_return_logits(volume)
    logits = predictor_of(SetPredictor, ours, max_set_size=3).predict_sliding_window_return_logits(volume)
    torch.testing.assert_close(logits.float(), expected.float(), rtol=2e-2, atol=2e-2)
    assert expected.float().std() > 0.1


@pytest.mark.drop_in("nnU-Net", "predictor: all images of a set together")
def test_all_images_of_a_set_are_predicted_together():
    network = build(nnUNetTrainerInterConv, plans()).eval()
    predictor = predictor_of(SetPredictor, network, "cases", use_mirroring=False, use_gaussian=False)
    first, second = torch.randn(1, 2, 32, 32), torch.randn(1, 2, 32, 32)
    together = predictor.predict_set([first, second], [(0, 0, 0)] * 2)
    for z in range(2):
        with torch.no_grad():
            expected = ik.SetModel(network)(torch.stack([first[:, z], second[:, z]]), [2])
        for volume, logits in zip(together, expected, strict=True):
            torch.testing.assert_close(volume[:, z].float(), logits, rtol=1e-2, atol=1e-2)
    [alone] = predictor.predict_set([first], [(0, 0, 0)])
    assert (alone - together[0]).abs().max() > 0.1


@pytest.mark.drop_in("nnU-Net", "predictor: cases with different crops")
def test_cases_with_different_crops_are_predicted_on_their_common_grid():
    network = build(nnUNetTrainerInterConv, plans()).eval()
    predictor = predictor_of(SetPredictor, network, "cases")
    whole = [torch.randn(1, 3, 40, 44) for _ in range(2)]
    whole[0][:, :1], whole[0][:, :, :4], whole[1][..., 40:] = 0, 0, 0
    expected = predictor.predict_set(whole, [(0, 0, 0)] * 2)
    cropped = [whole[0][:, 1:, 4:], whole[1][..., :40]]
    logits = predictor.predict_set(cropped, [(5, 10, 6), (4, 6, 6)])
    torch.testing.assert_close(logits[0], expected[0][:, 1:, 4:])
    torch.testing.assert_close(logits[1], expected[1][..., :40])


@pytest.mark.drop_in("nnU-Net", "predictor: large sets in parts")
def test_large_sets_are_divided_evenly_over_the_whole_set():
    network = build(nnUNetTrainerInterConv, plans())
    slices = predictor_of(SetPredictor, network)._sets_of_images(20)
    parts = [list(range(20))[part] for part in slices]
    assert sorted(i for part in parts for i in part) == list(range(20))
    assert sorted(map(len, parts)) == [6, 7, 7]
    assert all(part[0] < 3 and part[-1] > 16 for part in parts)
    cases = predictor_of(SetPredictor, network, "cases", max_set_size=2)
    cases._cases_per_slice = 3
    assert [list(range(6))[part] for part in cases._sets_of_images(6)] == [[0, 2], [1], [3, 5], [4]]


def files(folder, cases):
    for case in cases:
        (folder / f"{case}_0000.nii.gz").touch()
    return str(folder)


@pytest.mark.drop_in("nnU-Net", "predictor: folders of files with sets.csv")
def test_files_are_predicted_set_by_set_in_whole_sets(tmp_path, capsys):
    predictor = predictor_of(SetPredictor, build(nnUNetTrainerInterConv, plans()), "cases")
    source = files(tmp_path, ["a1", "b1", "a2", "c1", "b2"])
    (tmp_path / "sets.csv").write_text("set,case\nA,a1\nA,a2\nB,b1\nB,b2\n", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()

    def listed(**options):
        inputs, outputs, _ = predictor._manage_input_and_output_lists(source, str(out), **options)
        names = [files[0].split("/")[-1].removesuffix("_0000.nii.gz") for files in inputs]
        assert [output.split("/")[-1] for output in outputs] == names
        return names, predictor._set_lengths

    assert listed() == (["a1", "a2", "b1", "b2", "c1"], [2, 2, 1])
    assert "the set of 1 of 5 cases is not known (sets.csv); each is a set of one image: c1" in capsys.readouterr().out
    assert listed(part_id=0, num_parts=2) == (["a1", "a2", "c1"], [2, 1])
    assert listed(part_id=1, num_parts=2) == (["b1", "b2"], [2])
    for done in ("a1", "a2", "b1"):
        (out / f"{done}.nii.gz").touch()
    assert listed(overwrite=False) == (["b1", "b2", "c1"], [2, 1])  # half a set is not predicted alone
    (tmp_path / "sets.csv").unlink()
    assert listed()[1] == [1] * 5
    assert "5 of 5 cases is not known (no sets.csv in" in capsys.readouterr().out


def test_predictors_of_other_networks_stay_as_they_are():
    ours = build(nnUNetTrainerInterConv, plans())
    assert type(predictor_of(nnUNetPredictor, build(nnUNetTrainer, plans()))) is nnUNetPredictor
    assert type(predictor_of(nnUNetPredictor, ours)) is SetPredictor


@pytest.mark.drop_in("nnU-Net", "nnUNet_compile: at most two graphs")
def test_compiled_networks_take_new_sets_without_new_graphs():
    from torch._dynamo.testing import CompileCounterWithBackend

    network = build(nnUNetTrainerInterConv, plans())
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, backend=counter)
    random = np.random.default_rng(0)
    for _ in range(12):
        split = sorted(random.choice(np.arange(1, 8), random.integers(0, 5), replace=False))
        lengths = np.diff([0, *split, 8]).tolist()
        images = torch.randn(8, 1, 32, 32)
        with ik.use_sets(ik.Sets.from_lengths(lengths)):
            torch.testing.assert_close(compiled(images), network(images), rtol=1e-4, atol=1e-4)
    assert counter.frame_count <= 2


@pytest.fixture
def trainer_of(tmp_path, monkeypatch):
    """Makes a trainer for a preprocessed dataset of four empty cases."""
    base = tmp_path / "preprocessed" / "Dataset501_X"
    (base / "cases").mkdir(parents=True)
    for case in ("a1", "a2", "b1", "c1"):
        (base / "cases" / f"{case}.b2nd").touch()
    (base / "dataset_fingerprint.json").write_text(json.dumps({"shapes_after_crop": [[1, 40, 40]] * 4}))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.delenv("nnUNet_raw", raising=False)

    def make(pattern=None, fold=0):
        manager = plans()
        manager.plans["configurations"]["2d"]["data_identifier"] = "cases"
        manager.plans.update(continue_training=False, transpose_forward=[0, 1, 2])
        about = DATASET if pattern is None else {**DATASET, "interconv": {"set_pattern": pattern}}
        return nnUNetTrainerInterConv(manager.plans, "2d", fold, about, torch.device("cpu"))

    return make


@pytest.mark.drop_in("nnU-Net", "folds keep sets together")
def test_folds_keep_sets_together(trainer_of, tmp_path):
    parts = [trainer_of("^[a-z]", fold).do_split() for fold in range(3)]
    assert sorted(case for _, val in parts for case in val) == ["a1", "a2", "b1", "c1"]
    assert all(("a1" in val) == ("a2" in val) for _, val in parts)
    assert all(sorted(train + val) == ["a1", "a2", "b1", "c1"] for train, val in parts)
    with pytest.raises(ValueError, match=r"fold 3: .* has 3 folds"):
        trainer_of("^[a-z]", 3).do_split()
    train, val = trainer_of("^[a-z]", "all").do_split()
    assert sorted(train) == sorted(val) == ["a1", "a2", "b1", "c1"]

    divided = [{"train": ["a1", "b1"], "val": ["a2", "c1"]}]
    (tmp_path / "preprocessed" / "Dataset501_X" / "splits_final.json").write_text(json.dumps(divided))
    with pytest.raises(ValueError, match="trains with a1 and validates with a2, which are one set"):
        trainer_of("^[a-z]").do_split()


@pytest.mark.drop_in("nnU-Net", "single images without sets", limitation="refused: write a sets.csv")
def test_single_images_without_sets_are_refused(trainer_of):
    with pytest.raises(ValueError, match=r"is one 2-D image, and nothing says which belong together"):
        trainer_of()


@pytest.mark.drop_in("nnU-Net", "-num_gpus: at least two images for each GPU")
def test_a_gpu_needs_two_images_of_the_batch(trainer_of, monkeypatch):
    trainer = trainer_of("^[a-z]")
    trainer.is_ddp = True
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    for gpus, images in ((2, 3), (3, 2)):
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda gpus=gpus: gpus)
        trainer._set_batch_size_and_oversample()
        assert trainer.batch_size == images
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 6)
    with pytest.raises(ValueError, match="1 image per GPU: expected at least 2"):
        trainer._set_batch_size_and_oversample()

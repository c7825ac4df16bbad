"""nnU-Net v2 with InterConv, part by part: what is drawn, transformed, divided and predicted (runs: test_nnunet.py)."""

import copy

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from interconv_seg.nnunet_v2 import SetPredictor, nnUNetTrainerInterConv
from interconv_seg.nnunet_v2.loading import SetDataLoader, transform_set
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

import interconv_kernels as ik

PATCH = (32, 32)
DATASET = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def plans(network="dynamic_network_architectures.architectures.unet.PlainConvUNet", patch_size=PATCH):
    arguments = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
        "n_blocks_per_stage" if network == RESIDUAL else "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    architecture = {"network_class_name": network, "arch_kwargs": arguments, "_kw_requires_import": imported}
    configuration = {"batch_size": 6, "patch_size": list(patch_size), "architecture": architecture, "spacing": [1, 1]}
    return PlansManager({"dataset_name": "Dataset501_X", "plans_name": "p", "configurations": {"2d": configuration}})


def build(trainer, manager):
    torch.manual_seed(0)
    return trainer.build_network_architecture(manager, manager.get_configuration("2d"), 1, 3, False)


def predictor_of(cls, network, sets="slices", max_set_size=8, **options):
    predictor = cls(device=torch.device("cpu"), allow_tqdm=False, **options)
    manager = plans()
    about = {**DATASET, "interconv": {"sets": sets, "max_set_size": max_set_size}}
    predictor.manual_initialization(network, manager, manager.get_configuration("2d"), None, about, "", (0, 1))
    return predictor


class Cases:
    """A dataset whose images hold their own coordinates before cropping: channels (case, z, y, x), all above 0."""

    def __init__(self, starts, shape=(6, 40, 50), full=(9, 60, 60)):
        self.identifiers = list(starts)
        self.starts, self.shape, self.full = starts, shape, full

    def load_case(self, case):
        start = self.starts[case]
        number = np.full(self.shape, self.identifiers.index(case) + 1.0)
        places = np.meshgrid(*(np.arange(n) + at + 1.0 for n, at in zip(self.shape, start, strict=True)), indexing="ij")
        data = np.stack([number, *places]).astype(np.float32)
        segmentation = np.zeros((1, *self.shape), np.int8)
        segmentation[:, 2, 10:14, 20:24] = 1
        properties = {
            "class_locations": {1: np.argwhere(segmentation == 1), 2: []},
            "shape_before_cropping": self.full,
            "spacing": [1, 1, 1],
            "bbox_used_for_cropping": [[at, at + n] for at, n in zip(start, self.shape, strict=True)],
            "shape_after_cropping_and_before_resampling": self.shape,
        }
        return data, segmentation, None, properties


def loader(cases, groups, slices, **options):
    labels = plans().get_label_manager(DATASET)
    return SetDataLoader(cases, groups, slices, 4, 9, (36, 36), PATCH, labels, **options)


def sets_of(batch):
    assert sum(batch["lengths"]) == len(batch["data"]) == len(batch["target"]) == len(batch["keys"]) == 9
    return list(zip(batch["data"].split(batch["lengths"]), batch["target"].split(batch["lengths"]), strict=True))


def test_a_set_of_slices_is_different_slices_of_one_case_in_one_box():
    np.random.seed(0)
    cases = Cases({"a": (0, 0, 0), "b": (1, 5, 3)})
    batches = loader(cases, [("a",), ("b",)], slices=True, oversample_foreground_percent=0.0)
    sizes = []
    for _ in range(20):
        for images, _ in sets_of(next(batches)):
            case, z, *place = images.unbind(1)
            inside = case[0] > 0
            assert len(case[:, inside].unique()) == 1  # one case
            assert len({int(slice_.max()) for slice_ in z}) == len(images)  # all slices are different
            assert all(bool((channel == channel[0]).all()) for channel in place)  # one box
            sizes.append(len(images))
    assert set(sizes) == {1, 2, 3, 4}


def test_a_set_of_cases_is_one_box_before_cropping():
    np.random.seed(0)
    cases = Cases({"a": (0, 0, 0), "b": (1, 5, 3), "c": (2, 1, 9), "d": (0, 4, 4)})
    batches = loader(cases, [("a", "b", "c"), ("d",)], slices=False, oversample_foreground_percent=0.5)
    overlaps = 0
    for _ in range(20):
        for images, _ in sets_of(next(batches)):
            case, *place = images.unbind(1)
            numbers = [int(number.max()) for number in case if number.max() > 0]
            assert len(set(numbers)) == len(numbers)
            assert {4} == set(numbers) or 4 not in numbers  # a set stays within its group
            for i in range(1, len(images)):
                both = (case[0] > 0) & (case[i] > 0)
                overlaps += int(both.sum())
                assert all(torch.equal(channel[0][both], channel[i][both]) for channel in place)
    assert overlaps > 10_000


def test_foreground_is_oversampled_by_the_expected_share():
    np.random.seed(0)
    batches = loader(Cases({"a": (0, 0, 0)}), [("a",)], slices=True, oversample_foreground_percent=1.0)
    for _ in range(5):
        assert all(bool((labels[0] == 1).any()) for _, labels in sets_of(next(batches)))


@pytest.mark.parametrize("crop", ["shape_before_cropping", "spacing"])
def test_cases_on_different_grids_are_refused(crop):
    cases = Cases({"a": (0, 0, 0), "b": (0, 0, 0)})
    load = cases.load_case

    def changed(case):
        *rest, properties = load(case)
        return (*rest, {**properties, crop: (9, 60, 61) if case == "b" else properties[crop]})

    cases.load_case = changed
    batches = loader(cases, [("a", "b")], slices=False)
    np.random.seed(0)  # so that the first batch has a set of two
    with pytest.raises(ValueError, match=r"expected one (shape|spacing) for the cases of a set"):
        next(batches)


def augmentation():
    return nnUNetTrainer.get_training_transforms(PATCH, (-3.0, 3.0), [[1, 1], [0.5, 0.5]], (0, 1), False, [False])


@pytest.mark.parametrize("nested", [False, True])
def test_spatial_transforms_are_one_for_a_set_and_the_others_are_not(nested):
    transforms = augmentation()
    if nested:
        spatial = ComposeTransforms([RandomTransform(t, 0.5) for t in transforms.transforms[:1]])
        transforms = ComposeTransforms([spatial, *transforms.transforms[1:]])
    np.random.seed(0)
    torch.manual_seed(0)
    image = torch.rand(1, 36, 36)
    labels = torch.randint(0, 3, (1, 9, 9), dtype=torch.int16).repeat_interleave(4, 1).repeat_interleave(4, 2)

    def sample():
        return {"image": image.clone(), "segmentation": labels.clone()}

    different_images, different_sets, different_alone = 0, 0, 0
    before = None
    for _ in range(15):
        members = transform_set(transforms, [sample() for _ in range(4)])
        segmentations = [member["segmentation"][0] for member in members]
        assert all(torch.equal(other, segmentations[0]) for other in segmentations)
        different_images += not torch.equal(members[0]["image"], members[1]["image"])
        different_sets += before is not None and not torch.equal(segmentations[0], before)
        before = segmentations[0]
        alone = [transforms(**sample())["segmentation"][0] for _ in range(2)]
        different_alone += not torch.equal(*alone)
    assert different_images > 5
    assert different_sets > 5
    assert different_alone > 5  # the check above can fail


@pytest.mark.parametrize(
    "network", [plans().plans["configurations"]["2d"]["architecture"]["network_class_name"], RESIDUAL]
)
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


def test_3d_configurations_are_refused():
    with pytest.raises(ValueError, match="2-D configurations only"):
        build(nnUNetTrainerInterConv, plans(patch_size=(16, 32, 32)))


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

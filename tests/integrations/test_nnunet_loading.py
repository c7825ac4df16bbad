"""nnU-Net v2 with InterConv: which images of a set are drawn, from where, and how they are augmented."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from interconv_seg.nnunet_v2.loading import SetDataLoader, transform_set
from nnunet_common import DATASET, PATCH, plans
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


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


@pytest.mark.drop_in("nnU-Net", "loading: sets of slices, one box")
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


@pytest.mark.drop_in("nnU-Net", "loading: sets of cases, one box before cropping")
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


@pytest.mark.drop_in("nnU-Net", "loading: foreground is oversampled")
def test_foreground_is_oversampled_by_the_expected_share():
    np.random.seed(0)
    batches = loader(Cases({"a": (0, 0, 0)}), [("a",)], slices=True, oversample_foreground_percent=1.0)
    for _ in range(5):
        assert all(bool((labels[0] == 1).any()) for _, labels in sets_of(next(batches)))


@pytest.mark.drop_in(
    "nnU-Net", "loading: cases of a set on different grids, {crop}", limitation="refused: give them one grid"
)
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


@pytest.mark.drop_in("nnU-Net", "augmentation: one spatial transform for a set")
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

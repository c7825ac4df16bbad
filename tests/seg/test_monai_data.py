"""Sets of MONAI's samples: grouped, drawn at random, transformed alike, and packed with their metadata."""

import pytest
import torch
from interconv_seg.monai import SetDataset, collate, prepare_batch
from monai.data import CacheDataset, DataLoader, MetaTensor, decollate_batch
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

import interconv_kernels as ik

SUBJECTS = ["a", "b", "a", "c", "c", "c"]


def samples():
    return [
        {
            "image": MetaTensor(torch.full((1, 4, 4), float(i)), meta={"name": f"{s}{i}"}),
            "subject": s,
            "label": torch.ones(1),
        }
        for i, s in enumerate(SUBJECTS)
    ]


def names(items):
    return [sample["image"].meta["name"] for sample in items]


@pytest.mark.drop_in("MONAI", "SetDataset groups the samples of a datalist or a CacheDataset")
@pytest.mark.parametrize("cached", [False, True])
def test_sets_by_a_key(cached):
    data = SetDataset(CacheDataset(samples(), None, progress=False) if cached else samples(), by="subject")
    assert len(data) == 3
    assert data.names == ["a", "b", "c"]
    assert [names(item) for item in data] == [["a0", "a2"], ["b1"], ["c3", "c4", "c5"]]


@pytest.mark.drop_in("MONAI", "SetDataset draws sets of random sizes")
def test_random_sizes():
    data = SetDataset(samples(), by="subject", set_sizes=(2, 3)).set_random_state(0)
    drawn = [names(data[2]) for _ in range(60)]
    assert {len(item) for item in drawn} == {2, 3}
    assert {tuple(item) for item in drawn if len(item) == 2} == {("c3", "c4"), ("c3", "c5"), ("c4", "c5")}
    assert names(data[1]) == ["b1"]
    again = SetDataset(samples(), by="subject", set_sizes=(2, 3)).set_random_state(0)
    assert [names(again[2]) for _ in range(60)] == drawn


@pytest.mark.drop_in("MONAI", "SetDataset: aligned samples get the same random transform")
@pytest.mark.parametrize("aligned", [True, False])
def test_aligned_samples_are_transformed_alike(aligned):
    transform = Compose([RandFlipd("image", prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=1, mean=0)])
    data = SetDataset(samples(), transform, by="subject", aligned=aligned).set_random_state(0)
    different = 0
    for _ in range(5):
        first, *others = [sample["image"] - i for i, sample in enumerate(data[2], start=3)]
        different += any(not torch.allclose(first, other, atol=1e-5) for other in others)
    assert different == (0 if aligned else 5)
    noise = [data[2][0]["image"] for _ in range(2)]
    assert not torch.equal(*noise)


@pytest.mark.drop_in("MONAI", "DataLoader: the workers of SetDataset draw different numbers, reproducibly")
def test_workers():
    def drawn():
        data = SetDataset(samples(), RandGaussianNoised("image", prob=1), by="subject", set_sizes=(1, 8))
        torch.manual_seed(5)
        loader = DataLoader(data, batch_size=1, num_workers=2, collate_fn=collate)
        return [batch["image"].as_tensor() for batch in loader]

    first, second = drawn(), drawn()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    noise = [batch[0] - batch[0].round() for batch in first]
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.drop_in("MONAI", "collate keeps the metadata of each sample, also through decollate_batch")
def test_collate_keeps_metadata():
    data = SetDataset(samples(), by="subject")
    batch = next(iter(DataLoader(data, batch_size=3, collate_fn=collate)))
    assert batch["image"].shape == (6, 1, 4, 4)
    assert batch["sets"].lengths == (2, 1, 3)
    order = ["a0", "a2", "b1", "c3", "c4", "c5"]
    assert batch["image"].meta["name"] == order
    assert [sample["image"].meta["name"] for sample in decollate_batch(batch)] == order
    assert [sample["subject"] for sample in decollate_batch(batch)] == ["a", "a", "b", "c", "c", "c"]


def test_prepare_batch_passes_sets():
    batch = collate(list(SetDataset(samples(), by="subject")))
    images, labels, args, kwargs = prepare_batch(batch, "cpu")
    assert images.shape[0] == labels.shape[0] == 6
    assert args == ()
    assert kwargs["sets"].lengths == (2, 1, 3)
    assert ik.set_mean(images.as_tensor(), kwargs["sets"]).flatten(1)[:, 0].tolist() == [1, 1, 4]
    del batch["label"]
    assert prepare_batch(batch)[1] is None


def test_wrong_input():
    with pytest.raises(ValueError, match=r"sample 0 has the keys \['image', 'label', 'subject'\]: expected 'patient'"):
        SetDataset(samples(), by="patient")
    with pytest.raises(ValueError, match="no samples"):
        SetDataset([])
    with pytest.raises(ValueError, match=r"set_sizes = \(3, 2\)"):
        SetDataset(samples(), by="subject", set_sizes=(3, 2))
    with pytest.raises(ValueError, match="at least one sample"):
        collate([[], []])


@pytest.mark.drop_in("MONAI", "InterConv2d takes MetaTensor, forward and backward, and keeps its metadata: {algorithm}")
@pytest.mark.parametrize("algorithm", ["concat", "split", "centered", "fused", "auto"])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_meta_tensors(algorithm, needs_grad):
    """A trainer's images need no gradient, an inner layer's features do."""
    torch.manual_seed(0)
    layer = ik.InterConv2d(16, 8, activation=torch.nn.PReLU(), algorithm=algorithm)
    plain = torch.randn(5, 16, 12, 12, requires_grad=needs_grad)
    image = MetaTensor(plain.detach().clone(), meta={"name": list("abcde")}).requires_grad_(needs_grad)
    image.is_batch = True
    expected, found = layer(plain, [3, 2]), layer(image, [3, 2])
    assert isinstance(found, MetaTensor)
    assert found.meta["name"] == list("abcde")
    assert torch.equal(found.as_tensor(), expected)
    inputs = [*layer.parameters(), *([plain] if needs_grad else [])]
    others = [*layer.parameters(), *([image] if needs_grad else [])]
    gradients = torch.autograd.grad(found.square().sum(), others)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected.square().sum(), inputs), strict=True):
        assert torch.equal(torch.as_tensor(gradient), wanted)

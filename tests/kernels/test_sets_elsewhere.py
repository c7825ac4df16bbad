"""`Sets` in the places where batches go: other devices, processes, files and modes of torch."""

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

import interconv_kernels as ik

LENGTHS = ([3, 1, 8], [0, 2, 0, 0, 5, 0], [1], [])


def values(sets):
    return [tensor.tolist() for tensor in pytree.tree_leaves(sets)]


def through_torch_save(sets):
    file = io.BytesIO()
    torch.save({"sets": sets}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)["sets"]


@pytest.mark.drop_in("PyTorch", "Sets: copy, pickle, torch.load(weights_only=True)")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(
    "travel", [lambda s: pickle.loads(pickle.dumps(s)), through_torch_save, copy.copy, copy.deepcopy]
)
def test_copies_and_files(travel, lengths):
    sets = ik.Sets.from_lengths(lengths)
    came = travel(sets)
    assert values(came) == values(sets)
    assert came == sets


@pytest.mark.parametrize("state", [torch.tensor([1, 2]), torch.tensor([0, 3, 2]), torch.tensor([0.0, 1.0]), "x", None])
def test_a_file_with_other_contents_is_refused(state):
    """The kernels trust offsets and set ids; a file need not come from this library."""
    with pytest.raises((TypeError, ValueError), match="expected"):
        object.__new__(ik.Sets).__setstate__(state)


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, b):
        return torch.full((b + 1, 2), b)


@pytest.mark.drop_in("PyTorch", "Sets: DataLoader workers with ik.collate")
def test_through_the_workers_of_a_data_loader():
    (u, first), (_, second) = DataLoader(Items(), batch_size=3, collate_fn=ik.collate, num_workers=1)
    assert u[:, 0].tolist() == first.set_ids.tolist() == [0, 1, 1, 2, 2, 2]
    assert second == ik.Sets.from_lengths([4, 5, 6])


@pytest.mark.drop_in("PyTorch", "Sets: pin_memory")
def test_pin_memory(monkeypatch):
    """Without an accelerator there is no such memory: only which tensors are asked for it."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 100)
    for lengths in ([2, 1], [2, 0, 1]):
        sets = ik.Sets.from_lengths(lengths)
        pinned = torch.utils.data._utils.pin_memory.pin_memory({"sets": sets})["sets"]
        assert values(pinned) == [[x + 100 for x in one] for one in values(sets)]
        assert pinned.lengths == tuple(lengths)
        assert (pinned.live_offsets is pinned.offsets) == (0 not in lengths)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    assert sets.pin_memory() is sets


@pytest.mark.drop_in("PyTorch", "Sets: made in inference_mode, used in training")
@pytest.mark.parametrize(
    "make",
    [
        lambda: ik.Sets.from_lengths([3, 1]),
        lambda: ik.Sets.from_lengths([2, 0, 2]),
        lambda: ik.Sets.from_offsets([0, 3, 4]),
        lambda: ik.Sets.from_size(2, 4),
        lambda: ik.Sets.from_lengths([3, 1], "meta").to("meta"),
        lambda: ik.Sets.cat(ik.Sets.from_lengths([3, 1]).split(1)),
    ],
)
def test_made_in_inference_mode_and_used_in_training(make, monkeypatch):
    with torch.inference_mode():
        sets = make()
        assert torch.empty(0).is_inference()
        monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
        assert not any(tensor.is_inference() for s in (sets, sets.pin_memory()) for tensor in pytree.tree_leaves(s))
    u = torch.randn(4, 2, 5, 5, device=sets.device, requires_grad=True)
    layer = ik.InterConv2d(2, device=sets.device)
    (layer(u, sets).sum() + ik.set_mean(u, sets).sum()).backward()
    assert u.grad.shape == u.shape


@pytest.fixture
def defaults_restored():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.drop_in("PyTorch", "Sets: torch.set_default_dtype({default})")
@pytest.mark.parametrize("default", [torch.float64, torch.float16])
@pytest.mark.parametrize("kernel", [1, 3])
def test_default_dtype(default, kernel, defaults_restored):
    layer, u = ik.InterConv2d(16, 8, kernel, activation=nn.ReLU()), torch.randn(4, 16, 8, 8)
    with torch.no_grad():
        want = layer(u, [3, 1])
    torch.set_default_dtype(default)
    u.requires_grad_()
    y = layer(u, ik.Sets.from_lengths([3, 1]))
    with torch.no_grad():
        torch.testing.assert_close(layer(u, [3, 1]), want, rtol=0, atol=0)
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    y.sum().backward()
    assert {u.grad.dtype, layer.weight.grad.dtype, layer.bias.grad.dtype} == {torch.float32}


@pytest.mark.drop_in("PyTorch", "Sets: torch.set_default_device")
def test_default_device(defaults_restored):
    u = torch.randn(4, 2, 5, 5)
    layer, offsets = ik.InterConv2d(2), torch.tensor([0, 3, 4])
    want = layer(u, [3, 1])
    torch.set_default_device("meta")
    assert ik.InterConv2d(2)(torch.randn(4, 2, 5, 5), ik.Sets.from_lengths([3, 1])).device.type == "meta"
    with torch.device("cpu"):
        assert ik.Sets.from_lengths([3, 1]).device.type == "cpu"
    for sets in ([3, 1], offsets, ik.Sets.from_offsets(offsets), ik.Sets.from_lengths([3, 1], "cpu")):
        assert torch.equal(layer(u, sets), want)
    assert torch.equal(layer(u[None]), layer(u, 4)[None])
    assert ik.collate([u[:3], u[3:]])[1].device.type == "cpu"


@pytest.mark.drop_in("PyTorch", "Sets: FakeTensorMode, {device}")
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fake_tensors(device):
    with FakeTensorMode():
        sets = ik.Sets.from_lengths([3, 0, 1], device)
        u = torch.randn(4, 2, 6, 5, device=device, requires_grad=True)
        layer = ik.InterConv2d(2, 3, device=device)
        for given in (sets, sets.to(device), [3, 1], ik.Sets.from_size(2, 4, device), ik.Sets.cat(sets.split(2)), 4):
            y = layer(u, given)
            y.sum().backward()
            assert isinstance(y, FakeTensor)
            assert (y.shape, y.device) == ((4, 3, 6, 5), torch.device(device))
            assert u.grad.shape == u.shape
        assert all(isinstance(tensor, FakeTensor) for tensor in pytree.tree_leaves(sets))
        assert sets.lengths == (3, 0, 1)


@pytest.mark.drop_in("PyTorch", "Sets: FakeTensorMode, cuda")
def test_fake_sets_for_a_gpu():
    with FakeTensorMode():
        sets = ik.Sets.from_lengths([3, 0, 1], "cuda:0")
        assert {tensor.device for tensor in pytree.tree_leaves(sets)} == {torch.device("cuda:0")}
        assert sets == ik.Sets.from_lengths([3, 0, 1]).to("cuda:0")


@pytest.mark.drop_in("PyTorch", "Sets: meta device")
def test_meta_tensors():
    sets = ik.Sets.from_lengths([3, 1], "meta")
    with torch.device("meta"):
        model = ik.SetModel(nn.Sequential(ik.InterConv2d(2, 3), nn.ReLU(), ik.InterConv2d(3)))
    x = torch.randn(4, 2, 6, 5, device="meta")
    assert model(x, sets).shape == model(x, [3, 1]).shape == (4, 3, 6, 5)
    assert (len(sets), sets.lengths, copy.deepcopy(sets)) == (2, (3, 1), sets)
    model.to_empty(device="cpu")
    assert model(x.new_zeros(x.shape, device="cpu"), [3, 1]).shape == (4, 3, 6, 5)

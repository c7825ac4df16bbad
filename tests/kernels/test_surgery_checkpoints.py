"""Checkpoints of the plain network in the changed one, and `revert`, which gives the plain network back."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import interconv_kernels as ik

X = torch.randn(5, 3, 8, 9, generator=torch.Generator().manual_seed(0))
SETS = [2, 3]


class Net(nn.Module):
    """With a layer in two places, activations with and without weights, and layers that surgery leaves alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.all = nn.Sequential(self.conv, nn.BatchNorm2d(4), nn.PReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.PReLU(4), nn.Conv2d(4, 4, 1), nn.ReLU())
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.grouped(self.body(self.all(x))))


def trained(seed=0):
    torch.manual_seed(seed)
    net = Net().eval()
    for module in net.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight)
    return net


def replace(net):
    ik.replace_with_interconv(net)
    return net


def merge(net):
    ik.replace_with_interconv(net, merge_activations=True)
    return net


def append(net):
    ik.append_interconv(net)
    return net


def append_to_blocks(net):
    ik.append_interconv(net, where=("all", "body", "head"))
    return net


def append_and_replace(net):
    return replace(append(net))


CHANGES = [replace, merge, append, append_to_blocks, append_and_replace]
each_change = pytest.mark.parametrize("change", CHANGES)


def assert_same(net, want, sets=SETS):
    torch.testing.assert_close(ik.SetModel(net)(X, sets), want, rtol=1e-5, atol=1e-6)


def stir(net):
    """Random weights in both halves, as after training."""
    torch.manual_seed(5)
    for p in net.parameters():
        nn.init.uniform_(p, 0.1, 0.3)
    return net


# --- checkpoints of the plain network ---------------------------------------------------------------------------------


@pytest.mark.drop_in("PyTorch", "surgery: plain checkpoints load")
@each_change
@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_a_checkpoint_of_the_plain_network_loads(change, keeps_metadata):
    plain = trained(0)
    state = plain.state_dict()
    file = io.BytesIO()
    torch.save(state if keeps_metadata else dict(state), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    net = stir(change(trained(1)))
    result = net.load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert_same(net, plain(X))
    assert len(state) == len(plain.state_dict())  # it is still what it was
    assert state["conv.weight"].shape == (4, 3, 3, 3)


@each_change
def test_checkpoints_of_the_changed_network_load_as_they_are(change):
    net = stir(change(trained(0)))
    other = change(trained(1))
    other.load_state_dict(net.state_dict())
    for (name, x), y in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@each_change
def test_copies_load_as_well(change):
    plain, net = trained(0), change(trained(1))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        other.load_state_dict(plain.state_dict())
        assert_same(other, plain(X))


@pytest.mark.drop_in("PyTorch", "surgery: meta networks and assign=True")
@each_change
def test_meta_networks_are_filled_by_a_checkpoint(change):
    plain = trained(0)
    with torch.device("meta"):
        net = change(Net().eval())
    assert all(p.is_meta for p in net.parameters())
    net.load_state_dict(plain.state_dict(), assign=True)
    assert_same(net, plain(X))


@each_change
def test_missing_and_unexpected_keys_are_still_reported(change):
    state = trained(0).state_dict()
    del state["head.weight"]
    state["nonsense"] = torch.ones(1)
    net = change(trained(1))
    result = net.load_state_dict(state, strict=False)
    assert "nonsense" in result.unexpected_keys
    assert any(key.startswith("head") for key in result.missing_keys)
    with pytest.raises(RuntimeError, match="head"):
        net.load_state_dict(state)


def test_other_shapes_are_refused():
    layer = ik.InterConv2d(4, 6)
    for shape in [(6, 3, 3, 3), (5, 4, 3, 3), (6, 4, 1, 1)]:
        with pytest.raises(RuntimeError, match="size mismatch"):
            layer.load_state_dict({"weight": torch.ones(shape), "bias": torch.ones(6)})
    layer.load_state_dict({"weight": torch.ones(6, 4, 3, 3), "bias": torch.ones(6)})
    assert torch.equal(layer.weight.detach().mean((0, 2, 3)), torch.tensor([1.0] * 4 + [0.0] * 4))


def test_a_checkpoint_of_an_interconv_of_half_as_many_channels_is_no_plain_one():
    with pytest.raises(RuntimeError, match="size mismatch"):
        ik.InterConv2d(2, 6).load_state_dict(ik.InterConv2d(1, 6).state_dict())


# --- back to the plain network ----------------------------------------------------------------------------------------


@pytest.mark.drop_in("PyTorch", "surgery: revert")
@each_change
def test_revert_gives_the_plain_network_back(change):
    plain = trained()
    net = change(trained())
    report = ik.revert(net)
    assert report.model is net
    assert [(n, type(m)) for n, m in net.named_modules()] == [(n, type(m)) for n, m in plain.named_modules()]
    state = net.state_dict()
    assert list(state) == list(plain.state_dict())
    assert all(torch.equal(x, plain.state_dict()[name]) for name, x in state.items())
    assert torch.equal(net(X), plain(X))
    assert report.counts[1] == sum(p.numel() for p in plain.parameters())
    net.load_state_dict(trained(1).state_dict())
    assert torch.equal(net(X), trained(1)(X))
    assert not report.skipped


@pytest.mark.drop_in("PyTorch", "surgery: revert for single images (Wu + Ws)")
@each_change
def test_a_trained_network_is_reverted_for_single_images_only_when_asked(change):
    net = stir(change(trained()))
    want = ik.SetModel(net)(X, [1] * 5)
    kept = copy.deepcopy(net)
    with pytest.raises(ValueError, match="weights for the set mean are not zero"):
        ik.revert(net)
    assert [type(m) for m in net.modules()] == [type(m) for m in kept.modules()]
    report = ik.revert(net, single_images=True)
    torch.testing.assert_close(net(X), want, rtol=1e-5, atol=1e-6)
    assert not any(isinstance(m, ik.InterConv2d) for m in net.modules())
    assert {change.note.split(";")[0] for change in report.changed} == {"Wu + Ws, for sets of one image"}
    assert not torch.allclose(want, ik.SetModel(kept)(X, [5]), atol=1e-3)  # for larger sets it is another network


@pytest.mark.drop_in("PyTorch", "surgery: revert leaves layers that use the set, and says so")
def test_layers_that_use_the_set_stay():
    net = replace(trained())
    with torch.no_grad():
        net.head.weight[0, 5] = 1e-30
    want = ik.SetModel(net)(X, SETS)
    report = ik.revert(net)
    assert [name for name, _ in report.skipped] == ["head"]
    assert "revert(model, single_images=True)" in report.skipped[0][1]
    assert [change.note for change in report.changed] == ["Wu; Ws is zero; also all.0", *["Wu; Ws is zero"] * 2]
    assert_same(net, want)


def test_revert_preserves_what_surgery_preserves():
    net = replace(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4))).double())
    net[0].register_forward_hook(lambda *arguments: None)
    net[1].weight.requires_grad_(False)
    net[2].weight = net[3].weight
    net[3].name = "last"
    net[2].eval()
    net[1].to(memory_format=torch.channels_last)
    report = ik.revert(net)
    assert report.skipped == [("0", "it has forward hooks (<lambda>)")]
    assert not net[1].weight.requires_grad
    assert net[2].weight is net[3].weight
    assert (net[3].name, net[2].training, net[3].training) == ("last", False, True)
    assert net[1].weight.dtype == torch.float64
    with pytest.raises(ValueError, match="nothing to change in Sequential: 'InterConv' selects 0 layers"):
        ik.revert(nn.Sequential(nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("single_images", [False, True])
def test_revert_keeps_the_memory_format(fmt, single_images):
    net = ik.replace_with_interconv(nn.Conv2d(3, 4, 3).to(memory_format=fmt)).model
    assert net.weight.is_contiguous(memory_format=fmt)
    assert ik.revert(net, single_images=single_images).model.weight.is_contiguous(memory_format=fmt)


def test_an_appended_layer_that_has_learned_or_has_hooks_is_not_removed():
    net = append(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)))
    with torch.no_grad():
        net[0][1].bias[0] = 1
    net[1].register_forward_hook(lambda *arguments: None)
    ik.revert(net)
    assert [type(m) for m in (net[0][1], net[1][1], net[2])] == [nn.Conv2d] * 3
    net.load_state_dict(net.state_dict())


def test_activations_without_an_identity_beside_them():
    layer = ik.InterConv2d(3, 2, activation=nn.LeakyReLU(0.2))
    with torch.no_grad():
        layer.weight[:, 3:] = 0
    want = layer(X, SETS)
    report = ik.revert(layer)
    assert [type(m) for m in report.model] == [nn.Conv2d, nn.LeakyReLU]
    torch.testing.assert_close(report.model(X), want, rtol=1e-5, atol=1e-6)


def test_meta_layers():
    with pytest.raises(ValueError, match="meta device"):
        ik.revert(ik.InterConv2d(1, device="meta"))
    assert ik.revert(ik.InterConv2d(1, device="meta"), single_images=True).model.weight.shape == (1, 1, 3, 3)

"""append_interconv and replace_with_interconv."""

import copy

import pytest
import torch
from torch import nn

import interconv_kernels as ik


class Block(nn.Module):
    """A convolution that stands in two places, as in nnU-Net's blocks, a strided one, a grouped one, a transposed
    one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.InstanceNorm2d(6, affine=True)
        self.all = nn.Sequential(self.conv, self.norm, nn.LeakyReLU())
        self.down = nn.Conv2d(6, 8, (3, 5), stride=2, padding=(1, 4), dilation=(1, 2), bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding="same", groups=4)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.head(self.up(self.grouped(self.down(self.all(x)))))


def trained():
    torch.manual_seed(0)
    return Block().double()


X = torch.randn(6, 2, 8, 12, dtype=torch.float64)


@pytest.mark.parametrize("lengths", [[1, 1, 1, 1, 1, 1], [6], [2, 1, 3]])
@pytest.mark.parametrize("place", [ik.replace_with_interconv, ik.append_interconv])
def test_outputs_are_unchanged_at_first(place, lengths):
    net = trained()
    want = net(X)
    report = place(net)
    assert report.model is net
    torch.testing.assert_close(ik.SetModel(net)(X, lengths), want, rtol=0, atol=1e-12)
    # and sets do reach it: one step later they make a difference
    loss = (ik.SetModel(net)(X, [6]) ** 2).sum()
    loss.backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= 1e-3 * p.grad
    assert (ik.SetModel(net)(X, [6]) - ik.SetModel(net)(X, [1] * 6)).abs().max() > 1e-6


def test_replace_report_and_count():
    net = trained()
    before = sum(p.numel() for p in net.parameters())
    report = ik.replace_with_interconv(net)
    assert [name for name, *_ in report.changed] == ["conv", "down", "head"]
    assert report.skipped == [
        ("grouped", "it has groups=4, and InterConv mixes all channels"),
        ("up", "ConvTranspose2d is none of nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear"),
    ]
    extra = 6 * 2 * 9 + 8 * 6 * 15 + 3 * 4  # each weight doubled
    assert report.counts == (before, before + extra)
    assert net.conv is net.all[0]
    assert isinstance(net.conv, ik.InterConv2d)
    assert (net.down.stride, net.down.padding, net.down.dilation, net.down.bias) == ((2, 2), (1, 4), (1, 2), None)
    text = str(report)
    assert text.splitlines()[0] == f"3 layers changed, parameters {before:,} -> {before + extra:,}"
    assert "grouped: left as it is, it has groups=4" in text
    assert "conv: Conv2d(2, 6" in text


def test_replace_from_scratch_and_settings():
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding="same"), nn.Conv2d(3, 3, 3, padding="valid"), nn.Conv2d(3, 3, 2, padding="same")
    )
    net.half().eval()
    report = ik.replace_with_interconv(net, keep_outputs=False, algorithm="split")
    layer = net[0]
    assert layer.weight[:, 2:].any()
    assert layer.weight.dtype == torch.float16
    assert not layer.training
    assert layer.algorithm == "split"
    assert (net[0].padding, net[1].padding) == ((1, 1), (0, 0))
    assert report.skipped[0][0] == "2"
    assert "uneven" in report.skipped[0][1]
    wrapped = nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="reflect"), nn.Conv2d(1, 1, 1))
    assert "padding_mode='reflect'" in ik.replace_with_interconv(wrapped).skipped[0][1]


def test_append_after_chosen_layers():
    net = trained()
    report = ik.append_interconv(net, where=["up", nn.InstanceNorm2d], kernel_size=5, keep_outputs=False)
    assert [name for name, *_ in report.changed] == ["norm", "up"]
    assert isinstance(net.norm, nn.Sequential)
    assert net.norm is net.all[1]
    assert [type(m).__name__ for m in net.up] == ["ConvTranspose2d", "InterConv2d"]
    assert net.up[1].kernel_size == (5, 5)
    assert net.up[1].weight.dtype == torch.float64
    assert ik.SetModel(net)(X, [6]).shape == (6, 3, 8, 12)
    net = trained()
    ik.append_interconv(net, where="all")  # a block: its features are those of its last layer that has some
    assert net.all[1].in_channels == 6
    net = trained()
    assert len(ik.append_interconv(net, where=lambda name, module: name == "head").changed) == 1


def test_append_is_the_authors_layer():
    """After a Conv(C -> F): conv(concat(features, their mean)) with weights [F, 2F, k, k], written out here."""
    conv = nn.Conv2d(2, 5, 3, padding=1)
    net = nn.Sequential(conv)
    ik.append_interconv(net, keep_outputs=False)
    layer = net[0][1]
    assert layer.weight.shape == (5, 10, 3, 3)
    x = torch.randn(4, 2, 6, 6)
    u = conv(x)
    fused = torch.cat([u, u.mean(0, keepdim=True).repeat(4, 1, 1, 1)], dim=1)
    want = nn.functional.conv2d(fused, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(ik.SetModel(net)(x, [4]), want, rtol=1e-4, atol=1e-5)


def test_a_lone_layer_and_a_second_time():
    report = ik.replace_with_interconv(nn.Conv2d(2, 3, 3, padding=1))
    assert isinstance(report.model, ik.InterConv2d)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1))
    ik.append_interconv(net)
    inner = copy.deepcopy(net)
    report = ik.replace_with_interconv(net)  # the InterConv that is there already stays
    assert [name for name, *_ in report.changed] == ["0.0"]
    with pytest.raises(ValueError, match="nothing to change"):
        ik.replace_with_interconv(nn.Sequential(inner[0][1]))


# --- activations ------------------------------------------------------------------------------------------------------


def activated_network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.PReLU(6)),
        *(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 4, 1), nn.LeakyReLU(0.2)),
        nn.Conv2d(4, 2, 1),
    ).eval()


def test_activations_are_merged_where_they_follow_directly():
    x = torch.randn(5, 3, 9, 8)
    network = activated_network()
    want = network(x)
    report = ik.replace_with_interconv(network, merge_activations=True)
    assert ik.reference.relative_error(ik.SetModel(network)(x, [2, 3]), want) < 1e-6
    assert [type(layer.activation) for layer in network if isinstance(layer, ik.InterConv2d)] == [
        nn.PReLU,
        type(None),
        nn.LeakyReLU,
        type(None),
    ]
    assert [i for i, layer in enumerate(network) if isinstance(layer, nn.Identity)] == [1, 6]
    assert "0: Conv2d(3, 6" in str(report)
    assert "+ PReLU(num_parameters=6) -> InterConv2d" in str(report)
    assert "activation=PReLU(num_parameters=6)" in str(report)
    with torch.no_grad():
        assert ik.reference.relative_error(ik.SetModel(network)(x, [2, 3]), want) < 1e-6


def test_activations_are_not_merged_unless_asked_or_where_they_have_hooks():
    network = activated_network()
    ik.replace_with_interconv(network)
    assert not any(isinstance(layer, nn.Identity) for layer in network)
    network = activated_network()
    network[1].register_forward_hook(lambda *arguments: None)
    ik.replace_with_interconv(network, merge_activations=True)
    assert isinstance(network[1], nn.PReLU)
    assert isinstance(network[6], nn.Identity)


def test_a_layer_in_two_places_keeps_its_activations():
    conv = nn.Conv2d(2, 2, 1)
    network = nn.ModuleDict({"a": nn.Sequential(conv, nn.ReLU()), "b": nn.Sequential(conv, nn.LeakyReLU())})
    ik.replace_with_interconv(network, merge_activations=True)
    assert [type(branch[1]) for branch in network.values()] == [nn.ReLU, nn.LeakyReLU]

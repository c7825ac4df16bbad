"""Where InterConv goes in each network, and the layers that networks take as arguments."""

import pytest
import torch
from interconv_seg.networks import NnUNet, SimpleUNet, SwinUNet
from seg_common import SMALL, each_interconv, small
from torch import nn

import interconv_kernels as ik


@pytest.mark.parametrize("family", SMALL)
def test_append_puts_an_interconv_after_layers_as_they_were(family):
    plain, appended = small(family, None), small(family, "append")
    pairs = [m for m in appended.modules() if type(m) is nn.Sequential and isinstance(m[-1], ik.InterConv2d)]
    assert len(pairs) == {"simpleunet": 9, "nnunet": 10, "swinunet": 14, "scribbleprompt": 9}[family]
    for _, interconv in pairs:
        assert interconv.in_channels == interconv.out_channels
        assert interconv.kernel_size == ((1, 1) if family == "swinunet" else (3, 3))
        assert interconv.stride == (1, 1)
    extra = sum(p.numel() for _, interconv in pairs for p in interconv.parameters())
    assert sum(p.numel() for p in appended.parameters()) == sum(p.numel() for p in plain.parameters()) + extra


# Which layers of the baseline become, or are followed by, InterConv layers. This fixes the keys of checkpoints.
PATTERNS = {
    "simpleunet": (nn.Conv2d, ("encoder.?", "bottom", "decoder.?", "last"), 3),
    "nnunet": ("*.conv", ("encoder.?.?", "decoder.?.?"), 3),
    "swinunet": ("*.mlp.expand", "*.attention", 1),
    "scribbleprompt": (nn.Conv2d, ("encoder.?", "bottom", "decoder.?", "last"), 3),
}


def changed_baseline(family, interconv):
    """The baseline with its layers exchanged by the public functions of interconv_kernels."""
    replaced, appended_to, kernel_size = PATTERNS[family]
    body = small(family, None).body
    if interconv == "replace":
        return ik.replace_with_interconv(body, replaced, keep_outputs=False, merge_activations=family != "nnunet")
    return ik.append_interconv(body, appended_to, kernel_size, keep_outputs=False)


@each_interconv
def test_the_layers_are_those_of_a_changed_baseline(family, interconv):
    """The same keys in the same order, modules, and outputs for the same weights."""
    built, report = small(family, interconv).body.eval(), changed_baseline(family, interconv)
    expected = report.model.eval()
    assert [(n, p.shape) for n, p in built.state_dict().items()] == [
        (n, p.shape) for n, p in expected.state_dict().items()
    ]
    assert [(n, type(m), m.extra_repr()) for n, m in built.named_modules()] == [
        (n, type(m), m.extra_repr()) for n, m in expected.named_modules()
    ]
    built.load_state_dict(expected.state_dict())
    x = torch.randn(3, 2, 32, 64)
    with torch.no_grad(), ik.use_sets([1, 2]):
        assert torch.equal(built(x), expected(x))


def test_layers_are_arguments_of_the_networks():
    """Other layers than InterConv fit as well, and each call has the sizes and options of the layer."""
    calls = []

    def conv(in_channels, out_channels, **options):
        calls.append((in_channels, out_channels, options["kernel_size"], options.get("stride", 1), options["padding"]))
        return nn.Conv2d(in_channels, out_channels, bias=False, **options)

    body = SimpleUNet(1, 5, 4, conv=conv)
    assert calls == [(4, 4, 3, 1, 1)] * 5 + [(8, 4, 3, 1, 1)] * 3 + [(8, 5, 3, 1, 1)]
    assert body.first[0].bias is not None
    assert body.bottom[0].bias is None
    calls.clear()
    NnUNet(1, 5, (4, 6), conv=conv)
    assert calls == [
        (1, 4, 3, 1, 1),
        (4, 4, 3, 1, 1),
        (4, 6, 3, 2, 1),
        (6, 6, 3, 1, 1),
        (8, 4, 3, 1, 1),
        (4, 4, 3, 1, 1),
    ]
    calls.clear()
    for network, features in ((SimpleUNet, 4), (NnUNet, (4, 6)), (SwinUNet, 6)):
        network(1, 5, features, appended=lambda features: calls.append(features) or nn.Identity())
    assert calls == [4] * 8 + [5] + [4] * 2 + [6] * 2 + [4] * 2 + [6, 6, 12, 12, 24, 24, 48, 48, 24, 24, 12, 12, 6, 6]


def test_append_follows_the_activation():
    """As in the authors' code: convolution, PReLU, InterConv (github.com/Catherine0505/InterConv, models.py)."""
    for family in ("simpleunet", "scribbleprompt", "nnunet"):
        for name, pair in small(family, "append").named_modules():
            if (
                type(pair) is nn.Sequential
                and len(pair) == 2
                and isinstance(pair[1], ik.InterConv2d)
                and "last" not in name
            ):
                assert isinstance(list(pair[0].modules())[-1], (nn.PReLU, nn.LeakyReLU))


def test_simpleunet_is_that_of_the_authors():
    """The same outputs as a transcription of the forward pass in their code (models.py)."""
    body = small("simpleunet", None).body.eval()
    x = torch.randn(2, 2, 32, 48)
    y, skips = body.first(x), []
    for step in body.encoder:
        y = step(y)
        skips.append(y)
        y = nn.MaxPool2d(2, 2)(y)
    y = body.bottom(y)
    for step in [*body.decoder, body.last]:
        y = step(torch.cat((skips.pop(), nn.UpsamplingBilinear2d(scale_factor=2)(y)), dim=1))
    torch.testing.assert_close(body(x), y)


@pytest.mark.parametrize("family", SMALL)
def test_fresh_interconv_layers_have_the_weights_of_their_initialisation(family):
    """Both halves have the same distribution: no weights of a replaced convolution, no zeros in the set half."""
    for interconv in ("replace", "append"):
        for layer in small(family, interconv).modules():
            if isinstance(layer, ik.InterConv2d):
                own, other = layer.weight.detach().split(layer.in_channels, dim=1)
                assert float(own.std() / other.std()) == pytest.approx(1, rel=0.5)
                assert float(own.std()) > 0.01


def test_replace_leaves_nnunets_heads_and_transposed_convolutions_alone():
    body = small("nnunet", "replace").body
    kinds = {name: type(m) for name, m in body.named_modules() if not list(m.children())}
    convolutions = {name: kind for name, kind in kinds.items() if name.endswith(".conv")}
    assert len(convolutions) == 10
    assert set(convolutions.values()) == {ik.InterConv2d}
    assert body.encoder[1][0].conv.stride == (2, 2)
    assert {kind for name, kind in kinds.items() if name.startswith("heads")} == {nn.Conv2d}
    assert {kind for name, kind in kinds.items() if name.startswith("ups")} == {nn.ConvTranspose2d}


@pytest.mark.parametrize("family", ["simpleunet", "scribbleprompt"])
def test_checkpoints_with_separate_activations_load(family):
    """Layers apply their PReLU themselves; older checkpoints have it as a module of its own."""
    network = small(family, "replace").eval()
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight)
    state = {name.replace(".0.activation.", ".1."): x for name, x in network.state_dict().items()}
    assert not any("activation" in name for name in state)
    loaded = small(family, "replace").eval()
    loaded.load_state_dict(state)
    x = torch.randn(3, 2, 32, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x, [1, 2]), network(x, [1, 2]))

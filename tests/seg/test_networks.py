"""Every family and placement: counts, sets, sizes, errors."""

import pytest
import torch
import torch.nn.functional as F
from interconv_seg import automatic_loss, build
from interconv_seg.networks import FAMILIES, SIZES, NnUNet, SimpleUNet, tables
from seg_common import PLACEMENTS, SMALL, each_interconv, each_network, small
from torch import nn

import interconv_kernels as ik

FULL = (32, 64, 128, 256, 512, 512)
# (family, placement, features) -> parameters with 1 input channel and 21 classes; scribbleprompt with 1 class. The
# widths are those of the paper's Tables 4 to 6 and section 4.1. SwinUNet's baseline is what the published code of
# Swin-Unet counts; "replace" has 4 C^2 more in each block.
COUNTS = {
    **{("simpleunet", None, f): n for f, n in {
        24: 66_558, 34: 127_938, 48: 247_134, 70: 512_850, 100: 1_029_630, 142: 2_052_498, 200: 4_039_230,
        284: 8_097_438, 400: 15_998_430,
    }.items()},
    **{("simpleunet", "replace", f): n for f, n in {
        16: 63_246, 23: 122_781, 33: 241_491, 49: 513_795, 70: 1_025_040, 100: 2_058_330, 141: 4_046_871,
        200: 8_076_630, 282: 15_966_588,
    }.items()},
    ("simpleunet", "append", 16): 76_661,
    ("simpleunet", "append", 282): 19_446_249,
    ("nnunet", None, FULL): 20_638_025,
    ("nnunet", "replace", (23, 46, 92, 184, 368, 368)): 20_410_397,
    ("nnunet", "replace", FULL): 39_494_249,
    ("swinunet", None, 96): 27_166_980,
    ("swinunet", "replace", 84): 26_795_880,
    ("swinunet", "replace", 96): 34_982_148,
    ("scribbleprompt", None, 192): 3_656_458,
    ("scribbleprompt", "replace", 137): 3_724_903,
}  # fmt: skip


@pytest.mark.parametrize("family", SMALL)
def test_counts(family):
    for (name, interconv, features), expected in COUNTS.items():
        if name == family:
            assert tables.count_parameters(name, interconv, features) == expected, (name, interconv, features)


def test_the_tables_are_the_papers(capsys):
    counted = {(name, placement, str(features)): n for (name, placement, features), n in COUNTS.items()}
    family_of = {"SimpleUNet": "simpleunet", "nnUNet": "nnunet", "SwinUNet": "swinunet"}
    rows = tables.paper_networks()
    assert len(rows) == 26
    for row in rows:
        family = family_of.get(row.network.removesuffix("-InterConv"), "scribbleprompt")
        placement = "replace" if row.network.endswith("-InterConv") else None
        assert row.parameters == counted[family, placement, str(row.features)]
        figure = row.paper.removesuffix(" *")
        paper = float(figure[:-1]) * {"K": 1e3, "M": 1e6}[figure[-1]]
        starred = row.paper.endswith("*")
        assert (abs(row.parameters / paper - 1) < 0.11) == (not starred), row
    tables.main()
    out = capsys.readouterr().out
    assert "39,494,249 | 34.9M *" in out
    assert "34.9M is what Table 6 gives for SwinUNet-InterConv 96" in out


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_the_matched_network(size):
    family, baseline, replaced = SIZES[size]
    classes = 1 if family == "scribbleprompt" else 21
    with torch.device("meta"):
        networks = [build(size, interconv, classes=classes) for interconv in (None, "replace")]
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == [COUNTS[family, None, baseline], COUNTS[family, "replace", replaced]]
    assert abs(counts[0] / counts[1] - 1) < 0.06


@each_network
def test_forward_and_backward_with_ragged_sets(family, interconv):
    network = small(family, interconv).train()
    x, masks = torch.randn(6, 2, 40, 24), torch.randint(3, (6, 40, 24))
    logits = network(x, [1, 3, 2])
    if family == "nnunet":
        assert [tuple(y.shape) for y in logits] == [(6, 3, 40, 24), (6, 3, 20, 12)]
    else:
        assert logits.shape == (6, 3, 40, 24)
    automatic_loss(logits, masks, [1, 3, 2]).backward()
    for name, parameter in network.named_parameters():
        if "heads.0" not in name:  # the coarsest level has no weight in the loss
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name
    y = network.eval()(x, [1, 3, 2])
    assert y.shape == (6, 3, 40, 24)
    layers = [m for m in network.modules() if isinstance(m, ik.InterConv2d)]
    assert bool(layers) == (interconv is not None)
    assert torch.equal(network(x, [6]), y) == (interconv is None)  # a baseline ignores its sets
    torch.testing.assert_close(network(x, ik.Sets.from_lengths([1, 3, 2])), y, rtol=0, atol=0)


@each_network
@pytest.mark.parametrize("training", [False, True])
def test_sets_do_not_affect_each_other(family, interconv, training):
    network = small(family, interconv).train(training)
    x = torch.randn(6, 2, 32, 48)
    spoiled = x.clone()
    spoiled[2:5] = torch.nan
    outputs = []
    for images in (x, spoiled):
        torch.manual_seed(1)  # SwinUNet's stochastic depth
        logits = network(images, [2, 3, 1])
        outputs.append(logits if isinstance(logits, list) else [logits])
    others = [0, 1, 5]
    for y, z in zip(*outputs, strict=True):
        assert y.isfinite().all()
        assert z[2:5].isnan().all()
        assert torch.equal(y[others], z[others])
    spoiled[0] = torch.nan  # within a set, each sample affects the others
    with torch.no_grad():
        assert network.eval()(spoiled, [2, 3, 1])[1].isnan().any() == (interconv is not None)


class NaiveLayer(nn.Module):
    """The layer as in the paper: for each set the mean, the concatenation, one convolution (Eq. 1-3)."""

    def __init__(self, layer, lengths):
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, u):
        layer, results = self.layer, []
        for samples in u.split(self.lengths):
            s = sum(samples) / len(samples)
            c = torch.stack([torch.cat([sample, s]) for sample in samples])
            results.append(F.conv2d(c, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation))
        y = torch.cat(results)
        return y if layer.activation is None else layer.activation(y)


@each_interconv
def test_the_authors_formula_through_a_whole_network(family, interconv):
    network = small(family, interconv).double().eval()
    x = torch.randn(6, 2, 33, 48, dtype=torch.float64)
    y = network(x, [1, 3, 2])
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ik.InterConv2d):
                setattr(parent, name, NaiveLayer(child, [1, 3, 2]))
    torch.testing.assert_close(network(x), y, rtol=1e-9, atol=1e-9)


def test_fresh_weights_are_each_authors():
    for interconv in PLACEMENTS:
        for module in build("nnunet", interconv, features=(32, 64)).modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, ik.InterConv2d)):
                inputs = module.weight[0].numel()  # torch's fan_in
                assert float(module.weight.detach().std() * inputs**0.5) == pytest.approx(2**0.5, rel=0.25)
                assert not module.bias.any()
        linear = [
            m
            for m in build("swinunet", interconv, features=24).body.encoder.modules()
            if isinstance(m, (nn.Linear, nn.Conv2d, ik.InterConv2d))
        ]
        for module in linear:
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
            assert not module.bias.any()


@each_network
@pytest.mark.parametrize("size", [(1, 1), (7, 50), (33, 17)])
def test_images_of_any_size(family, interconv, size):
    network = small(family, interconv)
    x = torch.randn(3, 2, *size)
    logits = network.train()(x, [2, 1])
    for level, y in enumerate(logits if family == "nnunet" else [logits]):
        assert y.shape == (3, 3, *(-(-side // 2**level) for side in size))
        assert y.isfinite().all()
    # Padding repeats the last row and column: an image padded so by hand has the same logits where they overlap.
    padded = F.pad(x, (0, 64 - size[1], 0, 64 - size[0]), mode="replicate")[:, :, : size[0] + 1, : size[1] + 1]
    network.eval()
    torch.testing.assert_close(
        network(padded, [2, 1])[:, :, : size[0], : size[1]], network(x, [2, 1]), rtol=1e-4, atol=1e-4
    )


def test_the_state_is_the_bodys_and_loads():
    one, other = small("nnunet", "replace"), small("nnunet", "replace")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 2, 16, 16)
    assert torch.equal(one.eval()(x, 2), other.eval()(x, 2))
    assert all(name.startswith("body.") for name in one.state_dict())


@pytest.mark.parametrize("family", SMALL)
def test_it_compiles(family):
    network = small(family, "replace").eval()
    x, sets = torch.randn(3, 2, 32, 32), ik.Sets.from_lengths([2, 1])
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")(x, sets)
        torch.testing.assert_close(compiled, network(x, sets), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "simpelunet"}, ValueError, "unknown network 'simpelunet'.*did you mean 'simpleunet'"),
        ({"name": "nnunet-200M"}, ValueError, "did you mean 'nnunet-20M'"),
        ({"name": "simpleunet", "interconv": "replaced"}, ValueError, "unknown interconv 'replaced'.*'replace'"),
        ({"name": "simpleunet-2M", "features": 5}, ValueError, "'simpleunet-2M' and features = 5"),
        (
            {"name": "simpleunet-2M", "interconv": "append"},
            ValueError,
            r"build\('simpleunet', 'append', features=100\)",
        ),
        ({"name": "simpleunet", "features": 0}, ValueError, "features = 0: expected at least 1"),
        ({"name": "simpleunet", "features": [8]}, TypeError, r"features = \[8\]: expected an int"),
        ({"name": "simpleunet", "classes": 0}, ValueError, "classes = 0"),
        ({"name": "swinunet", "in_channels": 1.5}, TypeError, "in_channels = 1.5"),
        ({"name": "swinunet", "features": 32}, ValueError, "features = 32: expected a multiple of 3"),
        ({"name": "nnunet", "features": 32}, TypeError, "features = 32: expected the features of each stage"),
        ({"name": "nnunet", "features": (8, -1)}, ValueError, r"features\[1\] = -1"),
        ({"name": "simpleunet", "interconv": "replace", "algorithm": "splt"}, ValueError, "did you mean 'split'"),
        ({"name": "simpleunet", "interconv": "append", "backend": "cuda9"}, ValueError, "backend 'cuda9'"),
    ],
)
def test_what_build_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        build(**arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_network_refuses(family):
    network = small(family, "replace")
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 32\): expected \[N, 2, H, W\]"):
        network(torch.zeros(2, 1, 32, 32), 2)
    with pytest.raises(ValueError, match=r"\(2, 2, 0, 32\).*at least 1"):
        network(torch.zeros(2, 2, 0, 32), 2)
    with pytest.raises(TypeError, match="uint8"):
        network(torch.zeros(2, 2, 32, 32, dtype=torch.uint8), 2)
    with pytest.raises(ValueError, match="no sets"):
        network(torch.zeros(2, 2, 32, 32))
    for placement in (None, "replace"):
        with pytest.raises(ValueError, match="3"):
            small(family, placement)(torch.zeros(2, 2, 32, 32), [1, 2])


def test_a_body_refuses_sizes_that_do_not_fit():
    for body, stride in ((SimpleUNet(), 16), (NnUNet(), 32)):
        with pytest.raises(ValueError, match=rf"\(1, 1, 20, 32\).*multiples of {stride}"):
            body(torch.zeros(1, 1, 20, 32))


@pytest.mark.drop_in("PyTorch", "memory format of {family}: the faster one")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_memory_format_is_the_faster_one_on_the_cpu(family):
    """In nnUNet the results of instance norm are NCHW, so its weights are, too."""
    network = small(family, "replace").to_device("cpu")
    fmt = torch.contiguous_format if family == "nnunet" else torch.channels_last
    assert all(x.is_contiguous(memory_format=fmt) for x in network.parameters() if x.dim() == 4)

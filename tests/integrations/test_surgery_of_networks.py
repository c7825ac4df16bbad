"""Surgery on networks of MONAI, nnU-Net, segmentation-models-pytorch, torchvision and timm."""

import copy

import monai.networks.nets as monai_nets
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision.models as tv
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

import interconv_kernels as ik

LENGTHS = [1, 2]
SIZES = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}
NNUNET = {
    "input_channels": 1,
    "n_stages": 4,
    "features_per_stage": (8, 16, 32, 32),
    "conv_op": nn.Conv2d,
    "kernel_sizes": 3,
    "strides": (1, 2, 2, 2),
    "num_classes": 3,
    "n_conv_per_stage_decoder": 1,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm2d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}


def of_monai(name, **options):
    return lambda: getattr(monai_nets, name)(**SIZES, **options)


def of_smp(name, encoder):
    return lambda: getattr(smp, name)(encoder, encoder_weights=None, classes=3)


def of_timm(name, **options):
    return lambda: timm.create_model(name, **options)


NETWORKS = {
    "monai UNet": of_monai("UNet", channels=(8, 16, 32), strides=(2, 2), num_res_units=2),
    "monai BasicUNet": of_monai("BasicUNet", features=(8, 8, 16, 16, 32, 8)),
    "monai BasicUNetPlusPlus": of_monai("BasicUNetPlusPlus", features=(8, 8, 16, 16, 32, 8)),
    "monai DynUNet": of_monai(
        "DynUNet",
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[8, 16, 32],
        deep_supervision=True,
    ),
    "monai AttentionUnet": of_monai("AttentionUnet", channels=(8, 16, 32), strides=(2, 2)),
    "monai SegResNet": of_monai("SegResNet", init_filters=8),
    "monai SwinUNETR": of_monai("SwinUNETR", feature_size=12),
    "monai UNETR": of_monai("UNETR", img_size=64, feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4),
    "nnunet PlainConvUNet": lambda: PlainConvUNet(**NNUNET, n_conv_per_stage=2, deep_supervision=True),
    "nnunet ResidualEncoderUNet": lambda: ResidualEncoderUNet(**NNUNET, n_blocks_per_stage=2),
    "smp Unet": of_smp("Unet", "resnet18"),
    "smp UnetPlusPlus": of_smp("UnetPlusPlus", "mobilenet_v2"),
    "smp DeepLabV3Plus": of_smp("DeepLabV3Plus", "resnet18"),
    "smp FPN": of_smp("FPN", "resnet18"),
    "smp MAnet": of_smp("MAnet", "resnet18"),
    "smp Segformer": of_smp("Segformer", "mit_b0"),
    "torchvision resnet18": tv.resnet18,
    "torchvision lraspp": lambda: tv.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None),
    "torchvision convnext": tv.convnext_tiny,
    "timm tf_efficientnet": of_timm("tf_efficientnet_b0"),  # Conv2dSame
    "timm resnetv2": of_timm("resnetv2_50x1_bit"),  # StdConv2d
    "timm nf_regnet": of_timm("nf_regnet_b0"),  # ScaledStdConv2d
    "timm repvgg": of_timm("repvgg_a0"),
    "timm swin": of_timm("swin_tiny_patch4_window7_224", img_size=64, window_size=2),
}
each_network = pytest.mark.parametrize("name", NETWORKS)
# Layers that stay because their class computes something else.
OWN_FORWARD = {
    "timm tf_efficientnet": {"Conv2dSame"},
    "timm resnetv2": {"StdConv2d"},
    "timm nf_regnet": {"ScaledStdConv2d"},
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(name, seed=0):
    torch.manual_seed(seed)
    return NETWORKS[name]().eval()


def images(name):
    channels = 1 if name.startswith(("monai", "nnunet")) else 3
    return torch.randn(3, channels, 64, 64, generator=torch.Generator().manual_seed(0))


def flat(outputs):
    """All outputs in one vector."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return torch.cat([flat(y) for y in outputs]) if isinstance(outputs, (list, tuple)) else outputs.double().flatten()


def plain_outputs(network, x):
    with torch.no_grad():
        return flat(network(x))


def set_outputs(network, x):
    with torch.no_grad():
        return flat(ik.SetModel(network)(x, LENGTHS))


def difference(y, want):
    return float((y - want).norm() / want.norm())


def expected_reasons(network):
    """The name of each convolution, with the beginning of the reason why it stays, or "" if it is replaced."""
    reasons = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            kind = type(module)
            plain = next((kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(module, kind)), None)
            if plain is None:
                reasons[name] = f"{kind.__name__} is none of nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear"
            elif kind is not plain:
                reasons[name] = f"{kind.__name__} is a {plain.__name__} with its own "
            else:
                reasons[name] = f"it has groups={module.groups}" if module.groups > 1 else ""
    return reasons


@pytest.mark.drop_in("{name}", "surgery: outputs, report, plain checkpoints, revert, append")
@each_network
def test_replace_keeps_the_outputs_and_reports_what_it_did(name):
    network, x = made(name), images(name)
    expected, before = expected_reasons(network), dict(network.named_modules())
    want, exact = plain_outputs(network, x), plain_outputs(copy.deepcopy(network).double(), x.double())
    report = ik.replace_with_interconv(network)
    assert difference(set_outputs(network, x), want) <= 2e-6
    assert difference(set_outputs(network.double(), x.double()), exact) <= 1e-13  # so the above is rounding
    assert [change.name for change in report.changed] == [name for name, reason in expected.items() if not reason]
    stay = {name: reason for name, reason in expected.items() if reason}
    assert [name for name, _ in report.skipped] == list(stay)
    assert all(reason.startswith(stay[name]) for name, reason in report.skipped)
    assert all(network.get_submodule(name) is before[name] for name in stay)
    assert all(type(network.get_submodule(change.name)) is ik.InterConv2d for change in report.changed)
    stay_for_their_class = {reason.split()[0] for _, reason in report.skipped if "with its own" in reason}
    assert stay_for_their_class == OWN_FORWARD.get(name, set())


@pytest.mark.drop_in("{name}", "surgery: outputs, report, plain checkpoints, revert, append")
@each_network
def test_revert_gives_the_same_bits_back(name):
    plain, x = made(name), images(name)
    network = copy.deepcopy(plain)
    ik.replace_with_interconv(network)
    report = ik.revert(network)
    assert not report.skipped
    assert list(network.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in network.modules()] == [type(module) for module in plain.modules()]
    assert torch.equal(plain_outputs(network, x), plain_outputs(plain, x))


@pytest.mark.drop_in("{name}", "surgery: outputs, report, plain checkpoints, revert, append")
@each_network
def test_checkpoints_of_the_plain_network_load(name):
    network, other, x = made(name).double(), made(name, seed=1).double(), images(name).double()
    ik.replace_with_interconv(network)
    network.load_state_dict(other.state_dict())
    assert difference(set_outputs(network, x), plain_outputs(other, x)) <= 1e-13


# Without the networks of many wide layers, where appended layers would take gigabytes.
SMALL = [
    name
    for name in NETWORKS
    if not name.startswith("timm") and name not in ("smp UnetPlusPlus", "torchvision lraspp", "torchvision convnext")
]


@pytest.mark.drop_in("{name}", "surgery: outputs, report, plain checkpoints, revert, append")
@pytest.mark.parametrize("name", [*SMALL, "timm swin"])
def test_append_keeps_the_outputs_and_loads_checkpoints_of_the_plain_network(name):
    network, other, x = made(name), made(name, seed=1), images(name)
    want = plain_outputs(network, x)
    report = ik.append_interconv(network)
    assert not report.skipped
    assert report.dead == 0
    assert difference(set_outputs(network, x), want) <= 2e-6
    network.load_state_dict(other.state_dict())
    assert difference(set_outputs(network, x), plain_outputs(other, x)) <= 2e-6
    assert not ik.revert(network).skipped
    assert list(network.state_dict()) == list(other.state_dict())
    assert torch.equal(plain_outputs(network, x), plain_outputs(other, x))


@pytest.mark.drop_in("nnunet PlainConvUNet", "surgery: where=ik.deepest(2, images)")
def test_the_deepest_levels_of_nnunet():
    network = made("nnunet PlainConvUNet")
    report = ik.replace_with_interconv(network, where=ik.deepest(2, images("nnunet"), of="*.conv"))
    names = [change.name for change in report.changed]
    assert names == [
        *("encoder.stages.2.0.convs.0.conv", "encoder.stages.2.0.convs.1.conv"),
        *("encoder.stages.3.0.convs.0.conv", "encoder.stages.3.0.convs.1.conv"),
        "decoder.stages.0.convs.0.conv",
    ]

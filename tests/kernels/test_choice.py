"""What `auto` chooses, and that it needs no values to choose."""

import pytest
import torch
from common import FORMATS

import interconv_kernels as ik
from interconv_kernels._backends.registry import BACKENDS
from interconv_kernels.choice import choose
from interconv_kernels.convolution import Conv
from interconv_kernels.sets import SetIndex

CONV = Conv((1, 1), (0, 0), (1, 1))


def sets_of(num_sets, num_samples):
    sets = ik.Sets.equal(num_sets, num_samples // num_sets)
    return SetIndex(sets.offsets, sets.set_ids)


def chosen(backend, algorithm, direction, conv, u, weight, num_sets):
    return choose(backend, algorithm, direction, conv, u, weight, sets_of(num_sets, u.shape[0]))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("mean_size", "channels", "kernel", "expected"),
    [
        (1, 16, 1, "centered"),  # one plain convolution
        (1, 192, 3, "centered"),
        (2, 16, 1, {"nchw": "centered", "channels_last": "split"}),
        (2, 16, 3, "centered"),
        (2, 192, 3, "centered"),
        (4, 16, 1, "split"),  # little arithmetic: passes over memory count
        (4, 16, 3, "split"),
        (4, 64, 3, "centered"),
        (8, 192, 3, "centered"),
        (32, 192, 3, "split"),  # one half-convolution in 33 is no longer worth it
    ],
)
def test_choice(mean_size, channels, kernel, expected, fmt):
    u = torch.empty(32, channels, 4, 4, device="meta").contiguous(memory_format=FORMATS[fmt])
    weight = torch.empty(8, 2 * channels, kernel, kernel, device="meta")
    expected = expected if isinstance(expected, str) else expected[fmt]
    assert chosen("torch", "auto", "forward", CONV, u, weight, 32 // mean_size).algorithm == expected


def test_an_explicit_choice_is_taken():
    u, weight = torch.empty(4, 2, 3, 3, device="meta"), torch.empty(2, 4, 3, 3, device="meta")
    for name in ("concat", "split", "centered"):
        assert chosen("torch", name, "forward", CONV, u, weight, 4).algorithm == name


def test_one_channel_is_concatenated_on_the_cpu():
    weight = torch.empty(8, 2, 3, 3)
    for device, expected in (("cpu", "concat"), ("meta", "split")):
        u = torch.empty(8, 1, 4, 4, device=device)
        assert chosen("torch", "auto", "forward", CONV, u, weight, 2).algorithm == expected


@pytest.mark.parametrize(
    ("channels", "kernel", "direction", "expected"),
    [
        (64, 3, "forward", True),
        (64, 3, "backward", True),
        (7, 3, "forward", False),  # its lanes are mostly empty
        (7, 3, "backward", True),
        (3, 3, "backward", False),
        (1, 1, "forward", True),
        (512, 1, "backward", True),
    ],
)
def test_where_the_fused_layers_of_the_cpu_are_fastest(monkeypatch, channels, kernel, direction, expected):
    u, weight = torch.empty(8, channels, 4, 4), torch.empty(8, 2 * channels, kernel, kernel)
    conv = Conv((1, 1), (kernel // 2, kernel // 2), (1, 1))
    for capability, has in (("AVX512", expected), ("AVX2", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert BACKENDS["cpp"].can_fuse(conv, u, weight) is None
        assert (chosen("cpp", "auto", direction, conv, u, weight, 4).algorithm == "fused") is has


@pytest.mark.parametrize(
    ("channels", "out_channels", "kernel", "expected"),
    [
        (16, 16, 1, 1),  # 16 * 16 / (8 * 32): one sample is always centered
        (64, 64, 1, 4),
        (96, 384, 1, 9),
        (384, 96, 1, 9),
        (64, 64, 3, 8),
        (512, 512, 3, 8),
    ],
)
def test_up_to_which_size_the_fused_layer_is_centered(channels, out_channels, kernel, expected):
    """1x1: C Co >= 8 K (C + Co); 3x3: as many samples as the kernel packs."""
    u, weight = torch.empty(8, channels, 4, 4), torch.empty(out_channels, 2 * channels, kernel, kernel)
    conv = Conv((1, 1), (kernel // 2, kernel // 2), (1, 1))
    assert chosen("cpp", "fused", "forward", conv, u, weight, 4).max_centered == expected
    size = expected + 1
    if kernel == 1:
        assert channels * out_channels < 8 * size * (channels + out_channels)

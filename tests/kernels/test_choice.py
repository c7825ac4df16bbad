"""What `auto` chooses, and that it needs no values to choose."""

import pytest
import torch
from common import FORMATS

from interconv_kernels import algorithms
from interconv_kernels._backends import cpp_ops, torch_ops
from interconv_kernels.convolution import Conv

CONV = Conv((1, 1), (0, 0), (1, 1))


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
    assert algorithms.choose(torch_ops, "auto", "forward", CONV, u, weight, 32 // mean_size) == expected


def test_an_explicit_choice_is_taken():
    u, weight = torch.empty(4, 2, 3, 3, device="meta"), torch.empty(2, 4, 3, 3, device="meta")
    for name in ("concat", "split", "centered"):
        assert algorithms.choose(torch_ops, name, "forward", CONV, u, weight, 4) == name


def test_one_channel_is_concatenated_on_the_cpu():
    weight = torch.empty(8, 2, 3, 3)
    for device, expected in (("cpu", "concat"), ("meta", "split")):
        u = torch.empty(8, 1, 4, 4, device=device)
        assert algorithms.choose(torch_ops, "auto", "forward", CONV, u, weight, 2) == expected


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
        assert cpp_ops.can_fuse(conv, u, weight) is None
        assert cpp_ops.fused_is_fastest(direction, conv, u, weight) is has

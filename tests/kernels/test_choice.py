"""What `auto` chooses, and that it needs no values to choose."""

import pytest
import torch
from common import FORMATS

from interconv_kernels import algorithms
from interconv_kernels._backends import torch_ops
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

"""What `auto` chooses, and that it needs no values to choose."""

import pytest
import torch

from interconv_kernels import algorithms


@pytest.mark.parametrize(
    ("lengths_mean", "channels", "kernel", "expected"),
    [
        (1, 16, 1, "centered"),  # one plain convolution
        (1, 192, 3, "centered"),
        (2, 16, 1, "split"),  # little arithmetic: passes over memory count
        (2, 16, 3, "centered"),
        (2, 192, 3, "centered"),
        (4, 16, 3, "split"),
        (4, 64, 3, "centered"),
        (32, 192, 3, "split"),  # one half-convolution in 33 is no longer worth it
    ],
)
def test_choice(lengths_mean, channels, kernel, expected):
    u = torch.empty(32, channels, 4, 4, device="meta")
    weight = torch.empty(8, 2 * channels, kernel, kernel, device="meta")
    assert algorithms.choose("auto", u, weight, 32 // lengths_mean) == expected


def test_an_explicit_choice_is_taken():
    u, weight = torch.empty(4, 2, 3, 3, device="meta"), torch.empty(2, 4, 3, 3, device="meta")
    for name in ("concat", "split", "centered"):
        assert algorithms.choose(name, u, weight, 4) == name

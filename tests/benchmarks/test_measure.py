"""What each direction times."""

import time

import pytest
import torch

from benchmarks.check import make_inputs
from benchmarks.measure import Settings, last_level_cache_bytes, measure_implementations
from benchmarks.suites import DIRECTIONS, Case, Layer
from interconv_kernels.reference import concat_interconv

CASE = Case(Layer("square", 4, 6, 9, 8), (2, 1))


def plain(u, weight, bias):
    return concat_interconv(u, weight, bias, CASE.lengths)


def measure(implementation, directions, repeats=2):
    settings = Settings(torch.device("cpu"), torch.float32, directions, ["contiguous"], repeats, cuda_graphs=False)
    return measure_implementations(
        CASE, "contiguous", {"plain": implementation}, make_inputs(CASE, torch.float32), settings
    )


class SlowBackward(torch.autograd.Function):
    """The identity, whose gradient takes 200 ms."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        time.sleep(0.2)
        return g


def test_a_direction_times_what_it_says():
    def slow(u, weight, bias):
        time.sleep(0.2)
        return SlowBackward.apply(plain(u, weight, bias))

    fwd, bwd, both = measure(slow, DIRECTIONS)
    assert 0.2 <= fwd.p50 < 0.35
    assert 0.2 <= bwd.p50 < 0.35
    assert both.p50 >= 0.4


@pytest.mark.parametrize(("direction", "expected"), [("fwd", False), ("bwd", True), ("both", True)])
def test_the_forward_alone_is_without_autograd(direction, expected):
    seen = set()

    def implementation(u, weight, bias):
        seen.add(torch.is_grad_enabled())
        return plain(u, weight, bias)

    measure(implementation, [direction])
    assert seen == {expected}


def test_inputs_rotate_through_copies():
    seen = []

    def implementation(u, weight, bias):
        seen.append((u.data_ptr(), weight.data_ptr(), bias.data_ptr()))
        return plain(u, weight, bias)

    measure(implementation, ["fwd"], repeats=5)
    assert len(set(seen[-6:])) == 6  # with the warm-up, each call has another copy
    assert last_level_cache_bytes() >= 2**19


def test_a_measurement_describes_what_was_measured():
    [row] = measure(plain, ["both"])
    assert (row.case, row.lengths) == (str(CASE), [2, 1])
    assert (row.implementation, row.memory_format, row.direction) == ("plain", "contiguous", "both")
    saved = 2 * 3 * 4 * 9 * 8 * 4  # the convolution saves cat(u, s); the weight is an input
    assert row.details["saved_bytes"] == saved
    assert Layer(*(row.details[name] for name in Layer._fields)) == CASE.layer

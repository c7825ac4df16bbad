"""What is timed in each direction."""

import time

import pytest
import torch

from benchmarks import peers
from benchmarks.check import make_inputs
from benchmarks.measure import DIRECTIONS, Settings, last_cache_bytes, measure_forms
from benchmarks.suites import Case, Layer

CASE = Case(Layer("square", 4, 6, 9, 8), (2, 1))
PLAIN = peers.plain(CASE)


def measure(form, directions, repeats=2):
    settings = Settings(torch.device("cpu"), torch.float32, directions, ["NCHW"], repeats, cuda_graphs=False)
    return measure_forms(CASE, "NCHW", {"form": form}, make_inputs(CASE, torch.float32), settings)


class SlowBackward(torch.autograd.Function):
    """x, whose gradient takes 200 ms."""

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
        return SlowBackward.apply(PLAIN(u, weight, bias))

    fwd, bwd, both = measure(slow, DIRECTIONS)
    assert 0.2 <= fwd.p50 < 0.35
    assert 0.2 <= bwd.p50 < 0.35
    assert both.p50 >= 0.4


@pytest.mark.parametrize(("direction", "expected"), [("fwd", False), ("bwd", True), ("both", True)])
def test_the_forward_alone_is_without_autograd(direction, expected):
    seen = set()

    def form(u, weight, bias):
        seen.add(torch.is_grad_enabled())
        return PLAIN(u, weight, bias)

    measure(form, [direction])
    assert seen == {expected}


def test_inputs_rotate_through_copies():
    seen = []

    def form(u, weight, bias):
        seen.append((u.data_ptr(), weight.data_ptr(), bias.data_ptr()))
        return PLAIN(u, weight, bias)

    measure(form, ["fwd"], repeats=5)
    assert len(set(seen[-6:])) == 6  # with the warm-up, each turn on others
    assert last_cache_bytes() >= 2**19


def test_rows_say_what_was_measured():
    [row] = measure(PLAIN, ["both"])
    assert (row.case, row.network, row.kernel, row.stride, row.lengths) == (str(CASE), "square", 3, 1, [2, 1])
    assert (row.in_channels, row.out_channels, row.height, row.width) == (4, 6, 9, 8)
    assert (row.layout, row.direction, row.form) == ("NCHW", "both", "form")
    assert row.saved_bytes == 2 * 3 * 4 * 9 * 8 * 4  # what conv keeps beside the weight: cat(u, s)

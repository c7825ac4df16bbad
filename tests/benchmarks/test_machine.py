"""The roofline against FLOPs and bytes that are counted in another way."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import Machine, max_rates, measure_machine, min_work, roofline_seconds
from benchmarks.suites import Case, Layer

CASES = [
    Case(Layer("square", 6, 6, 9, 8), (2, 2)),
    Case(Layer("square", 3, 5, 9, 8, stride=2), (3, 1)),
    Case(Layer("square", 4, 8, 7, 5, kernel=1), (1,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_work_is_one_plain_convolution_of_every_sample(case):
    layer = case.layer
    u = torch.randn(case.samples, layer.in_channels, layer.height, layer.width, requires_grad=True)
    weight = torch.randn(layer.out_channels, layer.in_channels, layer.kernel, layer.kernel, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = F.conv2d(u, weight, stride=layer.stride, padding=layer.kernel // 2)
    with FlopCounterMode(display=False) as backward:
        grad_u, _ = torch.autograd.grad(y, (u, weight), torch.ones_like(y))
    flops = {"fwd": forward.get_total_flops(), "bwd": backward.get_total_flops()}
    moved = {"fwd": u.nbytes + y.nbytes, "bwd": u.nbytes + y.nbytes + grad_u.nbytes}
    for counts in (flops, moved):
        counts["both"] = counts["fwd"] + counts["bwd"]
    for direction in ("fwd", "bwd", "both"):
        assert min_work(case, direction, itemsize=4) == (flops[direction], moved[direction])
        assert min_work(case, direction, itemsize=2) == (flops[direction], moved[direction] // 2)


def test_the_roofline_is_what_takes_longer():
    machine = Machine(flops=100.0, bandwidth=10.0)
    assert roofline_seconds(1000, 10, machine) == 10  # bound by arithmetic
    assert roofline_seconds(100, 50, machine) == 5  # bound by memory


def test_the_higher_of_two_measurements_is_kept_for_each_rate():
    assert max_rates(Machine(1, 20), Machine(2, 10)) == Machine(2, 20)


def test_this_machine_is_measured():
    machine = measure_machine(torch.device("cpu"), torch.float32, repeats=1)
    assert 1e8 < machine.flops < 1e15
    assert 1e7 < machine.bandwidth < 1e14

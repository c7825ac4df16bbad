"""The fused 1x1 layer of backend "cpp" (csrc/pointwise.cpp): the oracle, islands, bits, memory around the tensors."""

import itertools

import pytest
import torch
from common import FORMATS, make_case, oracle, with_grads, worst
from test_cpp import Guarded, needs_extension

import interconv_kernels as ik
from interconv_kernels._backends import cpp_ops
from interconv_kernels.convolution import Conv
from interconv_kernels.layout import flat, memory_format
from interconv_kernels.sets import SetIndex

pytestmark = needs_extension
formats = pytest.mark.parametrize("fmt", FORMATS)
CONV = Conv((1, 1), (0, 0), (1, 1))
MASKS = list(itertools.product([False, True], repeat=3))
# Channels that fill vectors, panels and blocks of the matrix product, and those that leave tails of all kinds.
CHANNELS = [(1, 1), (3, 1), (1, 16), (16, 16), (23, 3), (3, 23), (64, 64), (33, 47), (137, 20), (16, 192), (192, 137)]
SETS = {"ragged": [2, 1, 7, 3], "ones": [1, 1, 1], "one long": [64], "large and small": [1, 64, 2, 1], "longest": [150]}


def index(lengths):
    sets = ik.Sets.from_lengths(lengths)
    return SetIndex(sets.live_offsets, sets.live_ids)


def forward(case):
    return cpp_ops.fused_forward(CONV, case.u, case.weight, case.bias, index(case.lengths))


def backward(case, g, need=(True, True, True)):
    return cpp_ops.fused_backward(CONV, g, case.u, case.weight, index(case.lengths), need)


def everything(case, g):
    return [forward(case), *backward(case, g)]


def make(lengths, channels, out_channels, size, fmt, **more):
    case = make_case(lengths, channels, out_channels, size, kernel=1, dtype=torch.float32, fmt=fmt, **more)
    random = torch.Generator().manual_seed(1)
    g = torch.randn(sum(lengths), out_channels, *size, generator=random).contiguous(memory_format=FORMATS[fmt])
    return case, g if g.stride() == forward(case).stride() else torch.empty_like(forward(case)).copy_(g)


@formats
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("channels", "out_channels"), CHANNELS)
def test_agrees_with_the_oracle(fmt, bias, channels, out_channels):
    for size in ((1, 1), (5, 7), (17, 20)):
        case, g = make(SETS["ragged"], channels, out_channels, size, fmt, bias=bias)
        want = with_grads(oracle, case.to(torch.float64), g.double())
        for got, exact in zip(everything(case, g), want, strict=False):
            assert worst(got, exact) < 1e-5, size


@formats
@pytest.mark.parametrize("lengths", SETS.values(), ids=SETS)
def test_sets_of_any_size(fmt, lengths):
    case, g = make(lengths, 21, 18, (20, 21), fmt)
    want = with_grads(oracle, case.to(torch.float64), g.double())
    for got, exact in zip(everything(case, g), want, strict=True):
        assert worst(got, exact) < 1e-5


@formats
def test_only_the_gradients_that_are_needed(fmt):
    case, g = make(SETS["ragged"], 21, 18, (9, 7), fmt)
    everywhere = backward(case, g)
    for need in MASKS:
        for got, want, needed in zip(backward(case, g, need), everywhere, need, strict=True):
            assert torch.equal(got, want) if needed else got is None


@formats
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_another_sets_values_change_nothing(fmt, bad):
    case, g = make([3, 1, 4, 2], 21, 18, (15, 16), fmt)
    y, grad_u, *_ = everything(case, g)
    case.u[4:8], g[4:8] = bad, bad
    spoiled, spoiled_grad, *_ = everything(case, g)
    others = [0, 1, 2, 3, 8, 9]
    assert torch.equal(y[others], spoiled[others])
    assert torch.equal(grad_u[others], spoiled_grad[others])


@formats
def test_a_sets_place_in_the_batch_changes_nothing(fmt):
    lengths, order = [3, 1, 8, 2, 64], [4, 2, 0, 3, 1]
    case, g = make(lengths, 21, 18, (15, 16), fmt)
    rows = torch.cat([torch.arange(sum(lengths)).split(lengths)[b] for b in order])
    moved, _ = make([lengths[b] for b in order], 21, 18, (15, 16), fmt)
    moved.u.copy_(case.u[rows])
    y, grad_u, *_ = everything(case, g)
    y2, grad_u2, *_ = everything(moved, torch.empty_like(g).copy_(g[rows]))
    assert torch.equal(y[rows], y2)
    assert torch.equal(grad_u[rows], grad_u2)


@formats
def test_same_bits_run_after_run_and_for_any_number_of_threads(fmt):
    case, g = make([3, 1, 8, 2, 64, 1], 21, 18, (31, 33), fmt)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            runs.append(everything(case, g))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


@formats
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(("channels", "out_channels"), CHANNELS)
def test_nothing_around_the_tensors_is_read_or_written(fmt, offset, channels, out_channels):
    case, g = make([2, 1, 4], channels, out_channels, (9, 11), fmt)
    sets, order = index(case.lengths), memory_format(case.u)  # one channel is NCHW

    def given(x):
        return Guarded(*x.shape, torch.float32, offset, x)

    def made(rows, columns):
        return Guarded(rows, columns, torch.float32, offset)

    u, weight, bias, g_rows = (
        given(x).rows for x in (flat(case.u, order), case.weight.flatten(1), case.bias[None], flat(g, order))
    )
    index_ = (sets.offsets, sets.set_ids, order == torch.channels_last)
    y, grad_u, grad_weight, grad_bias = (made(*x.shape) for x in (g_rows, u, weight, bias))
    torch.ops.interconv_cpp.pointwise_forward(u, weight, bias, *index_, y.rows)
    torch.ops.interconv_cpp.pointwise_backward(
        g_rows, u, weight, *index_, grad_u.rows, grad_weight.rows, grad_bias.rows
    )
    for got in (y, grad_u, grad_weight, grad_bias):
        got.check()


@formats
def test_auto_uses_it(fmt, monkeypatch):
    """Forward and backward through the layer; every other algorithm and dtype keeps its path."""
    case, g = make([2, 1, 3], 5, 4, (9, 7), fmt)
    used = []
    for name in ("fused_forward", "fused_backward"):
        real = getattr(cpp_ops, name)
        monkeypatch.setattr(cpp_ops, name, lambda *a, real=real, name=name: used.append(name) or real(*a))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    def layer(case, **settings):
        return ik.interconv2d(case.u, case.weight, case.bias, case.sets, **settings)

    want = with_grads(oracle, case.to(torch.float64), g.double())
    for got, exact in zip(with_grads(layer, case, g), want, strict=True):
        assert worst(got, exact) < 1e-5
    assert used == ["fused_forward", "fused_backward"]
    layer(case, algorithm="split")
    layer(case, backend="torch")
    layer(case, stride=2)
    layer(case, padding=1)
    layer(case.to(torch.bfloat16))
    assert len(used) == 2
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    layer(case)
    assert len(used) == 2


def test_what_does_not_fit_is_refused():
    sets = index([2, 1])
    raw, settings = torch.ops.interconv_cpp.pointwise_forward, (sets.offsets, sets.set_ids, False)
    u, weight, out = torch.ones(3, 12), torch.ones(5, 6), torch.ones(3, 20)
    with pytest.raises(RuntimeError, match=r"out is \[3, 12\]: expected \[3, 20\]"):
        raw(u, weight, None, *settings, u)
    with pytest.raises(RuntimeError, match=r"weight is \[Co, 6\], u \[N, 10\]: expected \[Co, 2C\] and \[N, C P\]"):
        raw(u.new_ones(3, 10), weight, None, *settings, out)
    with pytest.raises(RuntimeError, match="expected float32"):
        raw(u.double(), weight.double(), None, *settings, out.double())

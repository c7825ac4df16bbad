"""The fused layers of backend "cpp": csrc/pointwise*.cpp for 1x1 kernels, csrc/winograd*.cpp for 3x3 kernels.

Agreement with the reference implementation, independence of sets, same bits, memory around the tensors."""

import itertools

import pytest
import torch
from common import FORMATS, make_case, oracle, with_grads, worst
from test_cpp import Guarded, needs_extension

import interconv_kernels as ik
from interconv_kernels._backends.cpp import fused
from interconv_kernels.choice import choose
from interconv_kernels.convolution import Conv
from interconv_kernels.layout import common_format, flat
from interconv_kernels.sets import SetIndex

pytestmark = needs_extension
formats = pytest.mark.parametrize("fmt", FORMATS)
kernels = pytest.mark.parametrize("kernel", [1, 3])
MASKS = list(itertools.product([False, True], repeat=3))
# Channels that fill the matrix product's vectors and blocks, and channels that leave remainders of all kinds.
CHANNELS = [(1, 1), (3, 1), (1, 16), (16, 16), (23, 3), (3, 23), (64, 64), (33, 47), (137, 20), (16, 192), (192, 137)]
SETS = {"ragged": [2, 1, 7, 3], "ones": [1, 1, 1], "one long": [64], "large and small": [1, 64, 2, 1], "longest": [150]}


def index(lengths):
    sets = ik.Sets.from_lengths(lengths)
    return SetIndex(sets.live_offsets, sets.live_ids)


def conv_of(case):
    padding = case.conv.get("padding", case.weight.shape[2] // 2)
    padding = padding if isinstance(padding, tuple) else (padding, padding)
    return Conv((1, 1), padding, (1, 1), common_format(case.u, case.weight))


def max_centered_of(case):
    sets = index(case.lengths)
    return choose("cpp", "fused", "forward", conv_of(case), case.u, case.weight, sets).max_centered


def forward(case, max_centered=None, sets=None, slope=None):
    max_centered, sets = max_centered or max_centered_of(case), sets or index(case.lengths)
    return fused.forward(conv_of(case), case.u, case.weight, case.bias, sets, max_centered, slope, {})


def backward(case, g, need=(True, True, True), max_centered=None, sets=None):
    max_centered, sets = max_centered or max_centered_of(case), sets or index(case.lengths)
    return fused.backward(conv_of(case), g, case.u, case.weight, sets, need, max_centered, {})


def everything(case, g):
    return [forward(case), *backward(case, g)]


def rows_of(x, order):
    return flat(x.contiguous(memory_format=order), order) if x.dim() == 4 else x[None]


def raw_everything(case, g, max_centered, given=lambda x: x, made=torch.empty, slope=None):
    """What the raw ops compute, as rows: inputs as `given` returns them, outputs in the rows that `made` makes."""
    sets, order, kernel = index(case.lengths), conv_of(case).fmt, case.weight.shape[2]
    u, weight, bias, g_rows = (given(rows_of(x, order)) for x in (case.u, case.weight, case.bias, g))
    slope = None if slope is None else given(rows_of(slope, order))
    outputs = [made(*x.shape) for x in (g_rows, u, weight, bias)]
    settings = [sets.offsets, sets.set_ids, order == torch.channels_last]
    settings += [*case.u.shape[2:], 1, 1] if kernel == 3 else []
    name = "winograd" if kernel == 3 else "pointwise"
    getattr(torch.ops.interconv_cpp, f"{name}_forward")(u, weight, bias, slope, *settings, max_centered, outputs[0])
    getattr(torch.ops.interconv_cpp, f"{name}_backward")(g_rows, u, weight, *settings, max_centered, *outputs[1:])
    return outputs


def make(kernel, lengths, channels, out_channels, size, fmt, **more):
    case = make_case(lengths, channels, out_channels, size, kernel, dtype=torch.float32, fmt=fmt, **more)
    random = torch.Generator().manual_seed(1)
    y = forward(case)
    return case, torch.empty_like(y).copy_(torch.randn(y.shape, generator=random))


@kernels
@formats
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("channels", "out_channels"), CHANNELS)
def test_agrees_with_the_oracle(kernel, fmt, bias, channels, out_channels):
    for size in ((1, 1), (5, 7), (17, 20)):
        case, g = make(kernel, SETS["ragged"], channels, out_channels, size, fmt, bias=bias)
        want = with_grads(oracle, case.to(torch.float64), g.double())
        for got, exact in zip(everything(case, g), want, strict=False):
            assert worst(got, exact) < 1e-5, size


@formats
@pytest.mark.parametrize("padding", [0, 1, 2, (0, 2), (2, 1)])
@pytest.mark.parametrize("size", [(3, 3), (3, 40), (6, 35), (7, 70)])
def test_any_padding(fmt, padding, size):
    case, g = make(3, SETS["ragged"], 19, 17, size, fmt, padding=padding)
    want = with_grads(oracle, case.to(torch.float64), g.double())
    for got, exact in zip(everything(case, g), want, strict=True):
        assert got.shape == exact.shape
        assert worst(got, exact) < 1e-5


@kernels
@formats
@pytest.mark.parametrize("lengths", SETS.values(), ids=SETS)
def test_sets_of_any_size(kernel, fmt, lengths):
    case, g = make(kernel, lengths, 21, 18, (20, 21), fmt)
    want = with_grads(oracle, case.to(torch.float64), g.double())
    for got, exact in zip(everything(case, g), want, strict=True):
        assert worst(got, exact) < 1e-5


@kernels
@formats
@pytest.mark.parametrize("max_centered", [1, 2, 8, 64])
@pytest.mark.parametrize(("channels", "out_channels"), [(21, 18), (64, 64)])
def test_any_set_may_be_centered_or_split(kernel, fmt, max_centered, channels, out_channels):
    case, g = make(kernel, [1, 2, 3, 8, 9, 64, 65], channels, out_channels, (9, 7), fmt)
    want = with_grads(oracle, case.to(torch.float64), g.double())
    for got, exact in zip(raw_everything(case, g, max_centered), want, strict=True):
        assert worst(got, rows_of(exact, conv_of(case).fmt)) < 1e-5


@kernels
@formats
def test_sets_up_to_max_centered_are_centered(kernel, fmt):
    """The algorithms round differently, so the bits of y and grad_u show which one was used."""
    case, g = make(kernel, [5], 21, 18, (9, 7), fmt)
    split, centered = (raw_everything(case, g, max_centered)[:2] for max_centered in (4, 5))
    for a, b in zip(split, centered, strict=True):
        assert not torch.equal(a, b)
    for max_centered, want in ((1, split), (6, centered), (64, centered)):
        for got, expected in zip(raw_everything(case, g, max_centered)[:2], want, strict=True):
            assert torch.equal(got, expected)


@formats
def test_a_centered_set_that_is_too_wide_to_be_kept_packed(fmt):
    """In csrc/pointwise_layer.cpp, with planes of 256 channels and 16 samples."""
    case, g = make(1, [16, 2], 256, 256, (4, 5), fmt)
    want = with_grads(oracle, case.to(torch.float64), g.double())
    for got, exact in zip(everything(case, g), want, strict=True):
        assert worst(got, exact) < 1e-5


@kernels
@formats
def test_only_the_gradients_that_are_needed(kernel, fmt):
    case, g = make(kernel, SETS["ragged"], 21, 18, (9, 7), fmt)
    everywhere = backward(case, g)
    for need in MASKS:
        for got, want, needed in zip(backward(case, g, need), everywhere, need, strict=True):
            assert torch.equal(got, want) if needed else got is None


@kernels
@formats
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_another_sets_values_change_nothing(kernel, fmt, bad):
    case, g = make(kernel, [3, 1, 4, 2], 21, 18, (15, 16), fmt)
    y, grad_u, *_ = everything(case, g)
    case.u[4:8], g[4:8] = bad, bad
    spoiled, spoiled_grad, *_ = everything(case, g)
    others = [0, 1, 2, 3, 8, 9]
    assert torch.equal(y[others], spoiled[others])
    assert torch.equal(grad_u[others], spoiled_grad[others])


@kernels
@formats
def test_a_sets_place_in_the_batch_changes_nothing(kernel, fmt):
    lengths, order = [3, 1, 8, 2, 64], [4, 2, 0, 3, 1]
    case, g = make(kernel, lengths, 21, 18, (15, 16), fmt)
    rows = torch.cat([torch.arange(sum(lengths)).split(lengths)[b] for b in order])
    moved, _ = make(kernel, [lengths[b] for b in order], 21, 18, (15, 16), fmt)
    moved.u.copy_(case.u[rows])
    y, grad_u, *_ = everything(case, g)
    y2, grad_u2, *_ = everything(moved, torch.empty_like(g).copy_(g[rows]))
    assert torch.equal(y[rows], y2)
    assert torch.equal(grad_u[rows], grad_u2)


@kernels
@formats
def test_same_bits_run_after_run_and_for_any_number_of_threads(kernel, fmt):
    case, g = make(kernel, [3, 1, 8, 2, 64, 1], 21, 18, (31, 33), fmt)
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
def test_small_maps_are_cut_for_many_threads_without_a_change_of_bits(fmt):
    case, g = make(3, [12], 40, 70, (10, 12), fmt)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = everything(case, g)
        torch.set_num_threads(8)
        assert all(torch.equal(a, b) for a, b in zip(everything(case, g), want, strict=True))
    finally:
        torch.set_num_threads(threads)


@kernels
@formats
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(("channels", "out_channels"), CHANNELS)
def test_nothing_around_the_tensors_is_read_or_written(kernel, fmt, offset, channels, out_channels):
    case, g = make(kernel, [2, 1, 4], channels, out_channels, (9, 11), fmt)
    outputs = []

    def given(x):
        return Guarded(*x.shape, torch.float32, offset, x).rows

    def made(rows, columns):
        outputs.append(Guarded(rows, columns, torch.float32, offset))
        return outputs[-1].rows

    for max_centered in (1, 3):
        raw_everything(case, g, max_centered, given, made, slope=torch.ones(out_channels))
    for got in outputs:
        got.check()


@kernels
@formats
def test_auto_uses_it(kernel, fmt, monkeypatch):
    """Forward and backward through the layer; every other algorithm and dtype keeps its path."""
    case, g = make(kernel, [2, 1, 3], 9, 4, (9, 7), fmt)
    used = []
    for name in ("forward", "backward"):
        real = getattr(fused, name)
        monkeypatch.setattr(fused, name, lambda *a, real=real, name=name: used.append(name) or real(*a))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    def layer(case, **settings):
        return ik.interconv2d(case.u, case.weight, case.bias, case.sets, **settings)

    want = with_grads(oracle, case.to(torch.float64), g.double())
    for got, exact in zip(with_grads(layer, case, g), want, strict=True):
        assert worst(got, exact) < 1e-5
    assert used == ["forward", "backward"]
    layer(case, algorithm="split")
    layer(case, backend="torch")
    layer(case, stride=2)
    layer(case, padding=3)
    layer(case, dilation=2, padding=2)
    layer(case.to(torch.bfloat16))
    assert len(used) == 2
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    layer(case)
    assert len(used) == 2


@kernels
@formats
def test_an_empty_set_is_passed_over(kernel, fmt):
    """The layer drops empty sets beforehand; the raw kernels must not write where one would be."""
    case, g = make(kernel, [3, 1], 21, 18, (9, 7), fmt)
    want = everything(case, g)
    case.lengths = [0, 3, 0, 1]
    sets = ik.Sets.from_lengths(case.lengths)
    with_empty = SetIndex(sets.offsets, sets.set_ids)
    got = [forward(case, sets=with_empty), *backward(case, g, sets=with_empty)]
    for a, b in zip(got, want, strict=True):
        assert worst(a, b) < 1e-6


def test_what_does_not_fit_is_refused():
    sets = index([2, 1])
    raw, settings = torch.ops.interconv_cpp.pointwise_forward, (sets.offsets, sets.set_ids, False, 1)
    u, weight, out = torch.ones(3, 12), torch.ones(5, 6), torch.ones(3, 20)
    with pytest.raises(RuntimeError, match=r"out is \[3, 12\]: expected \[3, 20\]"):
        raw(u, weight, None, None, *settings, u)
    with pytest.raises(RuntimeError, match=r"weight is \[Co, 6\], u \[N, 10\]: expected \[Co, 2C\] and \[N, C P\]"):
        raw(u.new_ones(3, 10), weight, None, None, *settings, out)
    with pytest.raises(RuntimeError, match="expected float32"):
        raw(u.double(), weight.double(), None, None, *settings, out.double())
    with pytest.raises(RuntimeError, match="max_centered = 0: expected at least 1"):
        raw(u, weight, None, None, *settings[:-1], 0, out)
    raw, settings = torch.ops.interconv_cpp.winograd_forward, settings[:-1]
    weight = torch.ones(5, 54)
    with pytest.raises(RuntimeError, match=r"weight is \[Co, 53\]: expected \[Co, 2C 9\]"):
        raw(u, weight[:, 1:].contiguous(), None, None, *settings, 2, 2, 1, 1, 8, out)
    with pytest.raises(RuntimeError, match=r"padding \(1, 3\): expected 0, 1 or 2"):
        raw(u, weight, None, None, *settings, 2, 2, 1, 3, 8, out)
    with pytest.raises(RuntimeError, match="2 x 2: too small for a 3x3 kernel"):
        raw(u, weight, None, None, *settings, 2, 2, 0, 1, 8, out)
    with pytest.raises(RuntimeError, match=r"u is \[3, 12\]: expected \[3, 18\]"):
        raw(u, weight, None, None, *settings, 2, 3, 1, 1, 8, out)
    with pytest.raises(RuntimeError, match="max_centered = -1: expected at least 1"):
        raw(u, weight, None, None, *settings, 2, 2, 1, 1, -1, out)


@kernels
@formats
@pytest.mark.parametrize("max_centered", [1, 64])
@pytest.mark.parametrize(("channels", "out_channels"), [(5, 1), (16, 16), (9, 23), (33, 47)])
def test_the_activation_is_applied_to_the_result(kernel, fmt, max_centered, channels, out_channels):
    case, _ = make(kernel, [2, 1, 7], channels, out_channels, (9, 11), fmt)
    slope = torch.linspace(-1, 2, out_channels)
    y = forward(case, max_centered)
    want = torch.where(y < 0, y * slope.view(1, -1, 1, 1), y)
    assert torch.equal(forward(case, max_centered, slope=slope), want)
    case.u[0, 0, 0, 0] = torch.nan
    assert forward(case, max_centered, slope=slope).isnan().sum() == forward(case, max_centered).isnan().sum() > 0


def test_a_slope_that_does_not_fit_is_refused():
    sets = index([2, 1])
    settings = (sets.offsets, sets.set_ids, False, 1, torch.ones(3, 20))
    with pytest.raises(RuntimeError, match=r"slope is \[1, 4\]: expected \[1, 5\]"):
        torch.ops.interconv_cpp.pointwise_forward(
            torch.ones(3, 12), torch.ones(5, 6), None, torch.ones(1, 4), *settings
        )

"""The library's seven promises (README), each over algorithms, dtypes, ragged shapes and memory formats."""

import math
from functools import partial

import common
import pytest
import torch
from common import ALGORITHMS, DTYPES, FORMATS, RAGGED, eager_concat, make_case, oracle, with_grads, worst
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

import interconv_kernels as ik
from interconv_kernels import algorithms
from interconv_kernels._backends.registry import BACKENDS
from interconv_kernels.choice import Choice, choose
from interconv_kernels.convolution import Conv
from interconv_kernels.sets import SetIndex


@pytest.fixture(params=common.BACKENDS)
def layer(request):
    """`common.layer` on each backend."""
    reason = BACKENDS[request.param].can_run(torch.device("cpu"))
    if reason is not None:
        pytest.skip(reason)
    return partial(common.layer, backend=request.param)


everywhere = pytest.mark.parametrize("algorithm", ALGORITHMS)  # with `layer`: over algorithms and backends

formats = pytest.mark.parametrize("fmt", FORMATS)


@pytest.fixture
def small_blocks(monkeypatch):
    """Convolve three samples at a time, so that small tests cross block borders as large batches do."""
    monkeypatch.setattr(algorithms, "block_rows", lambda *args: 3)


# --- 1. every form agrees with the float64 oracle, forward and all gradients ------------------------------------------


@everywhere
@formats
@pytest.mark.parametrize("name", RAGGED)
@pytest.mark.parametrize("kernel", [1, 3])
def test_agrees_with_the_oracle_in_float64(layer, algorithm, fmt, name, kernel):
    case = make_case(RAGGED[name], kernel=kernel, fmt=fmt)
    g = torch.randn_like(layer(case))
    for got, want in zip(with_grads(lambda c: layer(c, algorithm), case, g), with_grads(oracle, case, g), strict=True):
        assert worst(got, want) < 1e-12


@everywhere
@formats
@pytest.mark.parametrize("name", RAGGED)
def test_agrees_with_the_oracle_in_blocks(layer, algorithm, fmt, name, small_blocks):
    test_agrees_with_the_oracle_in_float64(layer, algorithm, fmt, name, 3)
    test_agrees_with_the_oracle_in_float64(layer, algorithm, fmt, name, 1)


@everywhere
@pytest.mark.parametrize("name", RAGGED)
@pytest.mark.parametrize("dtype", DTYPES[1:])
@formats
def test_low_precision_is_as_good_as_torch(layer, algorithm, fmt, name, dtype):
    """Promise 6 as well: at most a few times torch's own error for the same dtype, on the same input, against
    float64."""
    case = make_case(RAGGED[name], channels=8, out_channels=8, dtype=dtype, fmt=fmt, size=(6, 5))
    random = torch.Generator().manual_seed(1)
    g = torch.randn(layer(case).shape, dtype=torch.float64, generator=random).to(dtype)
    want = with_grads(oracle, case.to(torch.float64), g)
    torchs = with_grads(eager_concat, case.to(dtype), g)
    floor = 2 * torch.finfo(dtype).eps
    for got, theirs, exact in zip(with_grads(lambda c: layer(c, algorithm), case, g), torchs, want, strict=True):
        assert got.dtype == dtype
        assert worst(got, exact) <= 4 * worst(theirs, exact) + floor


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), max_size=5),
    channels=st.integers(1, 5),
    out_channels=st.integers(1, 5),
    size=st.tuples(st.integers(5, 11), st.integers(5, 11)),
    kernel=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5])),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(["same", 2, (4, 3)]),
    bias=st.booleans(),
    fmt=st.sampled_from(list(FORMATS)),
    algorithm=st.sampled_from(ALGORITHMS),
)
@example([2], 1, 2, (5, 5), (1, 3), 1, 1, "same", False, "channels_last", "centered")  # one channel hides the format
def test_any_shape(lengths, channels, out_channels, size, kernel, stride, dilation, padding, bias, fmt, algorithm):
    conv = {"stride": stride, "padding": padding, "dilation": dilation}
    if padding == 2 and max(kernel) == 5 and dilation == 2:
        conv["padding"] = 4
    case = make_case(lengths, channels, out_channels, size, kernel, bias=bias, fmt=fmt, **conv)
    want = oracle(case)
    g = torch.randn_like(want)
    for got, exact in zip(
        with_grads(lambda c: common.layer(c, algorithm), case, g), with_grads(oracle, case, g), strict=True
    ):
        assert got.shape == exact.shape
        assert worst(got, exact) < 1e-11


@everywhere
def test_no_samples(layer, algorithm):
    for lengths in ([], [0, 0]):
        case = make_case(lengths)
        y, *grads = with_grads(lambda c: layer(c, algorithm), case, torch.zeros(0, 4, 9, 7))
        assert y.shape == (0, 4, 9, 7)
        assert [x.shape for x in grads] == [x.shape for x in case.tensors]
        assert all(not x.any() for x in grads)


@everywhere
@formats
def test_gradients_of_any_stride(layer, algorithm, fmt):
    case = make_case([2, 3, 1], fmt=fmt)
    y = oracle(case)
    wide = torch.randn(6, 8, 9, 7, dtype=torch.float64)
    gradients = {
        "expanded": torch.ones((), dtype=torch.float64).expand_as(y),
        "broadcast over samples": torch.randn(1, 4, 9, 7, dtype=torch.float64).expand_as(y),
        "transposed": torch.randn(6, 4, 7, 9, dtype=torch.float64).transpose(2, 3),
        "slice of a concat": wide[:, 2:6],
        "channels_last slice": wide.contiguous(memory_format=torch.channels_last)[:, 2:6],
    }
    for name, g in gradients.items():
        for got, want in zip(
            with_grads(lambda c: layer(c, algorithm), case, g), with_grads(oracle, case, g), strict=True
        ):
            assert worst(got, want) < 1e-12, name


@everywhere
def test_input_of_any_stride(layer, algorithm):
    base = torch.randn(6, 10, 9, 14, dtype=torch.float64)
    views = {
        "slice of a concat": base[:, 2:7, :, :7],
        "every other": base[:, ::2, :, ::2],
        "transposed": base[:, :5, :, :9].transpose(2, 3),
        "expanded": base[:1, :5, :, :7].expand(6, -1, -1, -1),
        "channels_last slice": base.contiguous(memory_format=torch.channels_last)[:, 2:7],
    }
    for name, u in views.items():
        case = make_case([2, 3, 1])
        case.u = u.detach()
        g = torch.randn_like(oracle(case))
        for got, want in zip(
            with_grads(lambda c: layer(c, algorithm), case, g), with_grads(oracle, case, g), strict=True
        ):
            assert worst(got, want) < 1e-12, name


# --- 2. sets are islands ----------------------------------------------------------------------------------------------


@everywhere
@formats
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_another_sets_values_change_nothing(layer, algorithm, fmt, dtype, bad):
    lengths = [3, 1, 4, 2]
    clean = make_case(lengths, dtype=dtype, fmt=fmt)
    spoiled = make_case(lengths, dtype=dtype, fmt=fmt)
    spoiled.u[4:8] = bad
    g = torch.randn(10, 4, 9, 7).to(dtype)
    spoiled_g = g.clone()
    spoiled_g[4:8] = bad
    y, grad_u, *_ = with_grads(lambda c: layer(c, algorithm), clean, g)
    y2, grad_u2, *_ = with_grads(lambda c: layer(c, algorithm), spoiled, spoiled_g)
    others = [0, 1, 2, 3, 8, 9]
    assert torch.equal(y[others], y2[others])
    assert torch.equal(grad_u[others], grad_u2[others])


@everywhere
@formats
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(9, 7), (32, 33)])
def test_a_sets_place_in_the_batch_changes_nothing(layer, algorithm, fmt, dtype, kernel, size):
    """The same sets in another order: each set's outputs and gradients have the same bits."""
    lengths, order = [3, 1, 8, 2], [2, 0, 3, 1]
    case = make_case(lengths, channels=16, out_channels=16, kernel=kernel, size=size, dtype=dtype, fmt=fmt)
    g = torch.randn(14, 16, *size).to(dtype)
    rows = torch.cat([torch.arange(14).split(lengths)[b] for b in order])
    moved = make_case(
        [lengths[b] for b in order], channels=16, out_channels=16, kernel=kernel, size=size, dtype=dtype, fmt=fmt
    )
    moved.u = case.u.detach()[rows].contiguous(memory_format=FORMATS[fmt])
    y, grad_u, *_ = with_grads(lambda c: layer(c, algorithm), case, g)
    y2, grad_u2, *_ = with_grads(lambda c: layer(c, algorithm), moved, g[rows])
    assert torch.equal(y[rows], y2)
    assert torch.equal(grad_u[rows], grad_u2)


@everywhere
def test_a_sets_place_in_blocks_changes_nothing(layer, algorithm, small_blocks):
    test_a_sets_place_in_the_batch_changes_nothing(layer, algorithm, "nchw", torch.float32, 3, (9, 7))


@everywhere
def test_permuting_a_set_permutes_its_output(layer, algorithm):
    case = make_case([5, 2], dtype=torch.float32)
    rows = torch.tensor([3, 0, 4, 1, 2, 5, 6])
    moved = make_case([5, 2], dtype=torch.float32)
    moved.u = case.u[rows]
    assert worst(layer(moved, algorithm), layer(case, algorithm)[rows]) < 1e-6


# --- 3. the same input gives the same bits ----------------------------------------------------------------------------


@everywhere
@formats
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_run_after_run(layer, algorithm, fmt, dtype):
    case = make_case([1, 2, 7, 3], channels=16, out_channels=16, size=(20, 21), dtype=dtype, fmt=fmt)
    g = torch.randn(13, 16, 20, 21).to(dtype)
    first = with_grads(lambda c: layer(c, algorithm), case, g)
    for _ in range(3):
        again = with_grads(lambda c: layer(c, algorithm), case, g)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


# --- 4. no host-device synchronisation --------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["concat", "split", "centered"])
def test_nothing_is_read_back_from_the_device(algorithm):
    """On meta tensors there are no values to read: any .item(), .tolist(), nonzero or mask would raise."""
    case = make_case([3, 1, 4])
    u, weight, bias, offsets, ids = (x.to("meta") for x in (*case.tensors, case.sets.offsets, case.sets.set_ids))
    conv = Conv((1, 1), (1, 1), (1, 1))
    sets = SetIndex(offsets, ids)
    assert sets.host_offsets is None
    choice = Choice(BACKENDS["torch"], algorithm)
    y = algorithms.forward(choice, conv, u, weight, bias, sets)
    assert y.shape == (8, 4, 9, 7)
    grads = algorithms.backward(choice, conv, y, u, weight, sets, (True, True, True))
    assert [x.shape for x in grads] == [u.shape, weight.shape, bias.shape]
    assert choose("torch", "auto", "forward", conv, u, weight, sets).algorithm in ("split", "centered")


class NothingCopied(TorchFunctionMode):
    """Fails where a tensor is made of Python values: it is filled on the CPU, and its copy to a GPU is waited for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.tensor, torch.as_tensor, torch.asarray), f"{func} of {args}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("slope", [None, 0, 0.01, torch.tensor([0.25], dtype=torch.float64)])
def test_nothing_is_copied_to_the_device(slope, grad):
    case, sets = make_case([3, 1, 4]), ik.Sets.from_lengths([3, 1, 4])
    case.u.requires_grad_(grad)
    with NothingCopied():
        assert ik.interconv2d(*case.tensors, sets, negative_slope=slope).shape == (8, 4, 9, 7)


# --- 5. int64 addressing ----------------------------------------------------------------------------------------------


def test_more_than_two_to_the_31_elements(monkeypatch):
    """set_mean and set_add on a packed tensor of 2^31 + 2^17 elements, checked where 32 bits would wrap."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # gigabytes of it
    columns = 2**29 + 2**15
    u = torch.zeros(4, columns, dtype=torch.bfloat16)
    u[3, -1], u[2, -1], u[0, 5] = 6.0, 2.0, 8.0
    sets = ik.Sets.from_lengths([2, 2])
    s = ik.set_mean(u, sets)
    assert (s[1, -1], s[0, 5], s[0, -1]) == (4.0, 4.0, 0.0)
    y = torch.ops.interconv.set_add(None, s, sets.offsets, sets.set_ids, False, "torch")
    assert (y[3, -1], y[2, -1], y[1, 5], y[1, -1]) == (4.0, 4.0, 4.0, 0.0)


# --- 6 is tested with 1; 7 in test_errors.py --------------------------------------------------------------------------

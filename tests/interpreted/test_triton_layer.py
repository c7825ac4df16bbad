"""InterConv2d on backend "triton", in Triton's interpreter, against the float64 oracle: forms, dtypes, ragged sets,
kernels, and the promises that a kernel could break."""

import math

import pytest
import torch
from common import FORMATS, RAGGED, eager_concat, make_case, oracle, with_grads, worst

import interconv_kernels as ik
from interconv_kernels._backends.triton import fused

LOW = (torch.float32, torch.bfloat16, torch.float16)
ALGORITHMS = ("concat", "split", "centered", "fused")
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
formats = pytest.mark.parametrize("fmt", FORMATS)
dtypes = pytest.mark.parametrize("dtype", LOW)


def layer(case, algorithm="fused", **more):
    settings = {**case.conv, **more}
    return ik.interconv2d(case.u, case.weight, case.bias, case.sets, algorithm=algorithm, backend="triton", **settings)


def check(case, algorithm="fused", theirs=None):
    """Output and gradients against the oracle: to a few roundings of the dtype, or a few times torch's own error."""
    dtype = case.u.dtype
    g = torch.randn(oracle(case).shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    want = with_grads(oracle, case.to(torch.float64), g)
    bounds = [0.0] * len(want)
    if theirs is not None:
        bounds = [worst(x, exact) for x, exact in zip(with_grads(theirs, case.to(dtype), g), want, strict=True)]
    for got, exact, bound in zip(with_grads(lambda c: layer(c, algorithm), case, g), want, bounds, strict=True):
        assert got.dtype == dtype
        assert got.shape == exact.shape
        assert worst(got, exact) <= 4 * bound + 8 * torch.finfo(dtype).eps


@algorithms
@formats
@dtypes
def test_every_form_is_as_good_as_torch(algorithm, fmt, dtype):
    check(make_case([1, 2, 7, 0, 3], 8, 8, (6, 5), dtype=dtype, fmt=fmt), algorithm, eager_concat)


@pytest.mark.parametrize("algorithm", ALGORITHMS[:3])
def test_float64(algorithm):
    case = make_case([1, 2, 7, 0, 3])
    g = torch.randn(oracle(case).shape, dtype=torch.float64)
    got, want = with_grads(lambda c: layer(c, algorithm), case, g), with_grads(oracle, case, g)
    assert all(worst(a, b) < 1e-12 for a, b in zip(got, want, strict=True))


@algorithms
@pytest.mark.parametrize("name", [name for name in RAGGED if name != "one of each"])
def test_ragged_sets(algorithm, name):
    check(make_case(RAGGED[name], 4, 3, (4, 5), dtype=torch.float32, fmt="channels_last"), algorithm, eager_concat)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, (3, 1), 2])
@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
def test_fused_kernels_and_strides(kernel, stride):
    padding = 1 if kernel == 2 else "same"
    case = make_case([2, 1, 3], 5, 6, (9, 8), kernel, torch.float32, "channels_last", stride=stride, padding=padding)
    check(case)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (2, 2), (2, 3), ((2, 3), (3, 2))])
def test_fused_dilation(stride, dilation):
    check(make_case([2, 1], 5, 6, (11, 9), 3, torch.float32, "channels_last", stride=stride, dilation=dilation))


@pytest.mark.parametrize("padding", [0, 2, (3, 0)])
def test_fused_padding(padding):
    check(make_case([2, 1], 5, 6, (6, 5), 3, torch.float32, "channels_last", padding=padding))


@dtypes
@pytest.mark.parametrize(("channels", "out_channels"), [(23, 23), (137, 20), (20, 137), (64, 32), (1, 1)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_fused_channels(dtype, channels, out_channels, kernel):
    check(make_case([2, 1], channels, out_channels, (5, 4), kernel, dtype, "channels_last", bias=channels != 23))


def test_fused_tile_borders():
    """More than one tile of pixels, of columns and of depth, and more than one part of grad_W."""
    check(make_case([3, 2], 40, 70, (9, 10), 3, torch.float32, "channels_last"), theirs=eager_concat)


def test_fused_pointwise_sets_too_large_for_the_cache(monkeypatch):
    def never(*arguments):
        raise AssertionError("the sets were too large")

    monkeypatch.setattr(fused, "pointwise", never)
    monkeypatch.setattr(fused, "POINTWISE_SET_BYTES", 2 * 64 * 8 * 4)
    check(make_case([2, 3], 8, 8, (6, 5), 1, torch.float32, "channels_last"))
    with pytest.raises(AssertionError, match="too large"):
        check(make_case([2, 2], 8, 8, (6, 5), 1, torch.float32, "channels_last"))


# --- activations ------------------------------------------------------------------------------------------------------

SLOPES = {
    "relu": 0.0,
    "leaky ReLU": 0.1,
    "PReLU, one slope": torch.tensor([0.25]),
    "PReLU, a slope per channel": torch.tensor([0.5, -0.25, 0.0, 2.0, 0.125]),
}


def exact_activation(y, slope):
    return torch.where(y < 0, y * (slope.view(1, -1, 1, 1) if isinstance(slope, torch.Tensor) else slope), y)


@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
@pytest.mark.parametrize(("algorithm", "kernel"), [("fused", 3), ("fused", 1), ("split", 3), ("centered", 3)])
@pytest.mark.parametrize("fmt", FORMATS)
def test_activations_in_inference(slope, algorithm, kernel, fmt):
    case = make_case([2, 1, 3], 4, 5, (5, 4), kernel, torch.float32, fmt)
    want = exact_activation(oracle(case.to(torch.float64)), slope)
    assert worst(layer(case, algorithm, negative_slope=slope), want) < 2e-6


def test_activations_in_training():
    case = make_case([2, 1], 4, 5, (5, 4), 3, torch.float32)
    g = torch.randn(3, 5, 5, 4)
    got = with_grads(lambda c: layer(c, "fused", negative_slope=0.1), case, g)
    want = with_grads(lambda c: exact_activation(oracle(c), 0.1), case.to(torch.float64), g)
    assert all(worst(a, b) < 2e-6 for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("slope", [None, 0.0, 0.1])
def test_an_activation_keeps_nan(slope):
    case = make_case([1, 1], 2, 2, (3, 3), 1, torch.float32)
    case.u[0] = math.nan
    y = layer(case, "fused", negative_slope=slope)
    assert y[0].isnan().all()
    assert not y[1].isnan().any()


# --- promises ---------------------------------------------------------------------------------------------------------


@algorithms
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_sets_are_islands(algorithm, kernel, bad):
    lengths, others = [3, 1, 4, 2], [0, 1, 2, 3, 8, 9]
    clean = make_case(lengths, 4, 4, (4, 5), kernel, torch.float32, "channels_last")
    spoiled = make_case(lengths, 4, 4, (4, 5), kernel, torch.float32, "channels_last")
    spoiled.u[4:8] = bad
    g = torch.randn(10, 4, 4, 5)
    spoiled_g = g.clone()
    spoiled_g[4:8] = bad
    y, grad_u, *_ = with_grads(lambda c: layer(c, algorithm), clean, g)
    y2, grad_u2, *_ = with_grads(lambda c: layer(c, algorithm), spoiled, spoiled_g)
    assert torch.equal(y[others], y2[others])
    assert torch.equal(grad_u[others], grad_u2[others])


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sets_place_in_the_batch_changes_nothing(kernel, dtype):
    lengths, order = [3, 1, 70, 2], [2, 0, 3, 1]
    case = make_case(lengths, 4, 4, (3, 3), kernel, dtype, "channels_last")
    moved = make_case([lengths[b] for b in order], 4, 4, (3, 3), kernel, dtype, "channels_last")
    rows = torch.cat([torch.arange(76).split(lengths)[b] for b in order])
    moved.u = case.u[rows].contiguous(memory_format=torch.channels_last)
    g = torch.randn(76, 4, 3, 3).to(dtype)
    y, grad_u, *_ = with_grads(layer, case, g)
    y2, grad_u2, *_ = with_grads(layer, moved, g[rows])
    assert torch.equal(y[rows], y2)
    assert torch.equal(grad_u[rows], grad_u2)


@algorithms
def test_same_bits_run_after_run(algorithm):
    case = make_case([1, 5, 2], 8, 8, (9, 10), 3, torch.bfloat16, "channels_last")
    g = torch.randn(8, 8, 9, 10).to(torch.bfloat16)
    first, again = (with_grads(lambda c: layer(c, algorithm), case, g) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@algorithms
def test_gradients_and_inputs_of_any_stride(algorithm):
    wide = torch.randn(3, 8, 6, 10)
    gradients = (torch.ones(()).expand(3, 4, 6, 5), wide[:, 2:6, :, ::2], torch.randn(3, 4, 5, 6).transpose(2, 3))
    inputs = (wide[:, 1:6, :, 5:], torch.randn(1, 5, 6, 5).expand(3, -1, -1, -1))
    for g in gradients:
        for u in inputs:
            case = make_case([2, 1], 5, 4, (6, 5), 3, torch.float32)
            case.u = u.detach()
            want = with_grads(oracle, case.to(torch.float64), g)
            got = with_grads(lambda c: layer(c, algorithm), case, g)
            assert all(worst(a, b) < 2e-6 for a, b in zip(got, want, strict=True))


def test_no_samples():
    case = make_case([0, 0], dtype=torch.float32)
    y, *grads = with_grads(layer, case, torch.zeros(0, 4, 9, 7))
    assert y.shape == (0, 4, 9, 7)
    assert all(not x.any() for x in grads)


def test_second_derivatives():
    """<g, layer'> again, by the oracle's own double backward in float64."""

    def second(function, case, g, direction):
        case.require_grad()
        [grad_u] = torch.autograd.grad(function(case), [case.u], g.to(case.u.dtype), create_graph=True)
        return torch.autograd.grad((grad_u * direction.to(grad_u.dtype)).sum(), [case.weight])[0]

    case = make_case([2, 1], 3, 4, (4, 3), 3, torch.float32)
    g, direction = torch.randn(3, 4, 4, 3), torch.randn(3, 3, 4, 3)
    want = second(oracle, case.to(torch.float64), g, direction)
    assert worst(second(layer, case, g, direction), want) < 2e-6


def test_what_fused_cannot_do_says_why():
    with pytest.raises(ValueError, match="'fused' cannot run here: it computes in float32, bfloat16 and float16"):
        layer(make_case([1]))


@pytest.mark.parametrize("update", ["in place", "data", "inference"])
def test_an_updated_weight_is_used(update):
    """`.data` and inference tensors have no version that shows an update."""
    case = make_case([2, 1], 4, 5, (4, 3), 3, torch.float32, "channels_last", bias=False)
    with torch.inference_mode(update == "inference"), torch.no_grad():
        weight = case.weight.clone()
        for _ in range(2):
            y = ik.interconv2d(case.u, weight, None, case.sets, algorithm="fused", backend="triton")
            (weight.data if update == "data" else weight).mul_(2)
        case.weight = case.weight * 2
        assert worst(y, oracle(case.to(torch.float64))) < 2e-6

"""Signals, volumes and tokens: the layer over one or three axes, `InterLinear`, and surgery on their plain layers."""

import pytest
import torch
from common import (
    ALGORITHMS,
    DTYPES,
    FORMATS,
    FORMATS_3D,
    RAGGED,
    eager_concat,
    layer,
    make_case,
    oracle,
    with_grads,
    worst,
)
from torch import nn

import interconv_kernels as ik
from interconv_kernels._backends import cpp
from interconv_kernels._backends.cpp import volumes

SIZES = {1: (9,), 3: (5, 6, 7)}
MODULES = {1: ik.InterConv1d, 2: ik.InterConv2d, 3: ik.InterConv3d}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SETTINGS = {
    "3": {},
    "1": {"kernel": 1},
    "2, padding 1": {"kernel": 2, "padding": 1},
    "3, stride 2": {"stride": 2},
    "3, dilation 2": {"dilation": 2},
    "3, padding 0": {"padding": 0},
}
needs_extension = pytest.mark.skipif(cpp.load_error() is not None, reason=f"no extension: {cpp.load_error()}")
needs_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the fused layers need AVX-512"
)


def agrees(case, exact, algorithm="auto", bound=1e-12, **settings):
    g = torch.randn(oracle(exact).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    want = with_grads(oracle, exact, g.to(case.u.dtype).double())
    got = with_grads(lambda c: layer(c, algorithm, **settings), case, g)
    errors = [worst(a, b) for a, b in zip(got, want, strict=True)]
    assert max(errors) <= bound, errors
    return got


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("axes", SIZES)
def test_against_the_oracle(axes, fmt, settings, algorithm):
    if axes == 1 and fmt == "channels_last":
        pytest.skip("torch has no such format for signals")
    case = make_case([2, 0, 1, 3], size=SIZES[axes], fmt=fmt, **SETTINGS[settings])
    got = agrees(case, case, algorithm)
    if axes == 3:
        assert got[0].is_contiguous(memory_format=FORMATS_3D[fmt])


@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED)
@pytest.mark.parametrize("axes", SIZES)
def test_ragged_sets(axes, lengths):
    case = make_case(lengths, 3, 2, size=SIZES[axes])
    agrees(case, case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", SIZES)
def test_dtypes(axes, dtype):
    case = make_case([2, 1, 3], 9, 8, size=SIZES[axes], dtype=dtype)
    exact = case.to(torch.float64)
    bound = 4 * worst(eager_concat(case), oracle(exact)) + 32 * torch.finfo(dtype).eps
    agrees(case, exact, bound=bound)


@needs_extension
@needs_avx512
@pytest.mark.parametrize("stack_bytes", [1, 20_000, volumes.STACK_BYTES])
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (2, 3, 3), (3, 1, 1), (5, 3, 3)])
def test_stacked_slices(kernel, fmt, stack_bytes, monkeypatch):
    """The fused layer of volumes, in blocks of any size; padding along the depth from none to more than the kernel."""
    monkeypatch.setattr(volumes, "STACK_BYTES", stack_bytes)
    for depth_padding in (0, 1, 4):
        padding = (depth_padding, kernel[1] // 2, kernel[2] // 2)
        case = make_case([2, 9, 1], 9, 5, (6, 5, 7), kernel, torch.float32, fmt, padding=padding)
        agrees(case, case.to(torch.float64), "fused", 1e-5, backend="cpp")


@needs_extension
@needs_avx512
def test_volumes_take_the_fused_layer(monkeypatch):
    calls = []
    real = volumes.forward
    monkeypatch.setattr(volumes, "forward", lambda conv, u, *more: calls.append(u.shape) or real(conv, u, *more))
    case = make_case([2, 1], 8, 8, (3, 4, 5), dtype=torch.float32)
    layer(case)
    assert calls == [(3, 8, 3, 4, 5)]
    layer(make_case([2, 1], 8, 8, (3, 4, 5), 1, torch.float32))
    assert calls[1:] == [(3, 8, 12, 5)]  # kernels of size 1 see an image
    with pytest.raises(ValueError, match="stride and dilation 1 along the depth"):
        layer(case, "fused", stride=2)


@needs_extension
def test_sets_of_volumes_are_islands(monkeypatch):
    """The bits of a set do not depend on the other sets, in results and gradients, whatever the blocks."""
    monkeypatch.setattr(volumes, "STACK_BYTES", 40_000)
    for fmt in FORMATS:
        alone = make_case([5], 8, 8, (6, 5, 7), dtype=torch.float32, fmt=fmt)
        others = make_case([2, 5, 1], 8, 8, (6, 5, 7), dtype=torch.float32, fmt=fmt, seed=1)
        others.weight, others.bias = alone.weight, alone.bias
        with torch.no_grad():
            others.u[2:7] = alone.u
        g = torch.randn(8, 8, 6, 5, 7)
        together, single = with_grads(layer, others, g), with_grads(layer, alone, g[2:7])
        assert all(torch.equal(a[2:7], b) for a, b in zip(together[:2], single[:2], strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("axes", "size"), [(1, (4,)), (3, (2, 3, 2))])
def test_gradcheck_and_gradgradcheck(axes, size, algorithm):
    case = make_case([2, 1], 2, 1, size).require_grad()
    sets = case.sets

    def function(u, weight, bias):
        return getattr(ik, f"interconv{axes}d")(u, weight, bias, sets, algorithm=algorithm)

    assert torch.autograd.gradcheck(function, case.tensors)
    assert torch.autograd.gradgradcheck(function, case.tensors)


@pytest.mark.parametrize("axes", SIZES)
def test_packed_dense_and_jagged_agree(axes):
    module = MODULES[axes](3, 4, dtype=torch.float64)
    u = torch.randn(6, 3, *SIZES[axes], dtype=torch.float64)
    packed = module(u, [3, 3])
    assert torch.equal(module(u.unflatten(0, (2, 3))), packed.unflatten(0, (2, 3)))
    jagged = torch.nested.nested_tensor_from_jagged(u, offsets=torch.tensor([0, 1, 6]))
    assert torch.equal(module(jagged).values(), module(u, [1, 5]))
    assert torch.equal(ik.SetModel(module)(u, 3), packed)
    with pytest.raises(ValueError, match=rf"InterConv{axes}d got packed u \(6, 3"):
        module(u)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.PReLU(4)])
@pytest.mark.parametrize("axes", SIZES)
def test_activation(axes, activation):
    module = MODULES[axes](3, 4, activation=activation)
    u = torch.randn(4, 3, *SIZES[axes])
    with torch.no_grad():
        y = module(u, [1, 3])
        module.activation = None
        torch.testing.assert_close(y, activation(module(u, [1, 3])))


@pytest.mark.parametrize("axes", SIZES)
def test_wrong_input_is_refused(axes):
    module = MODULES[axes](3)
    names = {1: r"\[N,C,L\]", 3: r"\[N,C,D,H,W\]"}[axes]
    with pytest.raises(ValueError, match=f"packed {names}"):
        module(torch.randn(2, 3), [2])
    with pytest.raises(ValueError, match="too small for kernel"):
        MODULES[axes](3, padding=0)(torch.randn(2, 3, *[2] * axes), [2])
    with pytest.raises(TypeError, match=r"stride = \(1, 1, 1, 1\): expected an int or"):
        MODULES[axes](3, stride=(1, 1, 1, 1))


def test_volumes_are_compiled_in_one_graph():
    model = ik.SetModel(nn.Sequential(ik.InterConv3d(2, 8), nn.ReLU(), ik.InterConv3d(8, 2, 1)))
    u, sets = torch.randn(4, 2, 3, 4, 5), ik.Sets.from_lengths([3, 1])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u, sets), model(u, sets))


# --- tokens -----------------------------------------------------------------------------------------------------------


def tokens_oracle(u, weight, bias, lengths):
    """Eq. 1-3 for tokens, one sample after the other."""
    out = []
    for samples in u.split(lengths):
        s = samples.sum(0) / max(1, len(samples))
        out += [torch.nn.functional.linear(torch.cat([x, s], -1), weight, bias) for x in samples]
    return torch.stack(out)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED)
@pytest.mark.parametrize("between", [(), (7,), (3, 2)])
def test_tokens_against_the_oracle(between, lengths, algorithm):
    u = torch.randn(sum(lengths), *between, 5, dtype=torch.float64, requires_grad=True)
    module = ik.InterLinear(5, 4, algorithm=algorithm, dtype=torch.float64)
    inputs = [u, module.weight, module.bias]
    want = tokens_oracle(u, module.weight, module.bias, lengths)
    y = module(u, lengths)
    assert worst(y, want) <= 1e-13
    g = torch.randn_like(want)
    got = torch.autograd.grad(y, inputs, g)
    assert all(worst(a, b) <= 1e-12 for a, b in zip(got, torch.autograd.grad(want, inputs, g), strict=True))


def test_tokens_are_not_copied():
    """Their memory is that of an image in channels_last."""
    module = ik.InterLinear(8, 8)
    u, sets = torch.randn(3, 50, 8), ik.Sets.from_lengths([1, 2])
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        y = module(u, sets)
    assert y.is_contiguous()
    assert not any(event.name in ("aten::copy_", "aten::clone") for event in profile.events())


def test_interlinear_needs_tokens_and_sets():
    module = ik.InterLinear(5, 4)
    for u in (torch.randn(3), torch.randn(3, 2, 4)):
        with pytest.raises(ValueError, match=r"expected packed \[N,...,C\]"):
            module(u, [3])
    with pytest.raises(ValueError, match="InterLinear got packed u"):
        module(torch.randn(3, 5))
    with pytest.raises(ValueError, match="in_features, out_features"):
        ik.InterLinear(0)


# --- surgery ----------------------------------------------------------------------------------------------------------


def networks():
    """{name: (network, input)}."""
    found = {
        f"{axes}d": (nn.Sequential(conv(2, 6, 3, padding=1), nn.ReLU(), conv(6, 3, 1)), torch.randn(4, 2, *size))
        for axes, conv, size in ((1, nn.Conv1d, (9,)), (3, nn.Conv3d, (4, 5, 6)))
    }
    found["tokens"] = (nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3, bias=False)), torch.randn(4, 7, 6))
    return found


@pytest.mark.parametrize("name", networks())
def test_surgery_keeps_the_outputs_and_reverts(name):
    network, u = networks()[name]
    kinds = (nn.Conv1d, nn.Conv3d, nn.Linear)
    want, keys = network(u), list(network.state_dict())
    baseline = network.state_dict()
    report = ik.replace_with_interconv(network, where=kinds)
    assert len(report.changed) == 2
    torch.testing.assert_close(ik.SetModel(network)(u, [3, 1]), want)
    network.load_state_dict(baseline)
    torch.testing.assert_close(ik.SetModel(network)(u, [3, 1]), want)
    ik.revert(network)
    assert list(network.state_dict()) == keys
    assert torch.equal(network(u), want)
    report = ik.append_interconv(network, where=kinds)
    assert len(report.changed) == 2
    torch.testing.assert_close(ik.SetModel(network)(u, [3, 1]), want)
    ik.revert(network)
    assert list(network.state_dict()) == keys


def test_linear_layers_are_replaced_only_where_asked():
    network = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Linear(3, 3))
    ik.replace_with_interconv(network)
    assert [type(module) for module in network] == [ik.InterConv1d, nn.Linear]


def test_layers_whose_weights_are_read_by_others_stay():
    network = nn.ModuleDict(
        {"a": nn.MultiheadAttention(8, 2), "b": nn.TransformerEncoderLayer(8, 2, 16), "c": nn.Linear(8, 8)}
    )
    report = ik.replace_with_interconv(network, where=nn.Linear)
    assert [change.name for change in report.changed] == ["c"]
    assert {name: reason.split(",")[0] for name, reason in report.skipped} == {
        "a.out_proj": "it is inside MultiheadAttention",
        "b.self_attn.out_proj": "it is inside TransformerEncoderLayer",
        "b.linear1": "it is inside TransformerEncoderLayer",
        "b.linear2": "it is inside TransformerEncoderLayer",
    }


def test_the_deepest_level_of_a_network_of_volumes():
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.AvgPool3d(2), nn.Conv3d(2, 2, 3, padding=1))
    report = ik.replace_with_interconv(network, ik.deepest(1, torch.zeros(2, 1, 4, 4, 4)))
    assert [change.name for change in report.changed] == ["2"]

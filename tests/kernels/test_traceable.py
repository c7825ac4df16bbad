"""The layer as torch operations, for torch.compile on GPUs and for exporters: values, gradients, what is fused."""

import copy
from types import SimpleNamespace

import pytest
import torch
from common import FORMATS, RAGGED, eager_concat, make_case, oracle, with_grads, worst
from functorch.compile import make_boxed_func
from test_compile import LENGTHS, fresh_compiler, network, step  # noqa: F401  (a fixture)
from torch._dynamo.backends.common import aot_autograd
from torch._inductor import compile_fx, metrics

import interconv_kernels as ik
from interconv_kernels import arguments, choice, traceable


def layer(case, backend="auto"):
    conv = arguments.conv_of(2, case.u, case.weight, **{"stride": 1, "padding": "same", "dilation": 1, **case.conv})
    sets = case.sets
    return traceable.interconv(case.u, case.weight, case.bias, sets.offsets, sets.set_ids, conv, backend)


def decomposed(case):
    return ik.interconv2d(case.u, case.weight, case.bias, case.sets, algorithm="decomposed", **case.conv)


@pytest.mark.parametrize("form", [layer, decomposed])
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", RAGGED)
def test_forward_and_gradients(name, fmt, form):
    case = make_case(RAGGED[name], fmt=fmt)
    g = torch.randn_like(oracle(case))
    for got, want in zip(with_grads(form, case, g), with_grads(oracle, case, g), strict=True):
        assert worst(got, want) < 1e-12


@pytest.mark.parametrize("conv", [{"stride": 2}, {"dilation": (1, 2)}, {"padding": 0}, {"kernel": 1, "bias": False}])
def test_settings(conv):
    case = make_case([2, 1, 3], **conv)
    g = torch.randn_like(oracle(case))
    for got, want in zip(with_grads(layer, case, g), with_grads(oracle, case, g), strict=True):
        assert worst(got, want) < 1e-12


@pytest.mark.parametrize("form", [layer, decomposed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision(dtype, form):
    case = make_case([1, 2, 7, 3], 16, 16, dtype=dtype, fmt="channels_last")
    g = torch.randn(oracle(case).shape).to(dtype)
    want = with_grads(oracle, case.to(torch.float64), g)
    theirs = with_grads(eager_concat, case.to(dtype), g)
    for got, exact, bound in zip(with_grads(form, case, g), want, theirs, strict=True):
        assert got.dtype == dtype
        assert worst(got, exact) <= 4 * worst(bound, exact) + 8 * torch.finfo(dtype).eps


def test_derivatives_of_any_order():
    case = make_case([2, 1], 2, 2, (3, 3)).require_grad()

    def function(u, weight, bias):
        return layer(SimpleNamespace(u=u, weight=weight, bias=bias, sets=case.sets, conv={}))

    assert torch.autograd.gradcheck(function, case.tensors)
    assert torch.autograd.gradgradcheck(function, case.tensors)


def test_no_samples():
    y, *grads = with_grads(layer, make_case([0, 0]), torch.zeros(0, 4, 9, 7))
    assert y.shape == (0, 4, 9, 7)
    assert all(not x.any() for x in grads)


def test_same_bits_run_after_run():
    """Gradients of the set term are summed without atomics."""
    case = make_case([40, 3], 4, 4, dtype=torch.float32)
    g = torch.randn(43, 4, 9, 7)
    first, again = (with_grads(layer, case, g) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


# --- when it is used --------------------------------------------------------------------------------------------------


def test_where_the_layer_is_traced(monkeypatch):
    gpu, cpu = SimpleNamespace(device=torch.device("cuda", 1)), SimpleNamespace(device=torch.device("cpu"))
    assert not choice.is_traced(gpu, "auto")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert choice.is_traced(gpu, "auto")
    assert not choice.is_traced(cpu, "auto")
    assert not any(choice.is_traced(gpu, name) for name in ("concat", "split", "centered", "fused"))
    assert choice.is_traced(cpu, "decomposed")


def test_decomposed_is_exported_as_aten_operations():
    class Model(torch.nn.Module):
        def forward(self, u, weight, sets):
            return ik.interconv2d(u, weight, None, sets, negative_slope=0.1, algorithm="decomposed")

    arguments = (torch.randn(5, 2, 8, 8), torch.randn(3, 4, 3, 3), ik.Sets.from_lengths([2, 3]))
    n, b = torch.export.Dim("n", min=2), torch.export.Dim("b", min=3)  # torch makes another graph for one set
    shapes = ({0: n}, None, [{0: b}, {0: n}, {0: b}, {0: n}])
    program = torch.export.export(Model(), arguments, dynamic_shapes=shapes)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert "aten.conv2d.default" in targets
    assert not any("interconv" in name for name in targets)


@pytest.fixture
def traced_on_the_cpu(monkeypatch):
    monkeypatch.setattr(choice, "TRACED_DEVICES", ("cpu",))


class Graphs:
    """A backend of torch.compile that keeps the names of the operators in the graphs it gets, and runs them."""

    def __init__(self):
        self.targets = []

    def __call__(self, graph, inputs):
        def keep(graph, inputs):
            self.targets.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
            return make_boxed_func(graph.forward)

        return aot_autograd(fw_compiler=keep, bw_compiler=keep)(graph, inputs)


@pytest.mark.drop_in("PyTorch", "torch.compile: one graph for changing sets, the form for GPUs, {fmt}")
@pytest.mark.parametrize("fmt", FORMATS)
def test_one_graph_for_changing_sets(traced_on_the_cpu, fmt):
    model = network().to(memory_format=FORMATS[fmt])
    graphs = Graphs()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=True, backend=graphs)
    for lengths in LENGTHS:
        if sum(lengths) >= 16:
            continue  # torch's choice of a convolution guards on that, on the CPU
        x, sets = torch.randn(sum(lengths), 1, 16, 16), ik.Sets.from_lengths(lengths)
        for got, want in zip(step(compiled, x, sets), step(model, x, sets), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2  # one, and at most one more
    assert len(graphs.targets) <= 4
    for targets in graphs.targets:
        ours = {name for name in targets if name.startswith("interconv.")}
        assert ours == {"interconv.set_reduce.default"}
        assert not any("index_put" in name for name in targets)  # atomics on a GPU


def test_on_the_cpu_the_layer_stays_one_operator():
    graphs = Graphs()
    compiled = torch.compile(network(), fullgraph=True, backend=graphs)
    compiled(torch.randn(3, 1, 16, 16), ik.Sets.from_lengths([1, 2]))
    assert "interconv.interconv.default" in graphs.targets[0]
    assert not any("convolution" in name for name in graphs.targets[0])


# --- what Inductor fuses ----------------------------------------------------------------------------------------------

N, B = 64, 2  # few sets, so that what has their size counts for little


def passes(layer):
    """How often the compiled code of two layers reads or writes a map the size of u, forward and backward.

    Inductor counts the buffers that its kernels, and the operators that it calls, read and write. A convolution's
    backward is one operator, so g counts once for dgrad and wgrad.
    """
    u, weight, bias = torch.randn(N, 16, 24, 24), torch.randn(16, 32, 3, 3), torch.randn(16)
    scale = torch.linspace(0.5, 2, 16).view(16, 1, 1)

    def network(x, weight, bias):
        for _ in range(2):
            x = torch.relu(layer(x, weight, bias) * scale)
        return x

    inputs = [x.to(memory_format=torch.channels_last) for x in (u, weight)] + [bias]
    counts = []
    metrics.reset()
    y = torch.compile(network, fullgraph=True, dynamic=False)(*[x.requires_grad_() for x in inputs])
    for grad in (None, torch.ones_like(y)):
        if grad is not None:
            y.backward(grad)
        counts.append(sum(elements for _, elements in metrics.nodes_num_elem) // u.numel())
        metrics.reset()
    return counts


def concat(u, weight, bias):
    return ik.reference.concat_interconv(u, weight, bias, [N // B] * B)


def ours(u, weight, bias):
    return ik.interconv2d(u, weight, bias, ik.Sets.equal(B, N // B))


def test_passes_over_memory(traced_on_the_cpu, monkeypatch):
    """For each layer forward, the set mean (1 pass), a convolution (2), and the addition with what follows it (2)."""
    monkeypatch.setattr(compile_fx.inductor_metrics_log, "isEnabledFor", lambda level: True)  # it counts only then
    monkeypatch.setattr(compile_fx.inductor_metrics_log, "info", lambda *arguments: None)
    no_cache = torch._functorch.config.patch(enable_autograd_cache=False)  # a graph from there is not counted
    with no_cache, torch._inductor.config.patch({"fx_graph_cache": False, "cpp.simdlen": 1}):
        assert passes(concat) == [16, 18]
        assert passes(ours) == [10, 15]

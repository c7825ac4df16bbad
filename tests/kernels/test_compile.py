"""torch.compile, torch.export."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch._dynamo
from torch import nn

import interconv_kernels as ik

LENGTHS = ([2, 3], [4, 1, 5], [7], [1, 1, 1, 1], [3, 0, 2], [8, 8, 8], [1, 1], [2, 2])


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Deterministic filling is off: compiled code warns of it."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)
    torch._dynamo.reset()


def network(algorithm="auto"):
    torch.manual_seed(0)
    net = nn.Sequential(
        ik.InterConv2d(1, 8, algorithm=algorithm),
        nn.ReLU(),
        nn.MaxPool2d(2),
        ik.InterConv2d(8, 4, 1, algorithm=algorithm),
    )
    return ik.SetModel(net)


def step(model, x, sets):
    x = x.clone().requires_grad_()
    y = model(x, sets)
    grads = torch.autograd.grad(y.square().sum(), [x, *model.parameters()])
    return [y.detach(), *grads]


@pytest.mark.drop_in(
    "PyTorch", "torch.compile: one graph for changing sets, forward and backward, {backend}, {algorithm}"
)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("algorithm", ["auto", "concat"])
@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last])
def test_one_graph_for_changing_sets(backend, algorithm, fmt):
    model = network(algorithm).to(memory_format=fmt)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=True, backend=backend)
    for lengths in LENGTHS:
        x = torch.randn(sum(lengths), 1, 16, 16)
        sets = ik.Sets.from_lengths(lengths)
        for got, want in zip(step(compiled, x, sets), step(model, x, sets), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2  # one, and at most one more


@pytest.mark.drop_in("PyTorch", "torch.compile: functions, dense input")
def test_functions_and_dense_input_compile():
    weight = torch.randn(4, 6, 3, 3)
    sets = ik.Sets.from_lengths([2, 3])

    def function(u, x, sets):
        return ik.interconv2d(x, weight), ik.set_mean(u, sets), ik.concat_set_mean(u, sets)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    u, x = torch.randn(5, 3, 8, 8), torch.randn(2, 4, 3, 8, 8)
    for got, want in zip(compiled(u, x, sets), function(u, x, sets), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.drop_in("PyTorch", "torch.export: dynamic numbers of images and sets")
def test_export():
    model = network()
    x, sets = torch.randn(5, 1, 16, 16), ik.Sets.from_lengths([2, 3])
    n, b = torch.export.Dim("n", min=2), torch.export.Dim("b", min=2)
    shapes = {"x": {0: n}, "sets": [{0: b}, {0: n}, {0: b}, {0: n}]}
    program = torch.export.export(model, (x, sets), dynamic_shapes=shapes)
    for lengths in ([2, 3], [4, 1, 5], [1, 1, 1]):
        x, sets = torch.randn(sum(lengths), 1, 16, 16), ik.Sets.from_lengths(lengths)
        exported = program.module()
        for got, want in zip(step(exported, x, sets), step(model, x, sets), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.drop_in("PyTorch", "torch.compile: in another thread")
def test_a_compiled_network_that_is_the_first_to_use_sets_in_its_thread():
    compiled = torch.compile(ik.SetModel(ik.InterConv2d(2)), backend="eager", fullgraph=True)
    u, sets = torch.randn(4, 2, 8, 8), ik.Sets.from_lengths([3, 1])
    with ThreadPoolExecutor(1) as thread:
        first, second = (thread.submit(compiled, u, sets).result() for _ in range(2))
    assert torch.equal(first, second)


class Layers(nn.Module):
    """Two layers that take sets as they are given; jagged input has its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = ik.InterConv2d(1, 8), ik.InterConv2d(8, 4, 1)

    def forward(self, x, sets=None):
        return self.second(torch.relu(self.first(x, sets)), sets)


def offsets_of(lengths, dtype=torch.int64):
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=dtype)


def check_one_graph(model, inputs):
    """inputs(x, lengths) makes the arguments."""
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in LENGTHS:
        x = torch.randn(sum(lengths), 1, 16, 16, requires_grad=True)
        results = []
        for function in (compiled, model):
            y = function(*inputs(x, lengths))
            y = y.values() if y.is_nested else y
            results.append([y.detach(), *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.drop_in("PyTorch", "torch.compile: sets as a tensor of offsets")
def test_offsets_need_one_graph():
    check_one_graph(ik.SetModel(Layers()), lambda x, lengths: (x, offsets_of(lengths, torch.int32)))


@pytest.mark.drop_in("PyTorch", "torch.compile: jagged input")
def test_jagged_input_needs_one_graph():
    def jagged(x, lengths):
        return (torch.nested.nested_tensor_from_jagged(x, offsets_of(lengths)),)

    check_one_graph(Layers(), jagged)


@pytest.mark.drop_in(
    "PyTorch", "torch.compile: sets as a list", limitation="one graph for each number of sets: pass ik.Sets or offsets"
)
def test_a_list_needs_one_graph_for_each_number_of_sets():
    model = ik.SetModel(Layers())
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in ([2, 3], [5, 1], [7, 6], [3, 4], [2, 3, 4], [4, 1, 6], [5, 5, 5]):
        x = torch.randn(sum(lengths), 1, 16, 16)
        torch.testing.assert_close(compiled(x, lengths), model(x, lengths), rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3  # two numbers of sets, and at most one more


@pytest.mark.drop_in("PyTorch", "torch.compile: wrong offsets are refused when the graph runs")
@pytest.mark.parametrize("offsets", [[0, 2, 6], [1, 2, 5], [0, 4, 3, 5], [0, 2, 4]])
def test_wrong_offsets_are_refused_by_compiled_code(offsets):
    model = ik.SetModel(Layers())
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    x = torch.randn(5, 1, 16, 16)
    compiled(x, torch.tensor([0, 2, 5]))
    with pytest.raises(RuntimeError, match="expected nondecreasing integers from 0 to N"):
        compiled(x, torch.tensor(offsets))


def test_a_traced_file_holds_operators(tmp_path):
    class WithTensors(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x, offsets, set_ids):
            return self.model(x, ik.Sets(offsets, set_ids, offsets, set_ids))

    model, sets = network(), ik.Sets.from_lengths([2, 3])
    with torch.no_grad():
        traced = torch.jit.trace(WithTensors(model), (torch.randn(5, 1, 16, 16), sets.offsets, sets.set_ids))
        traced.save(tmp_path / "model.pt")
        loaded = torch.jit.load(tmp_path / "model.pt")
        assert "interconv::interconv" in str(loaded.inlined_graph)
        for lengths in ([4, 1, 5], [1]):
            x, sets = torch.randn(sum(lengths), 1, 16, 16), ik.Sets.from_lengths(lengths)
            torch.testing.assert_close(loaded(x, sets.offsets, sets.set_ids), model(x, sets))

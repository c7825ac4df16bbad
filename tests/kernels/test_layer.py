"""InterConv2d and interconv2d: the forms a batch comes in, derivatives, autocast, saving, memory, contexts."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from common import ALGORITHMS, DTYPES, FORMATS, layer, make_case, oracle, with_grads, worst
from torch import nn

import interconv_kernels as ik
from interconv_kernels.set_context import current_sets


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fmt", FORMATS)
def test_packed_dense_and_jagged_agree(algorithm, fmt):
    module = ik.InterConv2d(5, 4, algorithm=algorithm, dtype=torch.float64)
    u = torch.randn(6, 5, 9, 7, dtype=torch.float64).contiguous(memory_format=FORMATS[fmt])
    packed = module(u, [3, 3])
    assert worst(packed, ik.reference.interconv(u, module.weight, module.bias, [3, 3])) < 1e-13
    assert torch.equal(module(u.unflatten(0, (2, 3))), packed.unflatten(0, (2, 3)))
    assert torch.equal(module(u, 3), packed)
    assert torch.equal(module(u, torch.tensor([0, 3, 6])), packed)
    offsets = torch.tensor([0, 1, 1, 6])
    jagged = torch.nested.nested_tensor_from_jagged(u, offsets=offsets)
    y = module(jagged)
    assert y.layout == torch.jagged
    assert y.offsets() is offsets
    assert torch.equal(y.values(), module(u, [1, 0, 5]))
    assert torch.equal(module(u.new_zeros(2, 0, 5, 9, 7)), u.new_zeros(2, 0, 4, 9, 7))


def test_jagged_and_dense_gradients():
    module = ik.InterConv2d(3, dtype=torch.float64)
    u = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    want = torch.autograd.grad(module(u, [1, 3]).square().sum(), [u, *module.parameters()])
    jagged = torch.nested.nested_tensor_from_jagged(u, offsets=torch.tensor([0, 1, 4]))
    got = torch.autograd.grad(module(jagged).values().square().sum(), [u, *module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    want = torch.autograd.grad(module(u, 2).square().sum(), [u, *module.parameters()])
    got = torch.autograd.grad(module(u.unflatten(0, (2, 2))).square().sum(), [u, *module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_jagged_sets_are_made_once_a_batch(monkeypatch):
    made = []
    make = ik.Sets.from_offsets
    monkeypatch.setattr(ik.Sets, "from_offsets", lambda *args: made.append(args) or make(*args))
    module = ik.InterConv2d(3)
    module(module(torch.nested.nested_tensor_from_jagged(torch.randn(4, 3, 5, 5), offsets=torch.tensor([0, 1, 4]))))
    assert len(made) == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck_and_gradgradcheck(algorithm, kernel, stride):
    case = make_case([2, 1, 3], 2, 2, (5, 4), kernel, stride=stride).require_grad()
    sets = case.sets

    def function(u, weight, bias):
        return ik.interconv2d(u, weight, bias, sets, algorithm=algorithm, stride=stride)

    assert torch.autograd.gradcheck(function, case.tensors)
    assert torch.autograd.gradgradcheck(function, case.tensors)


def test_third_derivative():
    case = make_case([2, 1], 1, 1, (3, 3)).require_grad()

    def norm_of_gradient(u):
        y = ik.interconv2d(u, case.weight, None, case.sets)
        (g,) = torch.autograd.grad((y**3).sum(), u, create_graph=True)
        return g

    assert torch.autograd.gradgradcheck(norm_of_gradient, case.u)


@pytest.mark.parametrize(
    "needed", [(True, False, False), (False, True, False), (False, False, True), (False, True, True)]
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_the_gradients_that_are_needed(needed, algorithm):
    case = make_case([2, 1, 3])
    for x, need in zip(case.tensors, needed, strict=True):
        x.requires_grad_(need)
    leaves = [x for x, need in zip(case.tensors, needed, strict=True) if need]
    got = torch.autograd.grad(layer(case, algorithm).square().sum(), leaves)
    want = torch.autograd.grad(oracle(case).square().sum(), leaves)
    assert all(worst(a, b) < 1e-12 for a, b in zip(got, want, strict=True))
    # and twice
    first = torch.autograd.grad((layer(case, algorithm) ** 3).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), leaves)
    first = torch.autograd.grad((oracle(case) ** 3).sum(), leaves, create_graph=True)
    assert all(
        worst(a, b) < 1e-11
        for a, b in zip(second, torch.autograd.grad(sum(x.square().sum() for x in first), leaves), strict=True)
    )


def test_torch_func_grad():
    case = make_case([2, 1])

    def energy(f):
        return lambda u: f(u).square().sum()

    got = torch.func.grad(energy(lambda u: ik.interconv2d(u, case.weight, case.bias, case.sets)))(case.u)
    want = torch.func.grad(energy(lambda u: ik.reference.interconv(u, case.weight, case.bias, case.lengths)))(case.u)
    assert worst(got, want) < 1e-12


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_format_is_kept(algorithm, fmt, dtype):
    case = make_case([2, 3], fmt=fmt, dtype=dtype)
    y, grad_u, grad_weight, _ = with_grads(lambda c: layer(c, algorithm), case, torch.randn(5, 4, 9, 7))
    for x in (y, grad_u, grad_weight):
        assert x.is_contiguous(memory_format=FORMATS[fmt])


def test_a_channels_last_network_stays_so_after_a_one_channel_image():
    first, second = (ik.InterConv2d(c, 8).to(memory_format=torch.channels_last) for c in (1, 8))
    y = second(first(torch.randn(3, 1, 8, 8), [3]), [3])
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("algorithm", ALGORITHMS[1:])
def test_nothing_but_input_and_weight_is_saved(kernel, algorithm):
    """Extra memory kept for the backward, against eager concat, which keeps the concatenated input."""
    saved = {}

    def run(name, function, inputs):
        storages = {}
        known = {x.untyped_storage().data_ptr() for x in inputs}

        def pack(x):
            if x.untyped_storage().data_ptr() not in known and x.is_floating_point():
                storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            function()
        saved[name] = sum(storages.values())

    for lengths in ([1] * 6, [2] * 3, [6]):
        case = make_case(lengths, channels=8, kernel=kernel, dtype=torch.float32).require_grad()
        from common import eager_concat

        run("concat", lambda case=case: eager_concat(case), case.tensors)
        run("ours", lambda case=case: layer(case, algorithm), case.tensors)
        assert saved["concat"] >= 2 * case.u.nbytes
        assert saved["ours"] == 0
        # Even if u were kept for this layer alone (it is the caller's), it would be half.
        assert (saved["ours"] + case.u.nbytes) <= 0.55 * saved["concat"]


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast(low):
    module = ik.InterConv2d(8)
    u = torch.randn(4, 8, 6, 6, requires_grad=True)
    with torch.autocast("cpu", low):
        y = module(u, 2)
        y64 = module.double()(u.double(), 2)
    assert y.dtype == low
    assert y64.dtype == torch.float64
    module.float()
    (y.float().square().sum()).backward()
    assert u.grad.dtype == torch.float32
    assert worst(y, y64) < 16 * torch.finfo(low).eps


def test_state_dicts():
    module = ik.InterConv2d(4, 6)
    assert list(module.state_dict()) == ["weight", "bias"]
    authors = nn.Module()
    authors.conv = nn.Conv2d(8, 6, 3, padding=1)  # the authors' layer: concat, then `conv`
    module.load_state_dict(authors.state_dict())
    assert torch.equal(module.weight, authors.conv.weight)
    net, theirs = nn.Sequential(nn.ReLU(), copy.deepcopy(module)), nn.Sequential(nn.ReLU(), authors)
    nn.init.zeros_(net[1].weight)
    state = theirs.state_dict()
    net.load_state_dict(state)
    assert torch.equal(net[1].weight, authors.conv.weight)
    assert list(state) == ["1.conv.weight", "1.conv.bias"]  # the caller's dict is left alone
    u = torch.randn(3, 4, 5, 5)
    want = authors.conv(torch.cat([u, u.mean(0).expand_as(u)], dim=1))
    assert worst(net[1](u, [3]), want) < 1e-6
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(again(u, [3]), module(u, [3]))
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict({"conv.weight": torch.zeros(6, 4, 3, 3), "conv.bias": torch.zeros(6)})


def test_starts_as_conv2d_would():
    torch.manual_seed(0)
    ours, theirs = ik.InterConv2d(16, 32), nn.Conv2d(32, 32, 3)
    assert ours.weight.shape == theirs.weight.shape
    for name in ("weight", "bias"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert abs(float(a.std() / b.std()) - 1) < 0.3
        assert float(a.abs().max()) <= 288**-0.5


def test_repr():
    text = repr(ik.InterConv2d(4, 6, 5, stride=2, dilation=(1, 2), bias=False, algorithm="split"))
    assert (
        text == "InterConv2d(4, 6, kernel_size=(5, 5), padding=(2, 4), stride=(2, 2), dilation=(1, 2), bias=False,"
        " algorithm='split')"
    )


class TestContexts:
    u = torch.randn(6, 3, 5, 5)

    def test_nest_and_restore(self):
        module = ik.InterConv2d(3)
        by_two, by_three = module(self.u, 2), module(self.u, 3)
        assert not torch.equal(by_two, by_three)
        two = ik.use_sets(2)
        with two:
            assert torch.equal(module(self.u), by_two)
            with ik.use_sets(ik.Sets.from_lengths([3, 3])):
                assert torch.equal(module(self.u), by_three)
                with two:  # entered again inside itself
                    assert torch.equal(module(self.u), by_two)
                assert torch.equal(module(self.u), by_three)
                assert torch.equal(module(self.u, [6]), module(self.u, 6))  # given sets come first
            assert torch.equal(module(self.u), by_two)
        with pytest.raises(ValueError, match=r"no sets.*SetModel.*use_sets"):
            module(self.u)

    def test_restored_after_an_error(self):
        with pytest.raises(ZeroDivisionError), ik.use_sets(2):
            raise ZeroDivisionError
        with pytest.raises(ValueError, match="no sets"):
            ik.InterConv2d(3)(self.u)

    def test_each_thread_has_its_own(self):
        module, results = ik.InterConv2d(3), {}
        barrier = threading.Barrier(2)

        def work(size):
            with ik.use_sets(size):
                barrier.wait()
                results[size] = module(self.u).detach()
                barrier.wait()

        threads = [threading.Thread(target=work, args=(size,)) for size in (2, 3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert all(torch.equal(results[size], module(self.u, size)) for size in (2, 3))

    def test_one_block_entered_by_two_threads(self):
        shared = ik.use_sets([5, 1])
        outer = {"here": ik.use_sets(2), "there": ik.use_sets(3)}
        with ThreadPoolExecutor(1) as thread:
            for block in (outer["here"], shared):
                block.__enter__()
            for block in (outer["there"], shared):
                thread.submit(block.__enter__).result()
            shared.__exit__()
            assert current_sets() == 2
            thread.submit(shared.__exit__).result()
            assert thread.submit(current_sets).result() == 3
            outer["here"].__exit__()

    def test_set_model(self):
        net = nn.Sequential(ik.InterConv2d(3), nn.ReLU(), ik.InterConv2d(3, stride=2))
        model = ik.SetModel(net)
        want = net[2](net[0](self.u, [1, 5]).relu(), [1, 5])
        for sets in ([1, 5], ik.Sets.from_lengths([1, 5]), torch.tensor([0, 1, 6])):
            assert torch.equal(model(self.u, sets), want)
        with pytest.raises(ValueError, match="sum to 5"):
            model(self.u, [5])


# --- activations ------------------------------------------------------------------------------------------------------

SLOPES = {
    "relu": 0.0,
    "leaky ReLU": 0.1,
    "PReLU, one slope": torch.tensor([0.25], dtype=torch.float64),
    "PReLU, a slope per channel": torch.tensor([0.5, 0.25, 0.0, -1.0], dtype=torch.float64),
}


def exact_activation(y, slope):
    return torch.where(y < 0, y * (slope.view(1, -1, 1, 1) if isinstance(slope, torch.Tensor) else slope), y)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("algorithm", ["concat", "split", "centered", "auto"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_activations(algorithm, kernel, grad, dtype):
    """act(layer), with and without gradients."""
    case = make_case([2, 1, 3], 9, kernel=kernel, dtype=dtype)
    if grad:
        case.require_grad()
    bound = 1e-12 if dtype == torch.float64 else 2e-5
    for slope in SLOPES.values():
        y = layer(case, algorithm, negative_slope=slope)
        exact = case.to(torch.float64).require_grad()
        want = exact_activation(oracle(exact), slope)
        assert y.requires_grad == grad
        assert worst(y, want) < bound
        if grad:
            got = torch.autograd.grad(y.sum(), case.tensors)
            expected = torch.autograd.grad(want.sum(), exact.tensors)
            assert all(worst(a, b) < bound for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.PReLU(init=0.3), nn.PReLU(6)])
def test_a_module_applies_its_activation(activation):
    module = ik.InterConv2d(5, 6, activation=activation)
    plain = ik.InterConv2d(5, 6)
    plain.load_state_dict({name: x for name, x in module.state_dict().items() if "activation" not in name})
    u = torch.randn(4, 5, 8, 7)
    want = activation(plain(u, [1, 3]))
    assert worst(module(u, [1, 3]), want) < 1e-6
    with torch.no_grad():
        assert worst(module(u, [1, 3]), want) < 1e-6
    module(u, [1, 3]).sum().backward()
    want.sum().backward()
    assert worst(module.weight.grad, plain.weight.grad) < 1e-6
    assert [*module.state_dict()][2:] == [f"activation.{name}" for name in activation.state_dict()]

"""torch.func, forward mode, torch.fx, torch.jit.trace and FlopCounterMode."""

import io
import subprocess
import sys

import pytest
import torch
from common import make_case
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.utils.flop_counter import FlopCounterMode

import interconv_kernels as ik

SETS = [2, 1]
CASE = make_case(SETS, channels=2, out_channels=2, size=(3, 2))
OPS = {"set_mean": ik.set_mean, "concat_set_mean": ik.concat_set_mean}


def reference(u, weight, bias, lengths=SETS):
    return ik.reference.interconv(u, weight, bias, lengths)


class TestDerivatives:
    """Against finite differences, in both modes, in batches (vmap), and in forward mode over reverse mode."""

    @pytest.mark.drop_in("PyTorch", "derivatives of first and second order, forward mode, vmap: the layer")
    def test_layer(self):
        def function(u, weight, bias):
            return ik.interconv2d(u, weight, bias, SETS)

        inputs = [x.requires_grad_() for x in make_case(SETS, channels=1, out_channels=2, size=(2, 1)).tensors]
        assert gradcheck(
            function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
        )
        assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_batched_grad=True)

    @pytest.mark.drop_in("PyTorch", "derivatives of first and second order, forward mode, vmap: {name}")
    @pytest.mark.parametrize("name", OPS)
    def test_set_operations(self, name):
        def function(u):
            return OPS[name](u, [0, 2, 1])

        u = CASE.u.clone().requires_grad_()
        assert gradcheck(function, u, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
        assert gradgradcheck(function, u, check_fwd_over_rev=True, check_batched_grad=True)

    @pytest.mark.parametrize("argnum", [0, 1, 2])
    def test_forward_over_reverse_of_one_input(self, argnum):
        """The other gradients of the backward pass are not computed then; all inputs have tangents."""

        def layer(u, weight, bias):
            return ik.interconv2d(u, weight, bias, SETS)

        def derivatives(function):
            def loss(*inputs):
                return function(*inputs).pow(3).sum()

            return jvp(grad(loss, argnum), tuple(CASE.tensors), tuple(x.sin() for x in CASE.tensors))

        torch.testing.assert_close(derivatives(layer), derivatives(reference), rtol=1e-9, atol=1e-9)

    @pytest.mark.drop_in("PyTorch", "forward mode (jvp): layer and set operations")
    @pytest.mark.parametrize("enabled", [True, False])
    def test_forward_mode_with_and_without_grad_mode(self, enabled):
        """No tangent is dropped by the kernels that apply the activation, which have no derivatives."""
        layer = ik.InterConv2d(2, activation=nn.ReLU(), dtype=torch.float64)
        du = torch.randn_like(CASE.u)
        with torch.set_grad_enabled(enabled), forward_ad.dual_level():
            y, dy = forward_ad.unpack_dual(layer(forward_ad.make_dual(CASE.u, du), SETS))
            means = [forward_ad.unpack_dual(op(forward_ad.make_dual(CASE.u, du), SETS)).tangent for op in OPS.values()]
        want = jvp(lambda u: reference(u, layer.weight, layer.bias).relu(), (CASE.u,), (du,))
        torch.testing.assert_close((y, dy), want, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(means, [op(du, SETS) for op in OPS.values()], rtol=1e-12, atol=1e-12)


@pytest.mark.drop_in("PyTorch", "torch.func.{jacobian.__name__}")
@pytest.mark.parametrize("jacobian", [jacrev, jacfwd, hessian])
def test_jacobians(jacobian):
    def of(function):
        if jacobian is hessian:
            return hessian(lambda weight: function(CASE.u, weight, CASE.bias).square().sum())(CASE.weight)
        return jacobian(function, argnums=(0, 1, 2))(*CASE.tensors)

    got = of(lambda u, weight, bias: ik.interconv2d(u, weight, bias, SETS))
    torch.testing.assert_close(got, of(reference), rtol=1e-9, atol=1e-9)


@pytest.mark.drop_in("PyTorch", "torch.func: vmap over an ensemble, with gradients")
def test_ensemble():
    """vmap over the stacked parameters of three networks, whose sets SetModel passes on; and their gradients."""
    torch.manual_seed(0)
    models = [ik.SetModel(nn.Sequential(ik.InterConv2d(2, dtype=torch.float64), nn.Sigmoid())) for _ in range(3)]
    stacked, buffers = stack_module_state(models)

    def loss(parameters):
        y = functional_call(models[0], (parameters, buffers), (CASE.u, SETS))
        return y.square().sum(), y

    grads, outputs = vmap(grad(loss, has_aux=True))(stacked)
    for i, model in enumerate(models):
        layer = model.network[0]
        want = reference(CASE.u, layer.weight, layer.bias).sigmoid()
        torch.testing.assert_close(outputs[i], want, rtol=1e-9, atol=1e-9)
        for name, want_grad in zip(
            grads, torch.autograd.grad(want.square().sum(), list(model.parameters())), strict=True
        ):
            torch.testing.assert_close(grads[name][i], want_grad, rtol=1e-9, atol=1e-9)


@pytest.mark.drop_in("PyTorch", "torch.func: vmap over samples, weights and biases")
@pytest.mark.parametrize("in_dims", [(1, None, None), (None, 0, 0), (-1, 2, None)])
def test_vmap_over_any_dimension(in_dims):
    inputs = []
    for x, dim in zip(CASE.tensors, in_dims, strict=True):
        inputs.append(x if dim is None else torch.stack([x, x.flip(0), 2 * x], dim))

    def layer(u, weight, bias):
        return ik.interconv2d(u, weight, bias, SETS)

    got = vmap(layer, in_dims, out_dims=1)(*inputs)
    want = vmap(reference, in_dims, out_dims=1)(*inputs)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


class TestFx:
    network = nn.Sequential(ik.InterConv2d(2, 3), nn.ReLU(), ik.InterConv2d(3, activation=nn.ReLU()))
    u = torch.randn(4, 2, 5, 5)

    @pytest.mark.drop_in("PyTorch", "torch.fx: InterConv2d is a leaf")
    def test_the_layer_is_a_leaf(self):
        traced = torch.fx.symbolic_trace(self.network)
        assert [node.op for node in traced.graph.nodes] == ["placeholder", *["call_module"] * 3, "output"]
        for lengths in ([3, 1], [1, 1, 2]):
            assert torch.equal(ik.SetModel(traced)(self.u, lengths), ik.SetModel(self.network)(self.u, lengths))

    @pytest.mark.drop_in("PyTorch", "torch.fx: sets as an argument")
    def test_sets_as_an_argument(self):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = ik.InterConv2d(2)

            def forward(self, u, sets):
                return self.layer(self.layer(u, sets), sets=sets)

        network = Network()
        traced = torch.fx.symbolic_trace(network)
        for lengths in ([3, 1], [1, 1, 2]):
            sets = ik.Sets.from_lengths(lengths)
            assert torch.equal(traced(self.u, sets), network(self.u, sets))

    @pytest.mark.drop_in(
        "PyTorch", "torch.fx: tracing SetModel", limitation="trace model.network, put SetModel around the result"
    )
    def test_set_model_says_what_to_trace(self):
        with pytest.raises(TypeError, match=r"torch.fx cannot trace SetModel.*symbolic_trace\(model.network\)"):
            torch.fx.symbolic_trace(ik.SetModel(self.network))


class TestJitTrace:
    @pytest.mark.drop_in("PyTorch", "torch.jit.trace: from a file, with and without grad mode")
    @pytest.mark.parametrize("enabled", [True, False])
    def test_from_a_file(self, enabled):
        torch.manual_seed(0)
        network = nn.Sequential(ik.InterConv2d(2, 3, activation=nn.PReLU()), ik.InterConv2d(3, 2))
        sets, file = ik.Sets.from_lengths([3, 1]), io.BytesIO()
        with torch.set_grad_enabled(enabled), ik.use_sets(sets):
            traced = torch.jit.trace(network, torch.randn(4, 2, 5, 5))
            torch.jit.save(traced, file)
        file.seek(0)
        loaded, u = torch.jit.load(file), torch.randn(4, 2, 5, 5)
        y = network[1](network[0](u, sets), sets)
        assert torch.equal(loaded(u), y)
        for got, want in zip(
            torch.autograd.grad(loaded(u).square().sum(), list(loaded.parameters())),
            torch.autograd.grad(y.square().sum(), list(network.parameters())),
            strict=True,
        ):
            torch.testing.assert_close(got, want)

    @pytest.mark.drop_in("PyTorch", "torch.jit.trace: index tensors of sets as inputs")
    def test_sets_as_tensors(self):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = ik.SetModel(ik.InterConv2d(2))

            def forward(self, u, offsets, set_ids):
                sets = ik.Sets(offsets, set_ids, offsets, set_ids)
                return self.model(u, sets), ik.set_mean(u, sets)

        network, traced_with, sets = Network(), ik.Sets.from_lengths([3, 1]), ik.Sets.from_lengths([1, 2, 2])
        with torch.no_grad():
            traced = torch.jit.trace(network, (torch.randn(4, 2, 5, 5), traced_with.offsets, traced_with.set_ids))
        u = torch.randn(5, 2, 6, 6)
        for got, want in zip(
            traced(u, sets.offsets, sets.set_ids), network(u, sets.offsets, sets.set_ids), strict=True
        ):
            assert torch.equal(got, want)


class TestJitScript:
    @pytest.mark.drop_in("PyTorch", "torch.jit.script", limitation="use torch.jit.trace or torch.export")
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_refuses(self):
        with pytest.raises((TypeError, RuntimeError)):
            torch.jit.script(nn.Sequential(ik.InterConv2d(2)))


class TestFlops:
    HALF = 2 * 5 * 3 * 9 * 8 * 6  # of a half-convolution of 3 -> 5 channels with a 3x3 kernel on 8 x 6 pixels
    u = torch.randn(7, 3, 8, 6)

    def count(self, function):
        with FlopCounterMode(display=False) as counter:
            result = function()
        return counter.get_total_flops(), result

    @pytest.mark.parametrize(
        ("algorithm", "halves"), [("concat", 2 * 7), ("split", 7 + 2), ("centered", 7), ("auto", 7 + 2)]
    )
    def test_layer(self, algorithm, halves):
        layer = ik.InterConv2d(3, 5, algorithm=algorithm)
        forward, y = self.count(lambda: layer(self.u, [3, 4]))
        assert forward == halves * self.HALF
        assert self.count(lambda: y.sum().backward())[0] == forward  # of the weight alone
        u = self.u.clone().requires_grad_()
        y = layer(u, [3, 4])
        assert self.count(lambda: y.sum().backward())[0] == 2 * forward
        layer.activation = nn.ReLU()
        with torch.no_grad():
            assert self.count(lambda: layer(self.u, [3, 0, 4]))[0] == forward

    @pytest.mark.drop_in("PyTorch", "FlopCounterMode: formulas of the layer")
    def test_concat_counts_as_much_as_the_layer_in_plain_torch(self):
        layer = ik.InterConv2d(3, 5, algorithm="concat", stride=2)
        theirs = ik.reference.ConcatInterConv2d.from_layer(layer)
        u = self.u.clone().requires_grad_()
        (ours, y), (want, y_theirs) = (self.count(lambda m=m: m(u, [3, 4])) for m in (layer, theirs))
        assert ours == want
        assert self.count(lambda: y.sum().backward())[0] == self.count(lambda: y_theirs.sum().backward())[0]

    def test_registered_in_either_order_of_imports(self):
        counter, library = "from torch.utils import flop_counter", "import interconv_kernels"
        later = (
            f"{library}, sys, torch; assert not {{'torch.utils.flop_counter', 'triton'}} & set(sys.modules); {counter}"
        )
        registered = "import torch; assert torch.ops.interconv.interconv in flop_counter.flop_registry"
        for imports in (f"{counter}; {library}", later):
            subprocess.run([sys.executable, "-c", f"{imports}; {registered}"], check=True)

"""Layers that surgery leaves alone, and the reasons that it reports."""

import functools

import pytest
import torch
from surgery_common import X, conv, network, outputs_are_kept
from torch import nn
from torch.nn.utils import parametrizations, prune

import interconv_kernels as ik

# --- layers that stay -------------------------------------------------------------------------------------------------


class SameConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(2 * x)


class ScaledWeight(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / 2, bias)


class Mixin:
    def extra_state_of_a_user(self):
        return 3


class MixedConv(Mixin, nn.Conv2d):
    pass


def hooked(register, hook=lambda *arguments: None):
    layer = conv()
    getattr(layer, register)(hook)
    return layer


def with_own_forward():
    layer = conv()
    layer.forward = lambda x: 3 * x
    return layer


def with_weight_hook(register):
    layer = conv()
    getattr(layer.weight, register)(lambda grad: None)
    return layer


def with_attribute_of_interconv():
    layer = conv()
    layer.algorithm = "mine"
    return layer


def with_a_tensor_as(name):
    layer = conv()
    tensor = getattr(layer, name).detach()
    delattr(layer, name)
    setattr(layer, name, tensor)
    return layer


def compiled_alone():
    layer = conv()
    layer.compile(backend="eager")
    return layer


def subclassed_weight():
    class Special(nn.Parameter):
        pass

    layer = conv()
    layer.weight = Special(layer.weight.detach())
    return layer


KEPT = {
    "own forward": (lambda: SameConv(3, 3, 3, padding=1), "SameConv is a Conv2d with its own forward"),
    "own _conv_forward": (lambda: ScaledWeight(3, 3, 3, padding=1), "with its own _conv_forward"),
    "own method": (lambda: MixedConv(3, 3, 1), "with its own extra_state_of_a_user"),
    "weight_norm": (lambda: parametrizations.weight_norm(conv()), "parametrized: weight by _WeightNorm"),
    "spectral_norm": (lambda: parametrizations.spectral_norm(conv()), "parametrized: weight by _SpectralNorm"),
    "orthogonal": (lambda: parametrizations.orthogonal(conv()), "parametrized: weight by _Orthogonal"),
    "old weight_norm": (lambda: nn.utils.weight_norm(conv()), "forward pre hooks (WeightNorm)"),
    "old spectral_norm": (lambda: nn.utils.spectral_norm(conv()), "hooks (SpectralNorm"),
    "pruned": (lambda: prune.l1_unstructured(conv(), "weight", 0.5), "forward pre hooks (L1Unstructured)"),
    "forward hook": (lambda: hooked("register_forward_hook"), "forward hooks (<lambda>)"),
    "forward pre-hook": (lambda: hooked("register_forward_pre_hook"), "forward pre hooks"),
    "backward hook": (lambda: hooked("register_full_backward_hook"), "backward hooks"),
    "backward pre-hook": (lambda: hooked("register_full_backward_pre_hook"), "backward pre hooks"),
    "state-dict hook": (lambda: hooked("_register_state_dict_hook"), "state dict hooks"),
    "state-dict pre-hook": (lambda: hooked("register_state_dict_pre_hook"), "state dict pre hooks"),
    "load pre-hook": (lambda: hooked("register_load_state_dict_pre_hook"), "load state dict pre hooks"),
    "load post-hook": (lambda: hooked("register_load_state_dict_post_hook"), "load state dict post hooks"),
    "weight hook": (lambda: with_weight_hook("register_hook"), "its weight has hooks"),
    "gradient hook": (lambda: with_weight_hook("register_post_accumulate_grad_hook"), "its weight has hooks"),
    "forward on the object": (with_own_forward, "its forward was replaced on the object"),
    "compiled": (compiled_alone, "compiled by itself"),
    "attribute": (with_attribute_of_interconv, "attribute 'algorithm' of its own"),
    "weight is a tensor": (lambda: with_a_tensor_as("weight"), "its weight is a Tensor and no plain parameter"),
    "bias is a tensor": (lambda: with_a_tensor_as("bias"), "its bias is a Tensor and no plain parameter"),
    "weight is a subclass": (subclassed_weight, "its weight is a Special"),
    "groups": (lambda: conv(groups=3), "groups=3"),
    "padding mode": (lambda: conv(padding_mode="circular"), "padding_mode='circular'"),
    "even and same": (lambda: nn.Conv2d(3, 3, 2, padding="same"), "uneven"),
    "transposed": (
        lambda: nn.ConvTranspose2d(3, 3, 1),
        "ConvTranspose2d is none of nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear",
    ),
}


@pytest.mark.drop_in("PyTorch", "surgery leaves a layer alone and says why: {case}")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", KEPT)
def test_a_layer_that_cannot_be_preserved_stays_as_it_is(case):
    make, reason = KEPT[case]
    layer = make()
    net = network(layer).eval()
    torch.manual_seed(0)
    report = outputs_are_kept(net)
    assert net[0] is layer
    assert [change.name for change in report.changed] == ["2"]
    ((name, text),) = report.skipped
    assert name == "0"
    assert reason in text
    assert f"0: left as it is, {text}" in str(report)


@pytest.mark.drop_in("PyTorch", "surgery names 1-D, 3-D, complex, quantized and lazy layers")
def test_layers_that_do_not_take_these_inputs_are_named():
    net = nn.ModuleDict(
        {
            "a": nn.ConvTranspose3d(1, 1, 1),
            "b": nn.Conv1d(1, 1, 1, padding_mode="circular"),
            "c": nn.LazyConv2d(1, 1),
            "d": conv(),
        }
    )
    net["e"] = nn.Conv2d(1, 1, 1, dtype=torch.complex64)
    net["f"] = torch.ao.nn.quantized.Conv2d(1, 1, 1)
    report = ik.replace_with_interconv(net)
    assert dict(report.skipped) == {
        "a": "ConvTranspose3d is none of nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear",
        "b": "it has padding_mode='circular', and InterConv pads with zeros",
        "c": "it does not know its sizes yet: run the network once first",
        "e": "its weight is complex64",
        "f": "Conv2d is none of nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear",
    }
    net["c"](torch.zeros(1, 2, 3, 3))  # now it is an ordinary layer
    assert [change.name for change in ik.replace_with_interconv(net).changed] == ["c"]


@pytest.mark.drop_in("PyTorch", "surgery names scripted and traced layers")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("compiler", [torch.jit.script, lambda net: torch.jit.trace(net, X)])
def test_scripted_layers_are_named(compiler):
    net = nn.Sequential(compiler(nn.Sequential(conv(), nn.ReLU())), conv())
    report = outputs_are_kept(net)
    assert report.skipped == [("0.0", "it is scripted: change the network before torch.jit.script or trace")]
    net = nn.Sequential(compiler(conv()), conv())
    report = ik.append_interconv(net, where=("0", "1"))
    assert report.skipped == [("0", "it is scripted: change the network before torch.jit.script or trace")]


def test_append_needs_to_know_the_number_of_features():
    net = nn.ModuleDict({"a": nn.ReLU(), "c": conv(), "d": nn.LazyConv2d(1, 1)})
    report = ik.append_interconv(net, where=["a", "c", "d"])
    assert report.skipped == [
        ("a", "ReLU does not tell its number of features (out_channels or num_features)"),
        ("d", "it does not know its sizes yet: run the network once first"),
    ]


@pytest.mark.drop_in("PyTorch", "surgery: append keeps hooks, parametrizations and subclasses")
def test_append_keeps_the_layer_itself():
    """Hooks, parametrizations and subclasses stay in the network with the layer."""
    layer = parametrizations.weight_norm(SameConv(3, 3, 3, padding=1))
    calls = []
    layer.register_forward_hook(lambda *arguments: calls.append(1))
    net = network(layer).eval()
    report = outputs_are_kept(net, ik.append_interconv)
    assert net[0][0] is layer
    assert len(calls) == 2
    assert report.dead == 0


# --- what stands in several places ------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, other):
        super().__init__()
        self.one = conv()
        self.other = other
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.last(self.other(self.one(x)))


@pytest.mark.drop_in("PyTorch", "surgery: tied weights stay tied")
def test_tied_weights_stay_tied():
    net = Tied(conv())
    net.other.weight = net.one.weight
    net.other.stride = 2  # an int, as some networks set it
    report = outputs_are_kept(net)
    assert net.other.weight is net.one.weight
    assert net.other.bias is not net.one.bias
    assert len(report.changed) == 3
    assert len(report.parameters) == 2
    assert report.dead == 2
    from_scratch = Tied(conv())
    from_scratch.other.weight, from_scratch.other.bias = from_scratch.one.weight, from_scratch.one.bias
    ik.replace_with_interconv(from_scratch, keep_outputs=False)
    assert from_scratch.other.weight is from_scratch.one.weight
    assert from_scratch.other.bias is from_scratch.one.bias


@pytest.mark.drop_in("PyTorch", "surgery leaves a layer alone and says why: weight tied, {tied_to}")
@pytest.mark.parametrize("tied_to", ["transposed", "grouped", "unselected", "same memory", "buffer"])
def test_weights_tied_to_what_stays_hold_the_layer_back(tied_to):
    other = {"transposed": nn.ConvTranspose2d(3, 3, 3, padding=1), "grouped": SameConv(3, 3, 3, padding=1)}.get(tied_to)
    net = Tied(other or conv())
    if tied_to == "same memory":
        net.other.weight = nn.Parameter(net.one.weight.data)
    elif tied_to == "buffer":
        net.register_buffer("weights", net.one.weight.data[:1])
        net.other = nn.Identity()
    else:
        net.other.weight = net.one.weight
    where = ("one", "last") if tied_to == "unselected" else None
    report = outputs_are_kept(net, where=where)
    assert [change.name for change in report.changed] == ["last"]
    holder = "weights" if tied_to == "buffer" else "other.weight"
    assert ("one", f"its weight shares its memory with {holder}, which stays") in report.skipped
    assert type(net.one) is nn.Conv2d


def test_a_weight_with_a_second_name_in_its_layer_holds_it_back():
    net = network(conv())
    net[0].again = net[0].weight
    assert outputs_are_kept(net).skipped == [("0", "its weight shares its memory with 0.again, which stays")]


def test_ties_hold_back_one_layer_after_the_other():
    """A layer whose bias is tied to one that stays; its weight holds back another."""
    net = nn.ModuleList([conv(), conv(), SameConv(3, 3, 3, padding=1), conv()])
    net[1].weight, net[2].bias = net[0].weight, net[1].bias
    report = ik.replace_with_interconv(net, keep_outputs=False)
    assert [change.name for change in report.changed] == ["3"]
    assert {name for name, _ in report.skipped} == {"0", "1", "2"}
    assert [change.name for change in ik.replace_with_interconv(net).changed] == ["0", "1"]  # the bias is not renewed


@pytest.mark.drop_in("PyTorch", "surgery leaves a layer alone and says why: also a plain attribute")
@pytest.mark.parametrize(
    "hold", [lambda m: m, lambda m: [m], lambda m: {"a": (1, m)}, lambda m: m.forward, lambda m: functools.partial(m)]
)
@pytest.mark.parametrize("place", [ik.replace_with_interconv, ik.append_interconv])
def test_a_layer_that_is_also_a_plain_attribute_stays(place, hold):
    """The network would go on calling the old layer."""
    net = network(conv())
    object.__setattr__(net, "layers", hold(net[0]))
    report = outputs_are_kept(net, place)
    assert [change.name for change in report.changed] == ["2"]
    assert report.skipped == [("0", "layers refers to it as a plain attribute")]


def test_a_weight_that_is_also_a_plain_attribute_stays():
    net = network(conv())
    net.decayed = [net[0].weight]
    assert outputs_are_kept(net).skipped == [("0", "decayed refers to its weight as a plain attribute")]


@pytest.mark.drop_in("PyTorch", "surgery: a module in two places")
def test_a_shared_module_is_changed_in_all_its_places_whatever_name_selects_it():
    net = nn.Sequential(conv(), nn.ReLU())
    net.append(net[0])
    report = outputs_are_kept(net, where="2")
    assert net[0] is net[2]
    assert isinstance(net[0], ik.InterConv2d)
    assert report.changed[0].note == "also 2"
    assert report.counts[1] == 2 * 3 * 3 * 9 + 3


@pytest.mark.drop_in("PyTorch", "surgery: a layer that is called twice")
def test_a_layer_that_is_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv()

        def forward(self, x):
            return self.conv(self.conv(x))

    outputs_are_kept(Twice())

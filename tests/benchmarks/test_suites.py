"""The layers of the suites occur in the networks that they name."""

from functools import cache

import pytest
import torch
from interconv_seg import build

import interconv_kernels as ik
from benchmarks.suites import SQUARE, SUITES, Case, Layer, is_ragged

LAYERS = sorted({case.layer for cases in SUITES.values() for case in cases if case.layer.network != SQUARE})


@cache
def layers_of(network):
    """Every InterConv2d that runs on an image of the paper's size, as a `Layer`."""
    size = (128, 128) if network.startswith("scribbleprompt") else (160, 192)
    found = set()

    def note(module, inputs, output):
        (u, *_), k = inputs, module.weight.shape[2]
        found.add(Layer(network, u.shape[1], output.shape[1], *u.shape[2:], k, module.stride[0]))

    with torch.device("meta"):  # shapes only
        model = build(network, "replace").eval()
    for module in model.modules():
        if isinstance(module, ik.InterConv2d):
            module.register_forward_hook(note)
    model(torch.empty(1, 1, *size, device="meta"), ik.Sets.from_lengths([1], device="meta"))
    return found


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_occurs_in_its_network(layer):
    assert layer in layers_of(layer.network)


def test_another_layer_does_not_occur():
    assert Layer("simpleunet-60K", 32, 16, 160, 192) not in layers_of("simpleunet-60K")


def test_the_suites_have_the_set_sizes_that_they_are_for():
    for name in ("paper", "k1"):
        by_layer = {}
        for case in SUITES[name]:
            assert not is_ragged(case.lengths)
            by_layer.setdefault(case.layer, []).append(case.lengths[0])
        assert set(map(tuple, by_layer.values())) == {(1, 2, 4, 8)}
    assert all(is_ragged(case.lengths) and max(case.lengths) <= 8 for case in SUITES["ragged"])
    assert {size for case in SUITES["large-sets"] for size in case.lengths} == {16, 64, 256}
    assert all(len(case.lengths) == 1 for case in SUITES["large-sets"])
    assert {case.layer.kernel for case in SUITES["k1"]} == {1}


def test_names_are_unique_within_a_suite():
    for cases in SUITES.values():
        assert len({str(case) for case in cases}) == len(cases)


def test_names():
    layer = Layer("nnunet-20M", 46, 92, 81, 96, stride=2)
    assert str(Case(layer, (4, 4))) == "nnunet-20M 46-92 81x96 k3 s2 K4 N8"
    assert str(Case(layer, (3, 1))) == "nnunet-20M 46-92 81x96 k3 s2 3+1"
    assert layer.out_size == (41, 48)

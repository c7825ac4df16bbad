"""A form that is wrong in any way is refused, and one that is right is not."""

import pytest
import torch

import interconv_kernels as ik
from benchmarks import measure, peers
from benchmarks.check import complaint, make_inputs, make_standard
from benchmarks.suites import Case, Layer

CPU = torch.device("cpu")
CASE = Case(Layer("square", 4, 6, 9, 8, stride=2), (2, 1, 3))


def ours(u, weight, bias):
    return ik.interconv2d(u, weight, bias, list(CASE.lengths), stride=2)


class GradientTimes(torch.autograd.Function):
    """x, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


def fails(u, weight, bias):
    raise RuntimeError("no such kernel\nat line 1")


def nan_in_one_place(u, weight, bias):
    y = ours(u, weight, bias).clone()
    y[0, 0, 0, 0] = float("nan")
    return y


WRONG = {
    "another set's mean": (lambda u, w, b: ik.interconv2d(u, w, b, [1, 2, 3], stride=2), "y is wrong"),
    "no bias": (lambda u, w, b: ours(u, w, b * 0), "y is wrong"),
    "a value that is none": (nan_in_one_place, "y is wrong by nan"),
    "a row too few": (lambda u, w, b: ours(u, w, b)[1:], "RuntimeError: "),
    "half of grad_u": (lambda u, w, b: ours(GradientTimes.apply(u, 0.5), w, b), "grad_u is wrong"),
    "grad_weight by 1e-4": (lambda u, w, b: ours(u, GradientTimes.apply(w, 1.0001), b), "grad_weight is wrong"),
    "no grad_bias": (lambda u, w, b: ours(u, w, GradientTimes.apply(b, 0.0)), "grad_bias is wrong"),
    "a failure": (fails, "RuntimeError: no such kernel"),
}


def complaint_of(form, directions, dtype=torch.float32, layout="NCHW"):
    inputs = make_inputs(CASE, dtype)
    gradients = measure.needs_gradients(directions)
    standard = make_standard(CASE, inputs, peers.plain(CASE), CPU, gradients)
    return complaint(form, inputs.to(layout, CPU), standard, directions)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name):
    form, expected = WRONG[name]
    assert complaint_of(form, ["both"]).startswith(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", peers.LAYOUTS)
def test_what_is_right_passes(dtype, layout):
    assert complaint_of(ours, ["fwd", "bwd", "both"], dtype, layout) == ""


def test_a_form_is_checked_as_each_direction_runs_it():
    def wrong_without_autograd(u, weight, bias):
        return ours(u, weight, bias) * (1 if torch.is_grad_enabled() else 2)

    assert complaint_of(wrong_without_autograd, ["both"]) == ""
    assert complaint_of(wrong_without_autograd, ["fwd", "both"]).startswith("y without autograd is wrong")
    assert complaint_of(wrong_without_autograd, ["fwd"]).startswith("y without autograd is wrong")


def test_another_shape_is_wrong():
    assert complaint_of(lambda u, w, b: ours(u, w, b)[1:], ["fwd"]).startswith("y without autograd is wrong by inf")


def test_a_wrong_form_is_named_and_not_timed(monkeypatch):
    monkeypatch.setattr(peers, "loop", lambda *args, **options: torch.zeros(6, 6, 5, 4).requires_grad_())
    settings = measure.Settings(CPU, torch.float32, ["fwd"], ["NCHW"], repeats=1, cuda_graphs=False)
    rows, refused = measure.measure_case(CASE, ["ours", "loop-concat"], settings)
    assert [row.form for row in rows] == ["ours"]
    [line] = refused
    assert line.startswith(f"{CASE}, NCHW, loop-concat: y without autograd is wrong by 1.0e+00")


def test_every_peer_is_right_in_both_layouts():
    equal = Case(CASE.layer, (3, 3))
    for case in (CASE, equal):
        inputs = make_inputs(case, torch.float32)
        standard = make_standard(case, inputs, peers.plain(case), CPU, gradients=True)
        for layout in peers.LAYOUTS:
            names = [name for name in peers.DEFAULT_FORMS if name != "compiled-concat"]  # bench-smoke has it
            for name, form in peers.make_forms(case, layout, CPU, names).items():
                assert complaint(form, inputs.to(layout, CPU), standard, ["both"]) == "", name


def test_peers_are_those_for_such_sets():
    equal = peers.make_forms(Case(CASE.layer, (3, 3)), "NCHW", CPU, peers.ALL_FORMS)
    ragged = peers.make_forms(CASE, "NCHW", CPU, peers.ALL_FORMS)
    assert equal.keys() - ragged.keys() == {"concat", "compiled-concat", "eager-split"}
    assert ragged.keys() - equal.keys() == {"loop-concat", "loop-split", "padded-concat"}
    assert {"ours", "ours-split", "ours-centered", "ours-fused", "ours-concat"} <= equal.keys() & ragged.keys()

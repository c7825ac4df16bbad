"""An implementation that is wrong in any way is reported, and one that is right is not."""

from functools import partial

import pytest
import torch

import interconv_kernels as ik
from benchmarks import baselines, measure
from benchmarks.check import compute, describe_errors, expect, make_inputs
from benchmarks.suites import Case, Layer

CPU = torch.device("cpu")
CASE = Case(Layer("square", 4, 6, 9, 8, stride=2), (2, 1, 3))


def ours(u, weight, bias):
    return ik.interconv2d(u, weight, bias, list(CASE.lengths), stride=2)


class ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

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
    "another set's mean": (lambda u, w, b: ik.interconv2d(u, w, b, [1, 2, 3], stride=2), "y has a relative error of"),
    "no bias": (lambda u, w, b: ours(u, w, b * 0), "y has a relative error of"),
    "one NaN": (nan_in_one_place, "y has a relative error of nan"),
    "a missing sample": (lambda u, w, b: ours(u, w, b)[1:], "RuntimeError: "),
    "half of grad_u": (lambda u, w, b: ours(ScaledGradient.apply(u, 0.5), w, b), "grad_u has"),
    "grad_weight by 1e-4": (lambda u, w, b: ours(u, ScaledGradient.apply(w, 1.0001), b), "grad_weight has"),
    "no grad_bias": (lambda u, w, b: ours(u, w, ScaledGradient.apply(b, 0.0)), "grad_bias has"),
    "an exception": (fails, "RuntimeError: no such kernel"),
}


def errors_of(implementation, directions, dtype=torch.float32, memory_format="contiguous", case=CASE):
    inputs = make_inputs(case, dtype)
    expected = expect(case, inputs, CPU, directions)
    return describe_errors(partial(compute, implementation, inputs.to(memory_format, CPU), directions), expected)


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_described(name):
    implementation, expected = WRONG[name]
    assert errors_of(implementation, ["both"]).startswith(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", baselines.MEMORY_FORMATS)
def test_right_results_pass(dtype, memory_format):
    assert errors_of(ours, ["fwd", "bwd", "both"], dtype, memory_format) == ""


def test_allowed_errors_are_small():
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.15)):
        allowed = expect(CASE, make_inputs(CASE, dtype), CPU, ["both"]).allowed
        assert all(0 < error < bound for error in allowed.values()), (dtype, allowed)


def test_an_implementation_is_checked_as_each_direction_runs_it():
    def wrong_without_autograd(u, weight, bias):
        return ours(u, weight, bias) * (1 if torch.is_grad_enabled() else 2)

    assert errors_of(wrong_without_autograd, ["both"]) == ""
    assert errors_of(wrong_without_autograd, ["fwd", "both"]).startswith("y without autograd has a relative error")
    assert errors_of(wrong_without_autograd, ["fwd"]).startswith("y without autograd has a relative error")


def test_another_shape_is_wrong():
    message = errors_of(lambda u, w, b: ours(u, w, b)[1:], ["fwd"])
    assert message.startswith("y without autograd has a relative error of inf")


def test_a_wrong_implementation_is_named_and_not_timed(monkeypatch):
    monkeypatch.setattr(baselines, "loop", lambda *args, **options: torch.zeros(6, 6, 5, 4).requires_grad_())
    settings = measure.Settings(CPU, torch.float32, ["fwd"], ["contiguous"], repeats=1, cuda_graphs=False)
    measurements, errors = measure.measure_case(CASE, ["ours", "loop-concat"], settings)
    assert [row.implementation for row in measurements] == ["ours"]
    [message] = errors
    assert message.startswith(f"{CASE}, contiguous, loop-concat: y without autograd has a relative error of 1.0e+00")


@pytest.mark.parametrize("memory_format", baselines.MEMORY_FORMATS)
@pytest.mark.parametrize("lengths", [(3, 3), CASE.lengths], ids=str)
def test_every_baseline_is_right(lengths, memory_format):
    case = Case(CASE.layer, lengths)
    names = [name for name in baselines.DEFAULT_IMPLEMENTATIONS if name != "compiled-concat"]  # in make bench-smoke
    for name, implementation in baselines.make_implementations(case, memory_format, CPU, names).items():
        assert errors_of(implementation, ["both"], memory_format=memory_format, case=case) == "", name


def test_baselines_are_those_for_such_sets():
    names = baselines.ALL_IMPLEMENTATIONS
    equal = baselines.make_implementations(Case(CASE.layer, (3, 3)), "contiguous", CPU, names)
    ragged = baselines.make_implementations(CASE, "contiguous", CPU, names)
    assert equal.keys() - ragged.keys() == {"concat", "compiled-concat", "eager-split"}
    assert ragged.keys() - equal.keys() == {"loop-concat", "loop-split", "padded-concat"}
    assert {"ours", "ours-split", "ours-centered", "ours-fused", "ours-concat"} <= equal.keys() & ragged.keys()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("memory_format", baselines.MEMORY_FORMATS)
def test_every_implementation_of_volumes_is_right(memory_format, kernel):
    for lengths in ((2, 2), (2, 1)):
        case = Case(Layer("square", 4, 6, 5, 4, kernel=kernel, depth=3), lengths)
        names = [name for name in baselines.ALL_IMPLEMENTATIONS if name not in ("compiled-concat", "ours-fused")]
        for implementation in baselines.make_implementations(case, memory_format, CPU, names).values():
            assert errors_of(implementation, ["fwd", "both"], memory_format=memory_format, case=case) == ""

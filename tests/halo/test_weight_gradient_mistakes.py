"""The emulator and the tests notice mistakes in the kernels of the weight gradient."""

import emulated
import pytest
from emulated_weight_gradient import build_weight_gradient
from gradient_cases import GradientCase

# Two tiles in the first launch, one in the second: their copies, waits and barriers, and those around the exchange of
# the sums. Harmless are the commit after the last tile, of nothing, and the wait that follows.
HARMLESS = {
    ("own", "sync"): set(),
    ("own", "wait"): {2},
    ("own", "commit"): {2},
    ("set", "sync"): set(),
    ("set", "wait"): {1},
    ("set", "commit"): {1},
    ("add", "sync"): set(),
}
MOST = 6  # the addition has two barriers for each group of outputs, all alike


@pytest.mark.parametrize(("launch", "op"), HARMLESS)
def test_each_missing_barrier_wait_and_commit_is_reported(gradients, launch, op):
    case, reports = GradientCase(16, 16, (5, 7), [2]), []
    while len(reports) < MOST:
        result = case.run(gradients, 0, slices=1, leave_out=(launch, op, len(reports)))
        if not result.was_left_out:
            break
        reports.append(result.errors)
    assert len(reports) >= 2
    assert {i for i, errors in enumerate(reports) if not errors} == HARMLESS[launch, op]


def test_forgotten_partial_sums_are_noticed(gradients):
    case = GradientCase(16, 16, (13, 18), [2])
    errors = case.errors(case.run(gradients, slices=3, forgotten=1))
    assert errors[0][0] > 10 * errors[0][1]
    assert errors[2][0] > 10 * errors[2][1]


MUTANTS = {
    "halo off by one": (r"h - a\.pad_h, w - a\.pad_w", "h - a.pad_h, w - a.pad_w + 1"),
    "rows of g and u do not match": (r"place\.plane_g \+ half, \(h \+ j\)", "place.plane_g + half, (h + j + 1)"),
    "last rows left out": (r"if \(h \+ j >= rows \+ kHalo\) break", "if (h + j >= rows + 1) break"),
    "share of the warps forgotten": (r"for \(int j = 0; j < X\.split; \+\+j\)", "for (int j = 1; j < X.split; ++j)"),
    "last tile left out": (r"end = begin \+ each \+ \(slice < more \? 1 : 0\)", "end = begin + each"),
    "next stage is the one in use": (r"\(n - begin \+ 2 \* X\.stages - 1\)", "(n - begin + 2 * X.stages)"),
    "empty sets are read": (r"s\.size == 0 \? -1 : s\.i", "s.i"),
    "a sample of the set forgotten": (r"for \(int i = 0; i < s\.size; \+\+i", "for (int i = 1; i < s.size; ++i"),
}


def test_the_case_of_the_mutants_is_computed_right(gradients):
    mutants_case().check(gradients, 0, slices=3)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_noticed(tmp_path, mutant):
    source = emulated.mutate(tmp_path, ("weight_gradient.h",), *MUTANTS[mutant], "weight_gradient_configs.h")
    case = mutants_case()
    result = case.run(build_weight_gradient(source), 0, slices=3)
    assert result.errors or any(not error <= allowed for error, allowed in case.errors(result))


def mutants_case() -> GradientCase:
    return GradientCase(16, 16, (13, 35), [0, 3, 1, 1], padding=(0, 1))

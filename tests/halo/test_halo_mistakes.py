"""The emulator notices missing barriers, waits and commits, and the tests notice wrong kernels."""

import pytest
import torch
from halo_cases import CONFIGS, Case, last_config, mutated  # first: it may skip

from interconv_kernels import reference


def left_out(library, case, config, op):
    """What is reported when the first, the second, ... call of an operation does nothing."""
    reports = []
    while (report := case.run(library, config, parts=1, leave_out=(op, len(reports)))[1]).was_left_out:
        reports.append(report.errors)
    return reports


# One set of two samples, of one tile: the steps are the mean, sample 0 and sample 1. What may be missing:
#   the last wait of all, and the last commits, which close a group with nothing in it;
#   alternating weights: the commit of, and the wait for, the tile of sample 0, since those of the other half of the
#   weights follow.
HARMLESS = {
    ("resident", "sync"): set(),
    ("resident", "wait"): {3},
    ("resident", "commit"): {3},
    ("alternating", "sync"): set(),
    ("alternating", "wait"): {1, 4},
    ("alternating", "commit"): {1, 4},
    ("streamed", "sync"): set(),
    ("streamed", "wait"): {3},
    ("streamed", "commit"): {3},
}


@pytest.mark.parametrize("op", ["sync", "wait", "commit"])
@pytest.mark.parametrize("weights", ["resident", "alternating", "streamed"])
def test_each_missing_barrier_wait_and_commit_is_reported(library, weights, op):
    config = last_config(weights)
    reports = left_out(library, Case(16, 16, (5, 7), [2]), config, op)
    assert len(reports) >= 3
    assert {i for i, errors in enumerate(reports) if not errors} == HARMLESS[weights, op]


def test_each_missing_barrier_of_a_warp_is_reported(library):
    reports = left_out(library, Case(16, 8, (16, 16), [1, 1]), CONFIGS[0], "sync_warp")
    assert len(reports) == 2 * 16  # two around each row of pixels that a warp writes, for each sample
    # After its last row of a sample a warp meets the barrier of all.
    assert [i for i, errors in enumerate(reports) if not errors] == [15, 31]


MUTANTS = {
    "halo off by one": (r"S \* s\.h0 - a\.pad_h \+ pixel", "S * s.h0 - a.pad_h + 1 + pixel"),
    "halo too wide": (r"unsigned\(w\) < unsigned\(a\.w\)", "unsigned(w) <= unsigned(a.w)"),
    "mean of one sample too few": (
        r"make_mean<V>\(block, kAll, s, s\.lo, s\.hi, to\)",
        "make_mean<V>(block, kAll, s, s.lo + 1, s.hi, to)",
    ),
    "next stage is the one in use": (r"stage \^ 1 : stage", "stage : stage"),
    "columns of the image not checked": (r"w0 \+ pixel >= a\.out_w \|\| ", ""),
    "set half of the weights not copied again": (r"loaded = s\.mean;", "loaded = 1;"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_noticed(tmp_path, mutant):
    row = 3 if "weights" in mutant else 0  # alternating weights
    library = mutated(tmp_path, *MUTANTS[mutant], "configs.h", row)
    y, report = Case(16, 16, (19, 21), [2, 1]).run(library, CONFIGS[0])
    exact = Case(16, 16, (19, 21), [2, 1]).in_torch(reference.interconv, torch.float64)
    assert report.errors or not reference.relative_error(y, exact) <= 0.02

"""The formulas of benchmarks/gpu/native.py against what the emulator counts while it runs the kernels."""

import random

import pytest
from halo_cases import CONFIGS, WARPGROUP_CONFIGS, Case  # first: it may skip

from benchmarks.gpu import native

BY_NAME = {config.name: config for config in (*CONFIGS, *WARPGROUP_CONFIGS)}
RAGGED = (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "channels", "size", "lengths", "programs", "parts"),
    [
        ("halo-3x3-16x16-16x16", (16, 16), (19, 21), RAGGED, 3, 1),
        ("halo-3x3-16x16-16x16", (16, 16), (19, 21), RAGGED, 16, 4),
        ("halo-3x3-64x64-16x16", (64, 64), (16, 16), (4,), 1, 1),
        ("halo-3x3-64x64-16x16", (64, 64), (16, 16), (4,), 2, 2),
        ("halo-3x3-16x128-16x16", (100, 92), (20, 24), (2,), 2, 1),
        ("halo-3x3-16x96-16x16", (32, 100), (16, 16), (2, 2), 2, 3),
        ("halo-3x3-16x16-16x16", (16, 16), (19, 21), (1, 1, 1), 4, 2),
        ("wgmma-3x3-32x32-16x16", (32, 32), (19, 21), RAGGED, 3, 2),
        ("wgmma-3x3-64x64-16x8", (64, 64), (16, 16), (4,), 1, 1),
        ("wgmma-3x3-16x128-16x16", (64, 64), (16, 16), (4,), 1, 1),
    ],
    ids=str,
)
def test_the_formulas_count_what_the_emulator_counts(request, name, channels, size, lengths, programs, parts):
    config = BY_NAME[name]
    library = request.getfixturevalue("library" if config.engine == "mma.sync" else "warpgroup_library")
    case = Case(*channels, size, lengths)
    case.bias = None  # it is not counted
    _, report = case.run(library, config, programs=programs, parts=parts)
    layer = native.Layer(*channels, *size, lengths)
    found = native.counts(config, layer, programs, -(-channels[1] // config.columns), parts)
    assert report.errors == []
    counted = report.counts
    assert found.copied_u == counted["copied_u"]
    assert found.copied_u + found.copied_weights == counted["copied"]
    moved = counted["read"] + counted["written"]
    assert found.mean + found.term + found.written == pytest.approx(moved, rel=0.01)  # and offsets, set ids
    assert found.products == counted["products"]
    assert found.wavefronts == pytest.approx(counted["wavefronts"], rel=0.03)


def test_parts_are_chosen_as_the_kernel_is_launched(library):
    numbers = random.Random(0)
    cases = [(53, 8, 30, 264, 0), (1, 1, 1, 1, 0), (300, 1, 1, 132, 0), (8, 8, 30, 264, 1)]
    for _ in range(50):
        n = numbers.randint(1, 400)
        cases.append((n, numbers.randint(1, n), *numbers.choices(range(1, 500), k=2), numbers.randint(0, 1)))
    for case in cases:
        parts = library.choose_parts(*case)
        assert 1 <= parts <= case[0]
        assert parts == native.choose_parts(*case[:4], bool(case[4]))


def test_parts_fill_the_programs_and_cut_no_set_without_need():
    assert native.choose_parts(56, 8, 120, 120, False) == 1  # one round of all programs
    assert native.choose_parts(56, 8, 30, 264, False) == 8  # one for each set
    assert native.choose_parts(300, 1, 1, 132, False) in range(100, 133)  # one long set

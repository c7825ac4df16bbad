"""The layer on warpgroups (wgmma): the kernels' own code on the emulator, as in the other tests of this folder."""

from types import SimpleNamespace

import pytest
import torch
from halo_cases import DTYPES, LIMITS, RAGGED, WARPGROUP_CONFIGS, Case, check_counts, mutated  # first: it may skip

import interconv_kernels as ik
from interconv_kernels import reference
from interconv_kernels._backends import cpp
from interconv_kernels._backends.contract import DIRECTIONS
from interconv_kernels._backends.cpp import halo
from interconv_kernels.convolution import Conv

RESIDENT = [config for config in WARPGROUP_CONFIGS if config.weights == "resident"]
STREAMED = [config for config in WARPGROUP_CONFIGS if config.weights == "streamed"]


def pick(channels, out_channels, size):
    """Of these kernels, the one with the fewest products."""
    fitting = halo.candidates_for(3, 1, channels, out_channels, LIMITS["sm_90"], "wgmma")
    return halo.pick(fitting, channels, out_channels, size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", WARPGROUP_CONFIGS, ids=lambda config: config.name)
def test_every_configuration(warpgroup_library, config, dtype):
    streamed = config.weights == "streamed"
    channels = config.channels + 5 if streamed else config.channels  # two chunks, the last one in part
    Case(channels, config.columns, (19, 17), RAGGED, dtype).check(warpgroup_library, config)
    odd = config.columns + 3 if streamed else config.columns - 1  # and two column tiles
    case = Case(channels - 1, odd, (5, 18), [1, 2], dtype, transposed=True)
    case.check(warpgroup_library, config, order="shuffled")


@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "grad_u"])
@pytest.mark.parametrize(
    ("channels", "out_channels"),
    [(1, 16), (3, 21), (16, 1), (23, 46), (46, 49), (92, 137), (137, 141), (200, 184)],
    ids=str,
)
def test_any_channels(warpgroup_library, channels, out_channels, transposed):
    config = pick(channels, out_channels, (4, 5))
    case = Case(channels, out_channels, (4, 5), [2], torch.float16, transposed)
    case.check(warpgroup_library, config, programs=1)


@pytest.mark.parametrize("size", [(19, 21), (40, 48), (20, 24), (10, 12), (1, 1), (2, 33)], ids=str)
def test_any_size(warpgroup_library, size):
    Case(12, 14, size, [2, 1]).check(warpgroup_library, RESIDENT[0])
    Case(12, 14, size, [1, 1]).check(warpgroup_library, RESIDENT[-1])  # K = 1
    Case(17, 92, size, [1]).check(warpgroup_library, STREAMED[-1])


@pytest.mark.parametrize(
    "lengths", [[1, 1, 1], [300], [0, 0, 2, 0, 1, 0], [1, 17, 1], [3]], ids=lambda lengths: "+".join(map(str, lengths))
)
def test_any_sets(warpgroup_library, lengths):
    Case(8, 8, (5, 6), lengths).check(warpgroup_library, RESIDENT[0])
    if sum(lengths) < 300:
        Case(40, 8, (5, 6), lengths).check(warpgroup_library, STREAMED[0])


@pytest.mark.parametrize("padding", [(0, 0), (2, 2), (0, 2)], ids=str)
def test_any_padding(warpgroup_library, padding):
    Case(16, 8, (6, 9), [2, 1], padding=padding).check(warpgroup_library, RESIDENT[0])
    Case(16, 8, (6, 9), [2, 1], padding=padding, transposed=True).check(warpgroup_library, RESIDENT[0])


def test_activation(warpgroup_library):
    Case(8, 21, (7, 9), [2, 1], slope=True).check(warpgroup_library, RESIDENT[1])


def test_parts(warpgroup_library):
    """The same bits, wherever sets are cut."""
    case = Case(16, 16, (9, 8), [7, 2, 1])
    y, _ = case.run(warpgroup_library, RESIDENT[0], parts=1)
    for parts in (2, 3, 10):
        case.check(warpgroup_library, RESIDENT[0], parts=parts)
        assert torch.equal(case.run(warpgroup_library, RESIDENT[0], parts=parts)[0], y)


@pytest.mark.parametrize("config", [RESIDENT[0], RESIDENT[-1], STREAMED[0]], ids=lambda config: config.name)
def test_order_of_warps_does_not_matter(warpgroup_library, config):
    case = Case(21 if config.weights == "streamed" else config.channels, 16, (9, 17), RAGGED)
    y, _ = case.run(warpgroup_library, config)
    for options in (
        {"order": "shuffled", "seed": 1},
        {"order": "shuffled", "seed": 2},
        {"order": "interleaved", "seed": 3},
        {"order": "interleaved", "seed": 4, "programs": 1},
        {"programs": 7},
    ):
        other, report = case.run(warpgroup_library, config, **options)
        assert report.errors == []
        assert torch.equal(other, y)


# --- what is missing is noticed ---------------------------------------------------------------------------------------

# One tile: its mean, then four samples (resident) or, in two chunks each, two samples (streamed). What may be missing:
#   the last arrivals, with which warpgroups free buffers that nothing fills again;
#   streamed: the commit of, and the wait for, the second last chunk's products, since its buffers are not filled again;
#   streamed: the first fence, after which there is one for each copy. (It is for the weights, if they are resident.)
HARMLESS = {
    ("resident", "arrive_at"): {4},
    ("streamed", "arrive_at"): {6, 7},
    ("streamed", "commit_products"): {4},
    ("streamed", "wait_products"): {4},
    ("streamed", "fence_async"): {0},
}
OPS = ("fence_async", "fence_products", "commit_products", "wait_products", "arrive_at", "wait_at")


@pytest.mark.parametrize("op", [*OPS, "commit", "wait", "sync"])
@pytest.mark.parametrize("config", [RESIDENT[0], STREAMED[0]], ids=lambda config: config.weights)
def test_each_missing_operation_is_reported(warpgroup_library, config, op):
    channels, lengths = (16, [4]) if config.weights == "resident" else (32, [2])
    case = Case(channels, 16, (5, 7), lengths)
    found = []
    while True:
        y, report = case.run(warpgroup_library, config, programs=1, parts=1, leave_out=(op, len(found)))
        if not report.was_left_out:
            break
        found.append(bool(report.errors) or bool(y.isnan().any()))
    assert len(found) >= (1 if op == "sync" else 5)
    assert {i for i, is_noticed in enumerate(found) if not is_noticed} == HARMLESS.get((config.weights, op), set())


MUTANTS = {
    "mean overwritten too early": (r"block\.wait_at\(free_mean\(means\.index\), means\.parity \^ 1\);", ""),
    "samples overwritten too early": (r"stages\.parity \^ 1", "stages.parity"),
    "handed over before it is there": (r"template wait<kLag>", "template wait<kLag + 1>"),
    "freed before the products are over": (r"block\.template wait_products<0>", "block.template wait_products<1>"),
    "freed before the products begin": (
        r"convolve\(block, of_group",
        "block.arrive_at(free_stage(stages.index)), convolve(block, of_group",
    ),
    "a tap beside": (r"place\.col \+ tap % 3", "place.col + (tap + 1) % 3"),
    "a stage too few": (r"stages\.move\(kStages\);\n      \}", "stages.move(kStages - 1);\n      }"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_noticed(tmp_path, mutant):
    library = mutated(tmp_path, *MUTANTS[mutant], "warpgroup_configs.h", 0, ("-DWARPGROUPS",))
    case = Case(16, 16, (19, 21), [5, 1])
    y, report = case.run(library, RESIDENT[0])
    exact = case.in_torch(reference.interconv, torch.float64)
    assert report.errors or not reference.relative_error(y, exact) <= 0.02


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "wavefronts"), [(16, 4.5), (32, 10.5), (64, 24.5), (128, 81)])
def test_counts(warpgroup_library, channels, wavefronts):
    """Products that take both operands from shared memory need more wavefronts than those of a warp's registers."""
    check_counts(warpgroup_library, pick, channels, wavefronts)


# --- from Python ------------------------------------------------------------------------------------------------------


def test_they_are_candidates_on_sm_90a_alone(monkeypatch):
    """And never the default."""
    case, conv = Case(16, 16, (5, 6), [2]), Conv((1, 1), (1, 1), (1, 1), torch.channels_last)
    index = ik.sets.SetIndex(torch.tensor([0, 2], dtype=torch.int32), torch.tensor([0, 0], dtype=torch.int32))
    used = []
    monkeypatch.setattr(halo, "_ops", SimpleNamespace(halo_layer=lambda *arguments: used.append(arguments[6])))
    monkeypatch.setattr(halo, "_shared_limit", lambda device: LIMITS["sm_90"])
    name = RESIDENT[0].name
    assert name.startswith("wgmma-")
    for capability, built, expected in (((9, 0), True, True), ((9, 0), False, False), ((10, 0), True, False)):
        names = ["8.0", "9.0", "10.0"] + ["9.0a"] * built
        monkeypatch.setattr(cpp, "build_report", lambda names=names: {"halo_architectures": names})
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        halo._has_wgmma.cache_clear()
        for direction in DIRECTIONS:
            assert (name in halo.candidates(direction, conv, case.u, case.weight)["layer"]) == expected
        halo.forward(conv, case.u, case.weight, None, index, 1, None, {"layer": name})
        assert (used[-1] == RESIDENT[0].row) == expected
        halo.forward(conv, case.u, case.weight, None, index, 1, None, {})
        assert halo.configs()[used[-1]].engine == "mma.sync"
    halo._has_wgmma.cache_clear()


def test_shared_memory():
    assert all(config.shared <= LIMITS["sm_90"] for config in WARPGROUP_CONFIGS)

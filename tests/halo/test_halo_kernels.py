"""The layer in one launch: the kernels' own code on the emulator, against the reference implementation."""

import pytest
import torch
from halo_cases import CONFIGS, DTYPES, RAGGED, Case, check_counts, last_config, pick  # first: it may skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_every_configuration(library, config, dtype):
    layer = {"dtype": dtype, "kernel": config.kernel, "stride": config.stride}
    streamed = config.weights == "streamed"
    channels = config.channels + 5 if streamed else config.channels  # two chunks, the last one in part
    Case(channels, config.columns, (11, 9), RAGGED, **layer).check(library, config)
    odd = config.columns + 3 if streamed else config.columns - 1  # and two column tiles
    transposed = config.stride == 1
    Case(channels - 1, odd, (5, 18), [1, 2], transposed=transposed, **layer).check(library, config, order="shuffled")


@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "grad_u"])
@pytest.mark.parametrize(
    ("channels", "out_channels"),
    [
        (1, 16),
        (3, 21),
        (16, 1),
        (21, 3),
        (23, 46),
        (46, 49),
        (49, 23),
        (92, 137),
        (137, 141),
        (141, 92),
        (200, 184),
        (282, 368),
    ],
    ids=str,
)
def test_any_channels(library, channels, out_channels, transposed):
    size, lengths = (4, 5), [2]
    config = pick(channels, out_channels, size)
    Case(channels, out_channels, size, lengths, torch.float16, transposed).check(library, config, programs=1)


@pytest.mark.parametrize("size", [(19, 21), (40, 48), (20, 24), (10, 12), (1, 1), (2, 33)], ids=str)
def test_any_size(library, size):
    Case(12, 14, size, [2, 1]).check(library, pick(12, 14, size))
    Case(17, 92, size, [1]).check(library, pick(17, 92, size))
    Case(12, 14, size, [2, 1], stride=2).check(library, pick(12, 14, size, stride=2))
    Case(12, 14, size, [2, 1], kernel=1).check(library, pick(12, 14, size, kernel=1))


@pytest.mark.parametrize(
    "lengths", [[1, 1, 1], [300], [0, 0, 2, 0, 1, 0], [1, 17, 1], [3]], ids=lambda lengths: "+".join(map(str, lengths))
)
def test_any_sets(library, lengths):
    for weights, channels in (("resident", 8), ("alternating", 33), ("streamed", 40)):
        if sum(lengths) < 300 or weights == "resident":
            config = last_config(weights)
            Case(channels, 8, (5, 6), lengths).check(library, config)


@pytest.mark.parametrize("padding", [(0, 0), (2, 2), (0, 2)], ids=str)
def test_any_padding(library, padding):
    Case(16, 8, (6, 9), [2, 1], padding=padding).check(library, CONFIGS[0])
    Case(16, 8, (6, 9), [2, 1], padding=padding, transposed=True).check(library, CONFIGS[0])


def test_activation(library):
    Case(8, 21, (7, 9), [2, 1], slope=True).check(library, CONFIGS[1])


def test_misaligned_memory(library):
    """A tensor that starts in the middle of another one: narrower accesses."""
    case = Case(16, 16, (5, 6), [2])
    for skipped in (1, 2, 4):
        memory = torch.empty(skipped + case.u.numel(), dtype=case.u.dtype)[skipped:]
        shifted = memory.view(2, 5, 6, 16).permute(0, 3, 1, 2)
        case.u = shifted.copy_(case.u)
        case.check(library, CONFIGS[0])


def test_parts(library):
    """The same bits, wherever sets are cut."""
    case = Case(16, 16, (9, 8), [7, 2, 1])
    y, _ = case.run(library, CONFIGS[0], parts=1)
    for parts in (2, 3, 8, 10):
        case.check(library, CONFIGS[0], parts=parts)
        assert torch.equal(case.run(library, CONFIGS[0], parts=parts)[0], y)


@pytest.mark.parametrize("weights", ["resident", "alternating", "streamed"])
def test_order_of_warps_does_not_matter(library, weights):
    config = last_config(weights)
    case = Case(config.channels, 24, (9, 11), RAGGED)
    y, _ = case.run(library, config)
    for options in (
        {"order": "shuffled", "seed": 1},
        {"order": "shuffled", "seed": 2},
        {"order": "interleaved", "seed": 3},
        {"order": "interleaved", "seed": 4, "programs": 1},
        {"programs": 7},
    ):
        other, report = case.run(library, config, **options)
        assert report.errors == []
        assert torch.equal(other, y)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "wavefronts"), [(16, 4), (32, 8), (64, 20), (128, 78)])
def test_counts(library, channels, wavefronts):
    check_counts(library, pick, channels, wavefronts)


def test_odd_channels_are_read_once(library):
    """Their rows are not aligned: u is then read by the threads, the same bytes."""
    _, odd = Case(21, 16, (32, 32), [7]).run(library, CONFIGS[1], parts=1)
    _, even = Case(22, 16, (32, 32), [7]).run(library, CONFIGS[1], parts=1)
    passes = odd.counts["read"] / (7 * 32 * 32 * 2 * 21)  # mean and samples, both with their halos
    assert even.counts["copied_u"] / (7 * 32 * 32 * 2 * 22) + even.counts["read"] / (7 * 32 * 32 * 2 * 22) == (
        pytest.approx(passes, rel=0.01)
    )
    assert passes <= 2 * 1.35

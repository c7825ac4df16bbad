"""The weight gradient of the 3x3 layer: the kernels' own code on the emulator, against the reference implementation."""

import pytest
import torch
from gradient_cases import DTYPES, RAGGED, GradientCase  # first: it may skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", range(5))
def test_every_configuration(gradients, configs, row, dtype):
    config = configs[row]
    layer = {"dtype": dtype, "kernel": config.kernel}
    GradientCase(config.channels, config.columns, (13, 18), RAGGED, **layer).check(gradients, row)
    odd = GradientCase(config.channels + 3, config.columns - 1, (5, 33), [1, 2], **layer)
    odd.check(gradients, row, order="shuffled", on_chip=False)


def test_every_row_of_the_table_is_tested(configs):
    assert [config.row for config in configs] == [0, 1, 2, 3, 4]


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
        (137, 92),
        (141, 184),
        (200, 282),
        (368, 141),
    ],
    ids=str,
)
def test_any_channels(gradients, channels, out_channels):
    small = channels * out_channels < 10_000
    GradientCase(channels, out_channels, (4, 5), [2, 1] if small else [2], torch.float16).check(gradients, slices=1)


@pytest.mark.parametrize(("channels", "out_channels"), [(1, 16), (21, 3), (46, 49), (92, 137), (200, 70)], ids=str)
def test_any_channels_of_1x1_kernels(gradients, channels, out_channels):
    GradientCase(channels, out_channels, (4, 5), [2, 1], torch.float16, kernel=1).check(gradients, slices=1)


@pytest.mark.parametrize("size", [(19, 21), (40, 48), (20, 24), (10, 12), (1, 1), (2, 33)], ids=str)
def test_any_size(gradients, size):
    GradientCase(12, 14, size, [2, 1]).check(gradients)
    GradientCase(17, 30, size, [1]).check(gradients)
    GradientCase(33, 14, size, [2, 1], kernel=1).check(gradients)


@pytest.mark.parametrize("on_chip", [True, False], ids=["sums on chip", "sums given"])
@pytest.mark.parametrize(
    "lengths", [[1, 1, 1], [300], [0, 0, 2, 0, 1, 0], [1, 17, 1], [3]], ids=lambda lengths: "+".join(map(str, lengths))
)
def test_any_sets(gradients, lengths, on_chip):
    result = GradientCase(8, 7, (5, 6), lengths).check(gradients, on_chip=on_chip)
    assert (result.counts["set"]["programs"] == 0) == (set(lengths) == {1})  # s = u: both halves are the same
    if sum(lengths) < 300:
        GradientCase(33, 8, (5, 6), lengths).check(gradients, on_chip=on_chip, slices=3)


@pytest.mark.parametrize("padding", [(0, 0), (2, 2), (0, 2)], ids=str)
def test_any_padding(gradients, padding):
    GradientCase(16, 8, (6, 17), [2, 1], padding=padding).check(gradients)


def test_the_weight_may_be_channels_last(gradients):
    GradientCase(16, 8, (6, 9), [2, 1], memory_format=torch.channels_last).check(gradients)


@pytest.mark.parametrize("skipped", [1, 2, 4])
def test_misaligned_memory(gradients, skipped):
    """Tensors that start in the middle of another one: narrower accesses."""
    case = GradientCase(16, 16, (5, 6), [2])

    def shifted(x):
        memory = torch.empty(skipped + x.numel(), dtype=x.dtype)[skipped:]
        return memory.view(2, 5, 6, 16).permute(0, 3, 1, 2).copy_(x)

    case.u, case.g = shifted(case.u), shifted(case.g)
    case.check(gradients)


def test_more_programs_than_tiles(gradients):
    GradientCase(16, 16, (5, 6), [1, 2]).check(gradients, slices=9)


@pytest.mark.parametrize("row", range(5))
def test_order_of_warps_does_not_matter(gradients, configs, row):
    config = configs[row]
    case = GradientCase(config.channels, config.columns, (9, 18), [2, 0, 1], kernel=config.kernel)
    expected = case.run(gradients, row)
    for options in (
        {"order": "shuffled", "seed": 1},
        {"order": "shuffled", "seed": 2},
        {"order": "interleaved", "seed": 3},
    ):
        result = case.run(gradients, row, **options)
        assert result.errors == []
        assert torch.equal(result.weight, expected.weight)
        assert torch.equal(result.bias, expected.bias)


# --- counts -----------------------------------------------------------------------------------------------------------


def counts(gradients, channels, size, launch="own", kernel=3, **options) -> dict[str, float]:
    """Of each pixel, for sets of 3 on an image that tiles divide."""
    result = GradientCase(channels, channels, size, [3], kernel=kernel).run(gradients, None, **options)
    assert result.errors == []
    samples = 1 if launch == "set" else 3
    return {name: count / (samples * size[0] * size[1]) for name, count in result.counts[launch].items()}


@pytest.mark.parametrize("launch", ["own", "set"])
@pytest.mark.parametrize(
    ("channels", "size", "wavefronts"), [(16, (32, 64), 2.5), (32, (33, 32), 7), (64, (33, 32), 25)]
)
def test_counts(gradients, channels, size, wavefronts, launch):
    count = counts(gradients, channels, size, launch)
    times_g = 2 if channels == 64 else 1  # it is copied for each tile of u's channels, which has at most 32
    assert count["copied_u"] <= 1.35 * 2 * channels
    assert count["copied_g"] == times_g * 2 * channels
    assert count["products"] == pytest.approx(9 * channels * channels / (16 * 8 * 16), rel=0.05)
    if launch == "own":  # the set half's single image does not make up for the sums at the end
        assert count["wavefronts"] <= wavefronts


@pytest.mark.parametrize(("channels", "wavefronts"), [(32, 3.8), (64, 11.5), (128, 43)])
def test_counts_of_1x1_kernels(gradients, channels, wavefronts):
    count = counts(gradients, channels, (32, 64), kernel=1)
    times = -(-channels // 64)
    assert count["copied_u"] == count["copied_g"] == times * 2 * channels
    assert count["products"] == pytest.approx(channels * channels / (16 * 8 * 16))
    assert count["wavefronts"] <= wavefronts


@pytest.mark.parametrize(("channels", "size"), [(16, (10, 48)), (64, (5, 16)), (64, (20, 24)), (40, (11, 16))], ids=str)
def test_little_is_computed_for_what_is_outside(gradients, channels, size):
    """Channels and columns are padded to 16, and one row more than there are is computed where an image ends."""
    count = counts(gradients, channels, size)
    fragments, columns = -(-channels // 16), -(-size[1] // 16) * 16
    ideal = 9 * (16 * fragments) ** 2 / (16 * 8 * 16) * columns / size[1]
    assert ideal <= count["products"] <= ideal * (size[0] + 1) / size[0]


def test_sums_on_chip_read_each_sample_once(gradients):
    given, made = (counts(gradients, 32, (33, 32), on_chip=on_chip) for on_chip in (False, True))
    assert made["read"] - given["read"] == pytest.approx(2 * (32 + 32), rel=0.02)
    assert made["written"] - given["written"] == pytest.approx(2 * (32 + 32) / 3)

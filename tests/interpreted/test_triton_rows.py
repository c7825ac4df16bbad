"""The kernel that iterates over image rows, in the interpreter, against the float64 reference implementation."""

import pytest
import torch
from common import FORMATS, eager_concat, make_case, oracle, with_grads, worst
from test_triton_kernels import Guards, huge  # noqa: F401  (a fixture)
from test_triton_layer import check, exact_activation, layer
from test_triton_traffic import B, H, N, W, index, maps, traffic  # noqa: F401  (a fixture)

from interconv_kernels import tuned
from interconv_kernels._backends.triton import configs, conv_launch, fused, row_launch
from interconv_kernels._backends.triton.configs import candidates_for
from interconv_kernels.convolution import Conv

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.fixture
def rows(monkeypatch):
    """The layer runs as tuning would let it, with the first candidate; the launched tiles are returned."""
    launched = []

    def measured(direction, conv, u, weight):
        channels = (u.shape[1], weight.shape[0])[:: 1 if direction == "forward" else -1]
        tiles = {"conv": candidates_for("conv_rows", u.dtype, *channels)[0].name}
        return {"fastest": "triton", "best": {"triton": {"algorithm": "fused", "tiles": tiles}}}

    def launch(*arguments):
        launched.append(arguments[-1].name)
        return row_launch.convolve_rows(*arguments)

    monkeypatch.setattr(tuned, "measured", measured)
    monkeypatch.setattr(fused, "convolve_rows", launch)
    return launched


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(("channels", "out_channels"), [(8, 16), (13, 7), (1, 31)])
def test_forward_and_gradients(rows, dtype, fmt, channels, out_channels):
    if dtype == torch.float32 and channels % 4:
        return  # there is no such tile
    check(make_case([1, 2, 0, 3], channels, out_channels, (7, 5), dtype=dtype, fmt=fmt), theirs=eager_concat)
    assert len(rows) == 4  # the set term and y, forward and backward


@pytest.mark.parametrize("lengths", [[0, 2, 0, 0, 5, 1, 0], [1, 1, 1]])
def test_ragged_sets(rows, lengths):
    check(make_case(lengths, 8, 8, (3, 5), dtype=torch.bfloat16, fmt="channels_last"), theirs=eager_concat)
    assert len(rows) == (2 if lengths == [1, 1, 1] else 4)


@pytest.mark.parametrize(("size", "padding"), [((1, 1), 2), ((3, 67), 1), ((9, 4), 0), ((7, 5), (3, 0))])
def test_sizes_and_padding(rows, size, padding, monkeypatch):
    """Images smaller than a tile and wider, a tile with several samples, and several blocks of rows."""
    monkeypatch.setattr(row_launch, "MIN_ROWS", 4)
    check(make_case([1, 1], 8, 8, size, dtype=torch.bfloat16, fmt="channels_last", padding=padding, bias=False))


@pytest.mark.parametrize("slope", [0.0, torch.tensor([0.5, -0.25, 0.0, 2.0, 0.125])])
def test_activations(rows, slope):
    case = make_case([2, 1, 3], 4, 5, (5, 4), dtype=torch.float16)
    want = exact_activation(oracle(case.to(torch.float64)), slope)
    assert worst(layer(case, negative_slope=slope), want) < 4e-3
    assert len(rows) == 2


def test_the_number_of_blocks_changes_no_bits(rows, monkeypatch):
    case = make_case([2, 1], 8, 8, (37, 5), dtype=torch.bfloat16, fmt="channels_last")
    results = []
    for programs in (1, 10**6):
        monkeypatch.setattr(row_launch, "ROW_PROGRAMS", programs)
        results.append(layer(case))
    assert torch.equal(*results)


@pytest.mark.parametrize("channels", [8, 13])
def test_nothing_around_the_tensors_is_touched(rows, channels, monkeypatch):
    monkeypatch.setattr(row_launch, "MIN_ROWS", 3)  # two blocks, of four and of three rows
    guards = Guards()
    case = make_case([3, 1, 2], channels, 8, (7, 6), 3, torch.bfloat16)
    g = torch.randn(6, 8, 7, 6).to(torch.bfloat16)
    want = with_grads(oracle, case.to(torch.float64), g)
    case.u, case.weight = guards.copy(case.u, torch.channels_last), guards.copy(case.weight)
    case.bias, g = guards.copy(case.bias), guards.copy(g, torch.channels_last)
    pad = torch.nn.functional.pad
    monkeypatch.setattr(row_launch.F, "pad", lambda x, widths: guards.copy(pad(x, widths)))
    monkeypatch.setattr(torch, "empty", guards)
    got = with_grads(layer, case, g)
    assert all(worst(a, b) < 2e-2 for a, b in zip(got, want, strict=True))
    guards.check()
    assert rows


def test_addresses_over_two_to_the_31(huge):  # noqa: F811
    """Images of 2^25 values, of which one pixel is computed: those from number 64 on lie past 2^31."""
    n, side = 70, 2**11
    x = torch.empty(n, 8, side, side, dtype=torch.bfloat16, memory_format=torch.channels_last)
    y = torch.empty(n, 8, 1, 1, dtype=torch.bfloat16)
    x[:, :, :3, :3] = 0.0
    x[:, :, 2, 1] = torch.arange(n)[:, None].to(torch.bfloat16)
    geometry = conv_launch.Geometry((1, 1), (1, 1), (0, 0), (1, 1), (1, 1), (0, 0))
    weight = torch.zeros(3, 3, 8, 8, dtype=torch.bfloat16)
    weight[2, 1] = torch.eye(8)
    [tile] = candidates_for("conv_rows", x.dtype, 8, 8)
    row_launch.convolve_rows(x, geometry, weight, y, conv_launch.Epilogue(), tile)
    assert torch.equal(y[:, :, 0, 0], x[:, :, 2, 1])


def test_u_is_read_three_times_and_not_nine(traffic, monkeypatch):  # noqa: F811
    """One read for each horizontal tap and column tile, and of the padding none."""
    channels, out_channels = 8, 32
    x = maps(N, channels, "channels_last").to(torch.bfloat16)
    t, y = maps(B, out_channels, "channels_last"), maps(N, out_channels, "channels_last").to(torch.bfloat16)
    weight = torch.randn(3, 3, channels, out_channels).to(torch.bfloat16)
    geometry = conv_launch.Geometry((H, W), (1, 1), (-1, -1), (1, 1), (1, 1), (0, 0))
    [tile] = candidates_for("conv_rows", x.dtype, channels, out_channels)
    row_launch.convolve_rows(x, geometry, weight, y, conv_launch.Epilogue(t, index().set_ids), tile)
    column_tiles = 2
    programs = -(-N * W // tile.bm) * column_tiles
    u_reads = column_tiles * N * H * (3 * W - 2) * channels  # the padding is not read
    assert traffic.loaded == 2 * u_reads + programs * 9 * tile.bk * tile.bn * 2 + N * H * W * out_channels * 4
    assert traffic.stored == y.nbytes
    assert u_reads / x.numel() < 3 * column_tiles


def test_candidates(monkeypatch):
    """Only for 3x3 kernels of stride 1, and for channel counts that a tile holds, forward and backward."""

    def names(direction, channels, out_channels, k=3, stride=1, dtype=torch.bfloat16):
        conv = Conv((stride, stride), (1, 1), (1, 1), torch.channels_last)
        u, weight = torch.empty(2, channels, 8, 8, dtype=dtype), torch.empty(out_channels, 2 * channels, k, k)
        return [name for name in fused.candidates(direction, conv, u, weight)["conv"] if name.startswith("conv_rows")]

    assert names("forward", 16, 64) == ["conv_rows-16-64x16x16"]
    assert names("backward", 16, 64) == ["conv_rows-16-64x32x64"]
    assert names("forward", 24, 128) == ["conv_rows-16-64x32x32"]
    assert names("forward", 23, 23) == ["conv_rows-16-64x16x32-odd"]
    assert names("backward", 24, 128) == names("forward", 72, 8) == names("forward", 49, 49) == []
    assert names("forward", 16, 16, k=5) == names("forward", 16, 16, k=1) == names("forward", 16, 16, stride=2) == []
    assert names("forward", 16, 16, dtype=torch.float32) == ["conv_rows-32-64x16x16"]
    assert names("forward", 23, 23, dtype=torch.float32) == names("forward", 64, 64, dtype=torch.float32) == []
    monkeypatch.setattr(row_launch, "precision", lambda u: "ieee")
    assert names("forward", 16, 16, dtype=torch.float32) == []
    assert configs.pick("conv", torch.bfloat16, 16, 16).kernel == "conv"  # no default

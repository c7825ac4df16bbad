"""The Triton kernels one by one, in the interpreter: every shipped tile, memory around the tensors, addresses over
2^31, and long sets."""

import math

import pytest
import torch
from test_triton_layer import check, layer, make_case, oracle, with_grads, worst

import interconv_kernels as ik
from interconv_kernels import tuned
from interconv_kernels._backends.triton import TritonBackend, configs, conv_launch, set_kernels, set_ops
from interconv_kernels.sets import SetIndex

DTYPES = {16: (torch.bfloat16, torch.float16), 32: (torch.float32,)}


# --- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", configs.TILES, ids=lambda tile: tile.name)
def test_every_tile(tile, monkeypatch):
    """More rows, columns and depth than the tile holds, and not multiples of it."""

    part = "wgrad" if tile.kernel == "wgrad" else "conv"
    forced = {"algorithm": "fused", "tiles": {part: tile.name}}
    monkeypatch.setattr(tuned, "measured", lambda *layer: {"fastest": "triton", "best": {"triton": forced}})
    kernel = 1 if tile.kernel == "pointwise" else 3
    channels, out_channels = (40, tile.bn + 8) if tile.vectors else (13, tile.bn + 5)
    if tile.kernel == "conv_rows" and tile.vectors:
        channels, out_channels = tile.bk - 8, tile.bk  # it holds all channels of u, and of the gradient
    if tile.bn == 128:
        channels = 16  # the interpreter's time
    for dtype in DTYPES[tile.bits]:
        check(make_case([2, 1], channels, out_channels, (9, 10), kernel, dtype, "channels_last"))


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("kernel", ["conv", "conv_tma", "wgrad", "pointwise"])
@pytest.mark.parametrize("channels", [1, 3, 16, 23, 64, 96, 128, 137, 200, 400])
def test_tiles_pad_little(kernel, bits, channels):
    dtype = DTYPES[bits][0]
    if kernel == "conv_tma" and channels * bits % 128:
        return  # it never serves these
    tile = configs.pick(kernel, dtype, channels, channels)
    padded = math.ceil(channels / tile.bn) * tile.bn
    assert padded <= 1.4 * channels or padded == 32
    assert 2 * padded >= channels


def test_vector_tiles_only_where_rows_fill_vectors():
    for channels, bits, expected in ((64, 16, True), (8, 16, True), (4, 16, False), (137, 16, False)):
        tiles = configs.candidates_for("conv", DTYPES[bits][0], channels, 64)
        assert tiles
        assert {tile.vectors for tile in tiles} == {expected}
    assert configs.candidates_for("conv", torch.float32, 23, 23)


# --- memory around the tensors ----------------------------------------------------------------------------------------

ZONE = 5000  # elements: more than any block


class Guards:
    """Tensors between two zones of NaN. A kernel that reads a zone spoils its result, one that writes there is seen."""

    def __init__(self):
        self.buffers = []

    def __call__(self, *shape, dtype=torch.float32, device=None, memory_format=torch.contiguous_format):
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        buffer = real_full((math.prod(shape) + 2 * ZONE,), math.nan, dtype=dtype)
        self.buffers.append(buffer)
        inner = buffer[ZONE : len(buffer) - ZONE]
        if memory_format == torch.channels_last:
            n, c, h, w = shape
            return inner.view(n, h, w, c).permute(0, 3, 1, 2)
        return inner.view(shape)

    def copy(self, x, memory_format=torch.contiguous_format):
        return None if x is None else self(*x.shape, dtype=x.dtype, memory_format=memory_format).copy_(x)

    def check(self):
        assert self.buffers
        for buffer in self.buffers:
            assert buffer[:ZONE].isnan().all()
            assert buffer[len(buffer) - ZONE :].isnan().all()


real_full = torch.full


@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("algorithm", ["fused", "centered", "split", "concat"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_nothing_around_the_tensors_is_touched(fmt, algorithm, kernel, monkeypatch):
    guards = Guards()
    case = make_case([3, 1, 2], 5, 7, (5, 6), kernel, torch.float32)
    g = torch.randn(6, 7, 5, 6)
    want = with_grads(oracle, case.to(torch.float64), g)
    case.u, case.weight = guards.copy(case.u, fmt), guards.copy(case.weight)
    case.bias, g = guards.copy(case.bias), guards.copy(g, fmt)
    monkeypatch.setattr(torch, "empty", guards)
    monkeypatch.setattr(
        torch,
        "empty_like",
        lambda x, **more: guards(*x.shape, dtype=x.dtype, memory_format=more.get("memory_format", fmt)),
    )
    got = with_grads(lambda c: layer(c, algorithm), case, g)
    assert all(worst(a, b) < 2e-6 for a, b in zip(got, want, strict=True))
    guards.check()


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def huge(monkeypatch):
    """Memory is taken but not written, so that gigabytes of it cost nothing."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)


def test_set_kernels_address_over_two_to_the_31(huge):
    """One program of each kernel, on rows 1100 and 1101 of 2^21 values."""
    rows, columns = 1102, 2**21
    x = torch.empty(rows, columns, dtype=torch.bfloat16)
    x[1100, :1024], x[1101, :1024] = 3.0, 5.0
    offsets = torch.tensor([1100, 1102], dtype=torch.int32)
    out = torch.empty(rows, columns, dtype=torch.bfloat16)
    constants = {"ACC": set_kernels.tl.float32, "BLOCK": 1024, "VECTOR": 8}

    set_kernels.set_reduce_kernel[(1,)](x, offsets, out, out, columns, MEAN=True, **constants)
    assert (out[0, :1024] == 4).all()
    mean = torch.empty(1, columns, dtype=torch.bfloat16)
    set_kernels.center_kernel[(1,)](x, offsets, mean, out, columns, FROM_MEAN=False, **constants)
    assert (mean[0, :1024] == 4).all()
    assert (out[1100, :1024] == -2).all()
    set_kernels.uncenter_kernel[(1,)](mean, out, offsets, x, columns, **constants)
    assert (x[1100, :1024] == 3).all()
    assert (x[1101, :1024] == 5).all()
    offsets[:] = torch.tensor([540, 542])
    x[540, :1024], x[541, :1024] = 1.0, 2.0
    wide = out.view(rows // 2, 2 * columns)  # row 541 ends past 2^31
    set_kernels.concat_kernel[(1,)](x, offsets, wide, columns, C=1, CHANNELS_LAST=False, **constants)
    assert (wide[541, :1024] == 2).all()
    assert (wide[541, columns : columns + 1024] == 1.5).all()
    set_kernels.concat_backward_kernel[(1,)](wide, offsets, x, columns, C=1, CHANNELS_LAST=False, **constants)
    assert (x[541, :1024] == 3.5).all()


def test_set_add_addresses_over_two_to_the_31(huge):
    columns = 2**30 + 2**10
    y, t = torch.empty(1, columns, dtype=torch.bfloat16), torch.empty(3, columns, dtype=torch.bfloat16)
    y[0, :1024], t[2, :1024] = 2.0, 3.0
    ids = torch.tensor([2], dtype=torch.int32)
    arguments = (y, t, None, ids, ids, y, 0, columns)
    flags = {"C": 1, "CHANNELS_LAST": False, "HAS_Y": True, "MEAN": False, "HAS_SLOPE": False}
    set_kernels.set_add_kernel[(1,)](*arguments, **flags, ACC=set_kernels.tl.float32, BLOCK=1024, VECTOR=8)
    assert (y[0, :1024] == 5).all()


def test_convolution_addresses_over_two_to_the_31(huge):
    """Images of 2^25 values: the tile's 128 rows are 128 images, and those from 64 on lie past 2^31."""
    n, side = 70, 2**11
    x = torch.empty(n, 8, side, side, dtype=torch.bfloat16, memory_format=torch.channels_last)
    y = torch.empty(n, 8, side, side, dtype=torch.bfloat16, memory_format=torch.channels_last)
    x[:, :, 0, 0] = torch.arange(n)[:, None].to(torch.bfloat16)
    geometry = conv_launch.Geometry((1, 1), (1, 1), (0, 0), (1, 1), (1, 1), (0, 0))
    weight = torch.eye(8, dtype=torch.bfloat16).view(1, 1, 8, 8)
    conv_launch.convolve(x, geometry, weight, y, conv_launch.Epilogue(), configs.pick("conv", x.dtype, 8, 8))
    assert torch.equal(y[:, :, 0, 0], x[:, :, 0, 0])


# --- long sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[63], [64], [65], [128, 1], [1, 127, 64, 200, 3], [5, 64, 64, 2, 129]])
@pytest.mark.parametrize("mean", [True, False])
def test_set_reduce_of_long_sets(lengths, mean):
    x = torch.randn(sum(lengths), 3, 2, 2)
    sets = ik.Sets.from_lengths(lengths)
    got = set_ops.set_reduce(x, SetIndex(sets.offsets, sets.set_ids), mean)
    for b, part in enumerate(x.double().split(lengths)):
        assert worst(got[b], part.mean(0) if mean else part.sum(0)) < 1e-6


def test_pieces_give_the_bits_of_one_launch():
    """A long set is summed alike whether stage 1 summed its pieces or not, wherever it lies."""
    x = torch.randn(203, 5)
    index = [torch.tensor(o, dtype=torch.int32) for o in ([0, 3, 203], [0] * 3 + [1] * 200)]
    two_stages = set_ops.set_reduce(x, SetIndex(*index), mean=True)[1]
    s = ik.concat_set_mean(x, [3, 200], backend="triton")[3, 5:]
    assert torch.equal(two_stages, s)


def test_it_says_when_it_cannot_run(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "TRITON_INTERPRET=1" in TritonBackend().can_run(torch.device("cpu"))
    assert "not on meta" in TritonBackend().can_run(torch.device("meta"))
    with pytest.raises(ValueError, match="backend 'triton' cannot run on cpu: it runs on GPUs"):
        layer(make_case([1], dtype=torch.float32))

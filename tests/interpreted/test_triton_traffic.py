"""Bytes that the Triton kernels load and store, counted in the interpreter, against what they should be: the floor for
the memory-bound kernels, what the tiles imply for the convolutions. Masked elements move nothing."""

import pytest
import torch
from common import FORMATS
from triton.runtime.interpreter import InterpreterBuilder

import interconv_kernels as ik
from interconv_kernels._backends.triton import conv_launch, set_ops
from interconv_kernels._backends.triton.configs import pick
from interconv_kernels.sets import SetIndex

LENGTHS = [3, 1, 5]
N, B, C, H, W = 9, 3, 6, 5, 7
A = C * H * W * 4  # bytes of a sample's map in float32
formats = pytest.mark.parametrize("fmt", FORMATS)


class Traffic:
    """Bytes loaded and stored, by the element type pointed to: the maps are float32, offsets and set ids int32."""

    def __init__(self, monkeypatch):
        self.loaded = self.stored = 0
        load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

        def counted_load(builder, pointers, mask, *settings):
            self.loaded += self.bytes(pointers, mask)
            return load(builder, pointers, mask, *settings)

        def counted_store(builder, pointers, value, mask, *settings):
            self.stored += self.bytes(pointers, mask)
            return store(builder, pointers, value, mask, *settings)

        monkeypatch.setattr(InterpreterBuilder, "create_masked_load", counted_load)
        monkeypatch.setattr(InterpreterBuilder, "create_masked_store", counted_store)

    @staticmethod
    def bytes(pointers, mask):
        element = pointers.get_element_ty()
        return int(mask.data.sum()) * element.primitive_bitwidth // 8 if element.is_floating() else 0


@pytest.fixture
def traffic(monkeypatch):
    return Traffic(monkeypatch)


def maps(n, channels=C, fmt="nchw"):
    return torch.randn(n, channels, H, W).contiguous(memory_format=FORMATS[fmt])


def index(lengths=LENGTHS):
    sets = ik.Sets.from_lengths(lengths)
    return SetIndex(sets.offsets, sets.set_ids)


@formats
def test_set_reduce_reads_once(traffic, fmt):
    set_ops.set_reduce(maps(N, fmt=fmt), index(), mean=True)
    assert (traffic.loaded, traffic.stored) == (N * A, B * A)


def test_a_long_set_is_read_once_and_its_pieces_too(traffic):
    set_ops.set_reduce(maps(200), index([2, 198]), mean=True)
    pieces = 198 // 64
    assert (traffic.loaded, traffic.stored) == ((200 + pieces) * A, (2 + pieces) * A)


@formats
def test_concat_reads_u_once(traffic, fmt):
    set_ops.concat_set_mean(maps(N, fmt=fmt), index())
    assert (traffic.loaded, traffic.stored) == (N * A, 2 * N * A)


@formats
def test_concat_backward_reads_g_once(traffic, fmt):
    set_ops.concat_set_mean_backward(maps(N, 2 * C, fmt), index())
    assert (traffic.loaded, traffic.stored) == (2 * N * A, N * A)


@formats
def test_center_reads_once(traffic, fmt):
    set_ops.center(maps(N, fmt=fmt), index(), from_mean=False)
    assert (traffic.loaded, traffic.stored) == (N * A, N * A)


def test_center_from_the_mean_reads_twice(traffic):
    """The second time all but the last sample, from the cache."""
    set_ops.center(maps(N), index(), from_mean=True)
    assert (traffic.loaded, traffic.stored) == ((2 * N - B) * A, N * A)


def test_uncenter_reads_the_differences_twice(traffic):
    set_ops.uncenter(maps(B), maps(N - B), index())
    assert (traffic.loaded, traffic.stored) == ((B + 2 * (N - B)) * A, N * A)


@formats
def test_set_add(traffic, fmt):
    """y and the set's term for each sample (the term from the cache: its set's samples follow one another)."""
    y = maps(N, fmt=fmt)
    set_ops.set_add(y, maps(B, fmt=fmt), index(), mean=False, out=torch.empty_like(y))
    assert (traffic.loaded, traffic.stored) == (2 * N * A, N * A)


# --- convolutions -----------------------------------------------------------------------------------------------------


def output(channels):
    return maps(N, channels, "channels_last")


def padded_reads(kernel):
    """Pixels of one image that all taps of all output pixels read: those beyond the border cost nothing."""
    inside = torch.nn.functional.conv2d(torch.ones(1, 1, H, W), torch.ones(1, 1, kernel, kernel), padding=kernel // 2)
    return int(inside.sum())


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("out_channels", [20, 70])
def test_convolution_moves_what_its_tiles_imply(traffic, kernel, out_channels):
    """u once for each tap and column tile, the weight once for each row tile, the set's term and y once."""
    x, t = (
        maps(N, fmt="channels_last"),
        torch.randn(B, out_channels, H, W).contiguous(memory_format=torch.channels_last),
    )
    y = torch.randn(N, out_channels, H, W).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(kernel, kernel, C, out_channels)
    base = (-(kernel // 2), -(kernel // 2))
    geometry = conv_launch.Geometry((H, W), (1, 1), base, (1, 1), (1, 1), (0, 0))
    tile = pick("conv", x.dtype, C, out_channels)
    conv_launch.convolve(x, geometry, weight, y, conv_launch.Epilogue(t, index().set_ids), None)
    row_tiles, column_tiles = -(-N * H * W // tile.bm), -(-out_channels // tile.bn)
    u_bytes = column_tiles * N * padded_reads(kernel) * C * 4
    weight_bytes, y_bytes = row_tiles * weight.numel() * 4, y.numel() * 4
    assert traffic.loaded == u_bytes + weight_bytes + y_bytes
    assert traffic.stored == y_bytes


def test_the_whole_pointwise_layer_reads_a_set_twice_a_column_tile(traffic):
    """From memory once: the second pass finds the set's tile in the cache. No set means, no set terms."""
    out_channels = 20
    x, y = (
        maps(N, fmt="channels_last"),
        torch.empty(N, out_channels, H, W).contiguous(memory_format=torch.channels_last),
    )
    weight = torch.randn(1, 1, C, out_channels)
    tile = pick("pointwise", x.dtype, C, out_channels)
    conv_launch.pointwise(x, weight, weight, None, index(), None, y, tile)
    tiles = -(-H * W // tile.bm)
    assert traffic.loaded == 2 * N * A + tiles * (B + N) * weight.numel() * 4
    assert traffic.stored == y.numel() * 4


def test_wgrad_moves_what_its_tiles_imply(traffic, monkeypatch):
    """u once for each tap and column tile, g once for each row tile; each part of the sum once."""
    monkeypatch.setattr(conv_launch, "WGRAD_PROGRAMS", 6)
    out_channels, kernel = 70, 3
    u, g = (
        maps(N, fmt="channels_last"),
        torch.randn(N, out_channels, H, W).contiguous(memory_format=torch.channels_last),
    )
    weight = torch.empty(out_channels, C, kernel, kernel)
    tile = pick("wgrad", u.dtype, C, out_channels)
    conv = ik.convolution.Conv((1, 1), (1, 1), (1, 1), torch.channels_last)
    conv_launch.wgrad(conv, g, u, weight, None)
    row_tiles, column_tiles = -(-(kernel**2) * C // tile.bm), -(-out_channels // tile.bn)
    parts = 6 // (row_tiles * column_tiles)
    assert parts == 2
    assert traffic.loaded == column_tiles * N * padded_reads(kernel) * C * 4 + row_tiles * g.numel() * 4
    assert traffic.stored == parts * weight.numel() * 4

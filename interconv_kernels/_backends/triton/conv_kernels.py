"""The convolutions of the layer as Triton kernels: implicit GEMM in channels_last, with the set term in the epilogue.

    y[n, h, w] = act(t[set of n, h, w] + bias
                     + sum over taps (r, q) of u[n, h SH + r DH + base_h, w SW + q DW + base_w] @ weight[r, q])

One kernel computes the forward and grad_u: the launcher (`fused.py`) says which taps and which pixels. Rows of the GEMM
are output pixels, sample after sample, so set by set; its columns output channels; its depth taps times input channels.
Sums are float32. Names as in set_kernels.py; BM, BN, BK are the tile's rows, columns and depth.
"""

from functools import partial

import triton
import triton.language as tl

from .set_kernels import divide, leaky_relu, set_span, whole_vectors

# As in set_kernels.py: no image size or batch leads to another compilation. Rows are C or CO values, both constants,
# which is all that 16-byte accesses need to know.
batch_jit = partial(
    triton.jit,
    do_not_specialize=[
        *("num_rows", "area", "chunk", "H", "W", "grid_h", "grid_w", "out_h", "out_w"),
        *("base_h", "base_w", "phase_h", "phase_w"),
    ],
    do_not_specialize_on_alignment=["p_ids", "p_offsets"],
)


@triton.jit
def tile_index(CO: tl.constexpr, BN: tl.constexpr):
    """(tile of rows, first column) of this program.

    The column tiles of the same rows run one after the other, so that u is read from memory once.
    """
    column_tiles: tl.constexpr = (CO + BN - 1) // BN
    return tl.program_id(0) // column_tiles, tl.program_id(0) % column_tiles * BN


@triton.jit
def pixel_rows(first, ahead, height, width, BM: tl.constexpr):
    """(sample as int64, h, w), each [BM], of BM pixels from number `first` (int64) + `ahead` (int32) on."""
    area = height * width
    local = (first % area).to(tl.int32) + ahead + tl.arange(0, BM)
    pixel = local % area
    return first // area + local // area, pixel // width, pixel % width


@triton.jit
def gather(p_sample, h, w, inside, H, W, c, C: tl.constexpr):
    """u[sample, h, w, c], zero outside of the image. p_sample, h, w, inside and c broadcast to the tile."""
    inside = inside & (h.to(tl.uint32) < H) & (w.to(tl.uint32) < W)  # unsigned, so not negative either
    return tl.load(p_sample + (h * W + w).to(tl.int64) * C + c, mask=inside, other=0.0)


@triton.jit
def epilogue(x, p_bias, p_slope, columns, CO: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SLOPE: tl.constexpr):
    """act(x + bias) of the tile x [BM, BN]; bias and slope [CO], each optional."""
    if HAS_BIAS:
        x += tl.load(p_bias + columns, mask=columns < CO, other=0.0).to(tl.float32)[None, :]
    if HAS_SLOPE:
        x = leaky_relu(x, tl.load(p_slope + columns, mask=columns < CO, other=0.0).to(tl.float32)[None, :])
    return x


# --- convolution with the set's term in the epilogue (and grad_u) --------------------------------------------------


@batch_jit
def conv_kernel(
    p_u,
    p_weight,
    p_t,
    p_ids,
    p_bias,
    p_slope,
    p_y,
    num_rows,
    H,
    W,
    grid_h,
    grid_w,
    out_h,
    out_w,
    base_h,
    base_w,
    phase_h,
    phase_w,
    C: tl.constexpr,
    CO: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    STEP_H: tl.constexpr,
    STEP_W: tl.constexpr,
    HAS_SET: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """u [N,H,W,C], weight [TAPS_H TAPS_W C, CO], t [B,out_h,out_w,CO] float32 (its bias inside), y [N,out_h,out_w,CO].

    The pixels computed are (h STEP_H + phase_h, w STEP_W + phase_w) for h < grid_h, w < grid_w: all of them (step 1,
    phase 0), or one phase of the gradient of a strided convolution. Where C is a multiple of BK a step of the loop
    stays within one tap; else the depth runs over (tap, channel) without a gap, so that no channel is padded.
    """
    i_tile, first_column = tile_index(CO, BN)
    n, h, w = pixel_rows(tl.cast(i_tile, tl.int64) * BM, 0, grid_h, grid_w, BM)
    columns = first_column + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    inside = n < num_rows
    p_sample = p_u + n * (tl.cast(H, tl.int64) * W * C)
    h_in, w_in = h * SH + base_h, w * SW + base_w
    acc = tl.zeros([BM, BN], tl.float32)
    DEPTH: tl.constexpr = TAPS_H * TAPS_W * C
    for k in range(0, DEPTH, BK):
        if C % BK == 0:
            r, q = k // C // TAPS_W, k // C % TAPS_W
            h_tap, w_tap = (h_in + r * DH)[:, None], (w_in + q * DW)[:, None]
            a = gather(p_sample[:, None], h_tap, w_tap, inside[:, None], H, W, (k % C + depth)[None, :], C)
            m_b = (columns < CO)[None, :]
        else:
            tap, c = (k + depth) // C, (k + depth) % C
            h_tap = h_in[:, None] + (tap // TAPS_W * DH)[None, :]
            w_tap = w_in[:, None] + (tap % TAPS_W * DW)[None, :]
            real = k + depth < DEPTH
            a = gather(p_sample[:, None], h_tap, w_tap, inside[:, None] & real[None, :], H, W, c[None, :], C)
            m_b = real[:, None] & (columns < CO)[None, :]
        b = tl.load(p_weight + (k + depth)[:, None] * CO + columns[None, :], mask=m_b, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    pixel = (h * STEP_H + phase_h).to(tl.int64) * out_w + w * STEP_W + phase_w
    image = tl.cast(out_h, tl.int64) * out_w
    m_tile = inside[:, None] & (columns < CO)[None, :]
    if HAS_SET:
        i_set = tl.load(p_ids + n, mask=inside, other=0)
        acc += tl.load(p_t + ((i_set * image + pixel) * CO)[:, None] + columns[None, :], mask=m_tile, other=0.0)
    acc = epilogue(acc, p_bias, p_slope, columns, CO, HAS_BIAS, HAS_SLOPE)
    p_tile = p_y + ((n * image + pixel) * CO)[:, None] + columns[None, :]
    tl.store(p_tile, acc.to(p_y.dtype.element_ty), mask=m_tile)


@batch_jit
def conv_tma_kernel(
    u_tiles,
    weight_tiles,
    p_t,
    p_ids,
    p_bias,
    p_slope,
    y_tiles,
    out_h,
    out_w,
    base_h,
    base_w,
    C: tl.constexpr,
    CO: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    HAS_SET: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """The same for stride 1 with bulk copies of tensor tiles.

    u [N,H,W,C], weight [taps,C,CO] and y [N,out_h,out_w,CO] are descriptors. The part of a tile outside of its tensor
    reads as zero, which is the padding, and is not written.
    """
    i_tile, first_column = tile_index(CO, BN)
    tiles_h, tiles_w = tl.cdiv(out_h, BH), tl.cdiv(out_w, BW)
    n = i_tile // (tiles_h * tiles_w)
    h0 = i_tile // tiles_w % tiles_h * BH
    w0 = i_tile % tiles_w * BW
    acc = tl.zeros([BH * BW, BN], tl.float32)
    CHUNKS: tl.constexpr = (C + BK - 1) // BK
    for k in range(0, TAPS_H * TAPS_W * CHUNKS):
        tap, c = k // CHUNKS, k % CHUNKS * BK
        h_tap, w_tap = h0 + base_h + tap // TAPS_W * DH, w0 + base_w + tap % TAPS_W * DW
        a = u_tiles.load([n, h_tap, w_tap, c]).reshape(BH * BW, BK)
        b = weight_tiles.load([tap, c, first_column]).reshape(BK, BN)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    columns = first_column + tl.arange(0, BN)
    if HAS_SET:
        h, w = h0 + tl.arange(0, BH * BW) // BW, w0 + tl.arange(0, BH * BW) % BW
        m_tile = ((h < out_h) & (w < out_w))[:, None] & (columns < CO)[None, :]
        pixel = (tl.load(p_ids + n) * tl.cast(out_h, tl.int64) + h) * out_w + w
        acc += tl.load(p_t + (pixel * CO)[:, None] + columns[None, :], mask=m_tile, other=0.0)
    acc = epilogue(acc, p_bias, p_slope, columns, CO, HAS_BIAS, HAS_SLOPE)
    y_tiles.store([n, h0, w0, first_column], acc.to(y_tiles.dtype).reshape(1, BH, BW, BN))


# --- grad_W -----------------------------------------------------------------------------------------------------------


@batch_jit
def wgrad_kernel(
    p_u,
    p_g,
    p_parts,
    num_rows,
    H,
    W,
    out_h,
    out_w,
    base_h,
    base_w,
    chunk,
    C: tl.constexpr,
    CO: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """parts[p] [TAPS_H TAPS_W C, CO] float32: sums over pixels of u[n, h SH + r DH + base_h, ..., c] g[n, h, w, co].

    The pixels are p chunk ... (p + 1) chunk - 1 of g, with `chunk` a multiple of BK and less than 2^30. The launcher
    adds the parts in order (split-K in two stages, no atomics). Rows are (tap, channel), the depth is pixels.
    """
    DEPTH: tl.constexpr = TAPS_H * TAPS_W * C
    row_tiles: tl.constexpr = (DEPTH + BM - 1) // BM
    i_tile, first_column = tile_index(CO, BN)
    i_part = i_tile // row_tiles
    row = i_tile % row_tiles * BM + tl.arange(0, BM)
    columns = first_column + tl.arange(0, BN)
    tap, c = row // C, row % C
    if C % BM == 0:  # one tap for the whole tile
        tap = i_tile % row_tiles * BM // C + tl.zeros([1], tl.int32)
    h_off, w_off = tap // TAPS_W * DH + base_h, tap % TAPS_W * DW + base_w
    first = tl.cast(i_part, tl.int64) * chunk
    acc = tl.zeros([BM, BN], tl.float32)
    for k in range(0, chunk, BK):
        n, h, w = pixel_rows(first, k, out_h, out_w, BK)
        inside = n < num_rows
        p_sample = p_u + n * (tl.cast(H, tl.int64) * W * C)
        h_in, w_in = (h * SH)[:, None] + h_off[None, :], (w * SW)[:, None] + w_off[None, :]
        a = gather(p_sample[:, None], h_in, w_in, inside[:, None] & (row < DEPTH)[None, :], H, W, c[None, :], C)
        p_pixel = p_g + (first + k + tl.arange(0, BK)) * CO
        b = tl.load(p_pixel[:, None] + columns[None, :], mask=inside[:, None] & (columns < CO)[None, :], other=0.0)
        acc = tl.dot(tl.trans(a), b, acc, input_precision=PRECISION)
    p_part = p_parts + tl.cast(i_part, tl.int64) * (DEPTH * CO)  # one part, the size of weight, fits int32
    p_tile = p_part + (row[:, None] * CO + columns[None, :])
    tl.store(p_tile, acc, mask=(row < DEPTH)[:, None] & (columns < CO)[None, :])


# --- the whole layer for k = 1 ----------------------------------------------------------------------------------------


@batch_jit
def pointwise_kernel(
    p_u,
    p_w_own,
    p_w_set,
    p_offsets,
    p_bias,
    p_slope,
    p_y,
    area,
    VECTOR: tl.constexpr,
    C: tl.constexpr,
    CO: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """y_i = act(u_i @ w_own + s @ w_set + bias) for BM pixels of all samples of one set; u [N,area,C], weights [C,CO].

    The first pass over the tile of the set computes s and its product; the second, with the tile in the cache, the
    rest.
    """
    area = whole_vectors(area, VECTOR)
    tiles = tl.cdiv(area, BM)
    i_tile, first_column = tile_index(CO, BN)
    pixels = i_tile % tiles * BM + tl.arange(0, BM)
    lo, hi = set_span(p_offsets, i_tile // tiles)
    columns = first_column + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    o_pixel = pixels.to(tl.int64)[:, None] * C
    stride = tl.cast(area, tl.int64) * C
    term = tl.zeros([BM, BN], tl.float32)
    for k in range(0, C, BK):
        c = k + depth
        m_u = (pixels < area)[:, None] & (c < C)[None, :]
        total = tl.zeros([BM, BK], tl.float32)
        for i in range(lo, hi):
            total += tl.load(p_u + i * stride + (o_pixel + c[None, :]), mask=m_u, other=0.0).to(tl.float32)
        s = divide(total, hi - lo).to(p_u.dtype.element_ty)
        m_w = (c < C)[:, None] & (columns < CO)[None, :]
        weight = tl.load(p_w_set + c[:, None] * CO + columns[None, :], mask=m_w, other=0.0)
        term = tl.dot(s, weight, term, input_precision=PRECISION)
    m_y = (pixels < area)[:, None] & (columns < CO)[None, :]
    p_out = p_y + (pixels.to(tl.int64) * CO)[:, None] + columns[None, :]
    for i in range(lo, hi):
        acc = term
        for k in range(0, C, BK):
            c = k + depth
            m_u = (pixels < area)[:, None] & (c < C)[None, :]
            u = tl.load(p_u + i * stride + (o_pixel + c[None, :]), mask=m_u, other=0.0)
            m_w = (c < C)[:, None] & (columns < CO)[None, :]
            weight = tl.load(p_w_own + c[:, None] * CO + columns[None, :], mask=m_w, other=0.0)
            acc = tl.dot(u, weight, acc, input_precision=PRECISION)
        acc = epilogue(acc, p_bias, p_slope, columns, CO, HAS_BIAS, HAS_SLOPE)
        tl.store(p_out + i * (tl.cast(area, tl.int64) * CO), acc.to(p_y.dtype.element_ty), mask=m_y)

"""A 3x3 convolution of stride 1 for few input channels, as a Triton kernel that iterates over image rows.

conv_kernel reads u once for each of the nine taps. Here a program keeps the nine weights and the sums of three
consecutive output rows, and adds each row of u to all three: it reads u once for each of the three horizontal taps.
Names as in conv_kernels.py.
"""

import triton
import triton.language as tl

from .conv_kernels import epilogue, gather, pixel_rows, tile_index


@triton.jit
def tap(p_weight, r, q, columns, CO: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """weight[r, q] [BK, BN], from the weight padded with zeros to whole tiles."""
    WIDTH: tl.constexpr = (CO + BN - 1) // BN * BN
    return tl.load(p_weight + ((r * 3 + q) * BK + tl.arange(0, BK))[:, None] * WIDTH + columns[None, :])


@triton.jit
def add_taps(acc, left, middle, right, w_left, w_middle, w_right, PRECISION: tl.constexpr):
    """acc + the products of one row of u, at its three horizontal shifts, with one row of taps."""
    acc = tl.dot(left, w_left, acc, input_precision=PRECISION)
    acc = tl.dot(middle, w_middle, acc, input_precision=PRECISION)
    return tl.dot(right, w_right, acc, input_precision=PRECISION)


@triton.jit(do_not_specialize=["num_samples", "H", "W", "out_h", "out_w", "base_h", "base_w", "rows"])
def conv_rows_kernel(
    p_u,
    p_weight,
    p_t,
    p_ids,
    p_bias,
    p_slope,
    p_y,
    num_samples,
    H,
    W,
    out_h,
    out_w,
    base_h,
    base_w,
    rows,
    C: tl.constexpr,
    CO: tl.constexpr,
    HAS_SET: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """u [N,H,W,C], t [B,out_h,out_w,CO] float32 (its bias inside), y [N,out_h,out_w,CO]; C <= BK.

    A program computes `rows` consecutive rows of y for BM image columns, which are counted through the whole batch:
    column w of sample n is number n out_w + w. Output pixel (h, w) reads u from (h + base_h, w + base_w) on. weight is
    [3,3,BK,CO rounded up to a multiple of BN], padded with zeros.
    """
    i_tile, first_column = tile_index(CO, BN)
    blocks = tl.cdiv(out_h, rows)
    first_row = i_tile % blocks * rows
    n, _, w = pixel_rows(tl.cast(i_tile // blocks, tl.int64) * BM, 0, 1, out_w, BM)
    c, columns = tl.arange(0, BK), first_column + tl.arange(0, BN)
    m_u = (n < num_samples)[:, None] & (c < C)[None, :]
    m_y = (n < num_samples)[:, None] & (columns < CO)[None, :]
    p_sample = (p_u + n * (tl.cast(H, tl.int64) * W * C))[:, None]
    image = tl.cast(out_h, tl.int64) * out_w
    p_out = p_y + (n * image + w)[:, None] * CO + columns[None, :]
    if HAS_SET:
        i_set = tl.load(p_ids + n, mask=n < num_samples, other=0)
        p_term = p_t + (i_set * image + w)[:, None] * CO + columns[None, :]
    w00 = tap(p_weight, 0, 0, columns, CO, BN, BK)
    w01 = tap(p_weight, 0, 1, columns, CO, BN, BK)
    w02 = tap(p_weight, 0, 2, columns, CO, BN, BK)
    w10 = tap(p_weight, 1, 0, columns, CO, BN, BK)
    w11 = tap(p_weight, 1, 1, columns, CO, BN, BK)
    w12 = tap(p_weight, 1, 2, columns, CO, BN, BK)
    w20 = tap(p_weight, 2, 0, columns, CO, BN, BK)
    w21 = tap(p_weight, 2, 1, columns, CO, BN, BK)
    w22 = tap(p_weight, 2, 2, columns, CO, BN, BK)
    zeros = tl.zeros([BM, BN], tl.float32)
    last, middle = zeros, zeros  # the sums of output rows h - 2 and h - 1
    for h in range(first_row, tl.minimum(first_row + rows, out_h) + 2):
        w_in = (w + base_w)[:, None]
        left = gather(p_sample, h + base_h, w_in, m_u, H, W, c[None, :], C)
        center = gather(p_sample, h + base_h, w_in + 1, m_u, H, W, c[None, :], C)
        right = gather(p_sample, h + base_h, w_in + 2, m_u, H, W, c[None, :], C)
        acc = add_taps(last, left, center, right, w20, w21, w22, PRECISION)
        last = add_taps(middle, left, center, right, w10, w11, w12, PRECISION)
        middle = add_taps(zeros, left, center, right, w00, w01, w02, PRECISION)
        m_row = m_y & (h >= first_row + 2)
        pixel = tl.cast(h - 2, tl.int64) * out_w * CO
        if HAS_SET:
            acc += tl.load(p_term + pixel, mask=m_row, other=0.0)
        acc = epilogue(acc, p_bias, p_slope, columns, CO, HAS_BIAS, HAS_SLOPE)
        tl.store(p_out + pixel, acc.to(p_y.dtype.element_ty), mask=m_row)

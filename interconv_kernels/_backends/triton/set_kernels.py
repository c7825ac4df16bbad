"""The set operations as Triton kernels, over packed rows x [N, M] (a sample flattened in the order of its memory).

Names: p_ pointer, i_ index, m_ mask; M columns; set b holds the rows lo ... hi-1; ACC is the dtype of sums. Offsets
into rows are int64: the row stride is made int64 before any loop. A program computes BLOCK columns of one set or of one
row; programs are ordered set by set, so a set's rows stay in the cache while they are needed.

Triton compiles a kernel again where an integer argument becomes 1 or a multiple of 16. These kernels are not: sizes
change from batch to batch. What 16-byte accesses need is the constant VECTOR, by which M is divisible.
"""

from functools import partial

import triton
import triton.language as tl

# For kernels that are launched: no argument leads to another compilation, except for the alignment of the data.
batch_jit = partial(
    triton.jit,
    do_not_specialize=["num_rows", "first_row", "M"],
    do_not_specialize_on_alignment=["p_offsets", "p_ids"],
)

# Rows are summed in pieces counted from the set's own first row, then piece by piece: the same bits whether the pieces
# are summed by one program or by many, and wherever in the batch the set is.
PIECE = tl.constexpr(64)


@triton.jit
def set_span(p_offsets, i_set):
    return tl.load(p_offsets + i_set), tl.load(p_offsets + i_set + 1)


@triton.jit
def whole_vectors(M, VECTOR: tl.constexpr):
    """M, which is a multiple of VECTOR, in a form that tells the compiler so."""
    return M // VECTOR * VECTOR


@triton.jit
def column_block(M, BLOCK: tl.constexpr):
    """(index of the row or set, first column as int64, mask) of this program; M > 0."""
    blocks = tl.cdiv(M, BLOCK)
    i_row = tl.program_id(0) // blocks
    first = tl.cast(tl.program_id(0) % blocks, tl.int64) * BLOCK
    return i_row, first, tl.arange(0, BLOCK) < M - first


@triton.jit
def sum_rows(p_x, lo, hi, stride, mask, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """[BLOCK], the sum of the rows lo ... hi-1 of one piece; p_x [BLOCK] points to row 0."""
    total = tl.zeros([BLOCK], ACC)
    for i in tl.range(lo, hi, loop_unroll_factor=4):
        total += tl.load(p_x + i * stride, mask=mask, other=0.0).to(ACC)
    return total


@triton.jit
def sum_set(p_x, lo, hi, stride, mask, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """[BLOCK], the sum of the rows lo ... hi-1, piece by piece."""
    total = tl.zeros([BLOCK], ACC)
    for start in range(lo, hi, PIECE):
        total += sum_rows(p_x, start, tl.minimum(start + PIECE, hi), stride, mask, ACC, BLOCK)
    return total


@triton.jit
def divide(x, size):
    """x / max(size, 1), correctly rounded."""
    size = tl.maximum(size, 1).to(x.dtype)
    if x.dtype == tl.float32:
        return tl.div_rn(x, tl.zeros_like(x) + size)
    return x / size


@triton.jit
def leaky_relu(x, slope):
    """x where x >= 0 (and NaN where it is NaN), else slope * x; `slope` broadcasts against x."""
    return tl.where(x < 0, x * slope, x)


# --- set reduction ----------------------------------------------------------------------------------------------------


@batch_jit
def full_piece_kernel(
    p_x, p_offsets, p_ids, p_pieces, num_rows, M, ACC: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr
):
    """Stage 1, for batches of at least 64 samples: pieces[q] [M] = the sum of the full piece that starts in window q.

    Window q is the rows 64q ... 64q + 63. Full pieces are 64 rows each and disjoint, so at most one starts in each
    window: which piece belongs to which slot follows from the offsets, and the launch from N alone.
    """
    M = whole_vectors(M, VECTOR)
    i_slot, first, mask = column_block(M, BLOCK)
    rows = i_slot * PIECE + tl.arange(0, PIECE)
    ids = tl.load(p_ids + rows, mask=rows < num_rows, other=0)
    lo, hi = tl.load(p_offsets + ids), tl.load(p_offsets + ids + 1)
    starts = (rows < num_rows) & ((rows - lo) % PIECE == 0) & (rows + PIECE <= hi)
    start = tl.max(tl.where(starts, rows, -1), 0)
    if start >= 0:
        p_row = p_x + first + tl.arange(0, BLOCK)
        stride = tl.cast(M, tl.int64)
        total = sum_rows(p_row, start, start + PIECE, stride, mask, ACC, BLOCK)
        tl.store(p_pieces + i_slot * stride + first + tl.arange(0, BLOCK), total, mask=mask)


@batch_jit
def set_reduce_kernel(
    p_x,
    p_offsets,
    p_pieces,
    p_out,
    M,
    MEAN: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """out[b] = the sum of x[lo ... hi-1], or the mean; zero for an empty set. Full pieces are read from stage 1."""
    M = whole_vectors(M, VECTOR)
    i_set, first, mask = column_block(M, BLOCK)
    lo, hi = set_span(p_offsets, i_set)
    stride = tl.cast(M, tl.int64)
    p_row = p_x + first + tl.arange(0, BLOCK)
    p_piece = p_pieces + first + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], ACC)
    tail = lo + (hi - lo) // PIECE * PIECE
    for start in range(lo, tail, PIECE):
        total += tl.load(p_piece + start // PIECE * stride, mask=mask, other=0.0)
    total += sum_rows(p_row, tail, hi, stride, mask, ACC, BLOCK)
    if MEAN:
        total = divide(total, hi - lo)
    p_out += i_set * stride + first + tl.arange(0, BLOCK)
    tl.store(p_out, total.to(p_out.dtype.element_ty), mask=mask)


# --- concat construction ----------------------------------------------------------------------------------------------


@triton.jit
def concat_columns(first, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK: tl.constexpr):
    """Where the columns of u's row go in the row of concat (own half).

    NCHW: a row of concat is u's row, then that of s. channels_last: the two alternate, C columns each.
    """
    columns = first + tl.arange(0, BLOCK)
    if CHANNELS_LAST:
        columns += columns // C * C
    return columns


@batch_jit
def concat_kernel(
    p_u,
    p_offsets,
    p_out,
    M,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """out[i] = [u_i | s] for the set's rows, where s is their mean. u is read once."""
    M = whole_vectors(M, VECTOR)
    i_set, first, mask = column_block(M, BLOCK)
    lo, hi = set_span(p_offsets, i_set)
    stride = tl.cast(M, tl.int64)
    p_row = p_u + first + tl.arange(0, BLOCK)
    p_own = p_out + concat_columns(first, C, CHANNELS_LAST, BLOCK)
    to_mean = C if CHANNELS_LAST else M
    total = tl.zeros([BLOCK], ACC)
    for start in range(lo, hi, PIECE):
        piece = tl.zeros([BLOCK], ACC)
        for i in tl.range(start, tl.minimum(start + PIECE, hi), loop_unroll_factor=4):
            u = tl.load(p_row + i * stride, mask=mask, other=0.0)
            tl.store(p_own + i * (2 * stride), u, mask=mask)
            piece += u.to(ACC)
        total += piece
    s = divide(total, hi - lo).to(p_out.dtype.element_ty)
    for i in tl.range(lo, hi, loop_unroll_factor=4):
        tl.store(p_own + i * (2 * stride) + to_mean, s, mask=mask)


@batch_jit
def concat_backward_kernel(
    p_g,
    p_offsets,
    p_out,
    M,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """The adjoint: out_i = g_own_i + (sum of g_set over the set) / K. g [N, 2M], out [N, M]."""
    M = whole_vectors(M, VECTOR)
    i_set, first, mask = column_block(M, BLOCK)
    lo, hi = set_span(p_offsets, i_set)
    stride = tl.cast(M, tl.int64)
    p_own = p_g + concat_columns(first, C, CHANNELS_LAST, BLOCK)
    to_mean = C if CHANNELS_LAST else M
    mean = divide(sum_set(p_own + to_mean, lo, hi, 2 * stride, mask, ACC, BLOCK), hi - lo)
    p_row = p_out + first + tl.arange(0, BLOCK)
    for i in tl.range(lo, hi, loop_unroll_factor=4):
        g = tl.load(p_own + i * (2 * stride), mask=mask, other=0.0).to(ACC)
        tl.store(p_row + i * stride, (g + mean).to(p_out.dtype.element_ty), mask=mask)


# --- centring, its inverse, per-set add -------------------------------------------------------------------------------


@batch_jit
def center_kernel(
    p_x,
    p_offsets,
    p_mean,
    p_dev,
    M,
    FROM_MEAN: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """mean[b], and for each row but the last of its set dev = x_i - x_last, or x_i - mean in a second pass."""
    M = whole_vectors(M, VECTOR)
    i_set, first, mask = column_block(M, BLOCK)
    lo, hi = set_span(p_offsets, i_set)
    stride = tl.cast(M, tl.int64)
    columns = first + tl.arange(0, BLOCK)
    p_row = p_x + columns
    p_own = p_dev + columns - i_set * stride  # one row fewer for each set before this one
    if FROM_MEAN:
        mean = divide(sum_set(p_row, lo, hi, stride, mask, ACC, BLOCK), hi - lo)
        origin = mean.to(p_mean.dtype.element_ty).to(ACC)
        for i in tl.range(lo, hi - 1, loop_unroll_factor=4):
            dev = tl.load(p_row + i * stride, mask=mask, other=0.0).to(ACC) - origin
            tl.store(p_own + i * stride, dev.to(p_dev.dtype.element_ty), mask=mask)
    else:
        origin = tl.load(p_row + (hi - 1) * stride, mask=mask, other=0.0).to(ACC)
        total = tl.zeros([BLOCK], ACC)
        for start in range(lo, hi, PIECE):
            piece = tl.zeros([BLOCK], ACC)
            end = tl.minimum(start + PIECE, hi)
            for i in tl.range(start, tl.minimum(end, hi - 1), loop_unroll_factor=4):
                x = tl.load(p_row + i * stride, mask=mask, other=0.0).to(ACC)
                tl.store(p_own + i * stride, (x - origin).to(p_dev.dtype.element_ty), mask=mask)
                piece += x
            total += tl.where(end == hi, piece + origin, piece)
        mean = divide(total, hi - lo)
    tl.store(p_mean + i_set * stride + columns, mean.to(p_mean.dtype.element_ty), mask=mask)


@batch_jit
def uncenter_kernel(p_mean, p_dev, p_offsets, p_out, M, ACC: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    """The inverse of center: x_last = mean - sum(dev) / K, x_i = x_last + dev_i."""
    M = whole_vectors(M, VECTOR)
    i_set, first, mask = column_block(M, BLOCK)
    lo, hi = set_span(p_offsets, i_set)
    stride = tl.cast(M, tl.int64)
    columns = first + tl.arange(0, BLOCK)
    p_own = p_dev + columns - i_set * stride
    p_row = p_out + columns
    mean = tl.load(p_mean + i_set * stride + columns, mask=mask, other=0.0).to(ACC)
    last = (mean - divide(sum_set(p_own, lo, hi - 1, stride, mask, ACC, BLOCK), hi - lo)).to(p_out.dtype.element_ty)
    tl.store(p_row + (hi - 1) * stride, last, mask=mask)
    for i in tl.range(lo, hi - 1, loop_unroll_factor=4):
        x = tl.load(p_own + i * stride, mask=mask, other=0.0).to(ACC) + last.to(ACC)
        tl.store(p_row + i * stride, x.to(p_out.dtype.element_ty), mask=mask)


@batch_jit
def set_add_kernel(
    p_y,
    p_t,
    p_slope,
    p_offsets,
    p_ids,
    p_out,
    first_row,
    M,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HAS_Y: tl.constexpr,
    MEAN: tl.constexpr,
    HAS_SLOPE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """out_i = act(y_i + t_b(i) / K), where y, the division and the activation are optional.

    p_y and p_out begin at row first_row. p_slope is [C].
    """
    M = whole_vectors(M, VECTOR)
    i_row, first, mask = column_block(M, BLOCK)
    i_set = tl.load(p_ids + first_row + i_row)
    stride = tl.cast(M, tl.int64)
    columns = first + tl.arange(0, BLOCK)
    x = tl.load(p_t + i_set * stride + columns, mask=mask, other=0.0).to(ACC)
    if MEAN:
        lo, hi = set_span(p_offsets, i_set)
        x = divide(x, hi - lo)
    if HAS_Y:
        x += tl.load(p_y + i_row * stride + columns, mask=mask, other=0.0).to(ACC)
    if HAS_SLOPE:
        if CHANNELS_LAST:
            channel = columns % C
            if C % VECTOR == 0:
                channel = tl.max_contiguous(tl.multiple_of(channel, VECTOR), VECTOR)
        else:
            channel = columns // (M // C)
        x = leaky_relu(x, tl.load(p_slope + channel, mask=mask, other=0.0).to(ACC))
    tl.store(p_out + i_row * stride + columns, x.to(p_out.dtype.element_ty), mask=mask)

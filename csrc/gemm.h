// Matrix multiplication and small dense operations in float32 on the CPU, from which the fused layers are made.
#pragma once
#include <cstdint>

#include "inline.h"

namespace interconv {

constexpr int kVectorWidth = 16;  // floats of a Vec: one AVX-512 register, or several narrower ones
typedef float Vec __attribute__((vector_size(4 * kVectorWidth), aligned(4), may_alias));

IK_INLINE Vec& vec_at(float* p) { return *reinterpret_cast<Vec*>(p); }
IK_INLINE const Vec& vec_at(const float* p) { return *reinterpret_cast<const Vec*>(p); }

inline int64_t round_up(int64_t n, int64_t multiple = kVectorWidth) { return (n + multiple - 1) / multiple * multiple; }

// --- D = A B + C ---

// The microkernel's MR x NR block of D. Its 8 x 2 accumulators take 16 of AVX-512's 32 registers.
constexpr int kMR = 8;
constexpr int kNR = 2 * kVectorWidth;

// A [M, K]: element (i, k) is data[i * row_stride + k * column_stride].
struct MatrixA {
  const float* data;
  int64_t row_stride, column_stride;
};

// B [K, N] in panels of kNR columns: element (k, j) is data[j / kNR * panel_stride + k * row_stride + j % kNR]. Columns
// up to a multiple of kVectorWidth are read.
struct MatrixB {
  const float* data;
  int64_t row_stride, panel_stride;
};

// C [M, N] in row-major order; data = null: zero. Columns up to a multiple of kVectorWidth are read.
struct MatrixC {
  const float* data;
  int64_t row_stride;
};

// D [M, N] in row-major order; it may be C. Each element is summed over k in order, so that its bits depend on neither
// M nor N.
void gemm(int64_t m, int64_t n, int64_t k, MatrixA a, MatrixB b, MatrixC c, float* d, int64_t d_stride);

// --- vectors and tiles (row-major matrices whose rows are `stride` apart) ---

// y [n] += alpha * x.
void axpy(int64_t n, float alpha, const float* x, float* y);

// x [n] /= divisor.
void divide(int64_t n, float divisor, float* x);

// y [n] = slope * y where y < 0.
void leaky_relu(int64_t n, float slope, float* y);

// y [rows, columns] = slopes * y where y < 0, with a slope for each column.
void leaky_relu_tile(int64_t rows, int64_t columns, const float* slopes, float* y, int64_t y_stride);

// y [rows, columns] += x.
void add_tile(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y, int64_t y_stride);

// y [rows, columns] = x, and zero up to a multiple of kVectorWidth columns.
void copy_tile(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y, int64_t y_stride);

// y [columns, rows] = the transpose of x [rows, columns], and zero up to a multiple of kVectorWidth of y's columns.
// Columns of x up to a multiple of kVectorWidth are read.
void transpose_tile(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y, int64_t y_stride);

}  // namespace interconv

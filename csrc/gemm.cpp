#include "gemm.h"

#include <algorithm>
#include <utility>

#include "multiversioning.h"

namespace interconv {
namespace {

// A block of D: M rows and V vectors, of which n columns are stored.
template <int M, int V>
IK_INLINE void microkernel(int64_t k, const float* a, MatrixA a_matrix, const float* b, int64_t b_stride,
                           const float* c, int64_t c_stride, float* d, int64_t d_stride, int64_t n) {
  Vec sum[M][V];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[i][v] = c ? vec_at(c + i * c_stride + v * kVectorWidth) : Vec{};
  }
  for (int64_t j = 0; j < k; ++j, a += a_matrix.column_stride, b += b_stride) {
    Vec b_row[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) b_row[v] = vec_at(b + v * kVectorWidth);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[i][v] += a[i * a_matrix.row_stride] * b_row[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
    if (n >= V * kVectorWidth) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) vec_at(d + i * d_stride + v * kVectorWidth) = sum[i][v];
    } else {
      float row[V * kVectorWidth];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) vec_at(row + v * kVectorWidth) = sum[i][v];
      std::copy_n(row, n, d + i * d_stride);
    }
  }
}

// All rows of one panel: blocks of kMR rows, then smaller ones.
template <int V>
IK_INLINE void multiply_panel(int64_t m, int64_t k, MatrixA a, const float* b, int64_t b_stride, const float* c,
                              int64_t c_stride, float* d, int64_t d_stride, int64_t n) {
  int64_t i = 0;
  const auto blocks_of = [&](auto rows) __attribute__((always_inline)) {
    constexpr int kRows = decltype(rows)::value;
    for (; i + kRows <= m; i += kRows) {
      microkernel<kRows, V>(k, a.data + i * a.row_stride, a, b, b_stride, c ? c + i * c_stride : nullptr, c_stride,
                            d + i * d_stride, d_stride, n);
    }
  };
  blocks_of(std::integral_constant<int, kMR>());
  blocks_of(std::integral_constant<int, 4>());
  blocks_of(std::integral_constant<int, 1>());
}

// One step of the transpose of a square: exchanges the off-diagonal S x S squares of two rows.
template <int S, size_t... I>
IK_INLINE void exchange(Vec& a, Vec& b, std::index_sequence<I...>) {
  const Vec first = a;
  a = __builtin_shufflevector(first, b, ((I & S) ? kVectorWidth + I - S : I)...);
  b = __builtin_shufflevector(first, b, ((I & S) ? kVectorWidth + I : I + S)...);
}

template <int S>
IK_INLINE void exchange_all(Vec (&x)[kVectorWidth]) {
#pragma GCC unroll 16
  for (int i = 0; i < kVectorWidth; ++i) {
    if ((i & S) == 0) exchange<S>(x[i], x[i + S], std::make_index_sequence<kVectorWidth>());
  }
}

}  // namespace

IK_MULTIVERSIONED void gemm(int64_t m, int64_t n, int64_t k, MatrixA a, MatrixB b, MatrixC c, float* d,
                            int64_t d_stride) {
  for (int64_t j = 0; j < n; j += kNR) {
    const float* panel = b.data + j / kNR * b.panel_stride;
    const float* c_panel = c.data ? c.data + j : nullptr;
    if (n - j > kVectorWidth) {
      multiply_panel<2>(m, k, a, panel, b.row_stride, c_panel, c.row_stride, d + j, d_stride, n - j);
    } else {
      multiply_panel<1>(m, k, a, panel, b.row_stride, c_panel, c.row_stride, d + j, d_stride, n - j);
    }
  }
}

IK_MULTIVERSIONED void axpy(int64_t n, float alpha, const float* x, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += alpha * x[i];
}

IK_MULTIVERSIONED void divide(int64_t n, float divisor, float* x) {
  for (int64_t i = 0; i < n; ++i) x[i] /= divisor;
}

IK_MULTIVERSIONED void leaky_relu(int64_t n, float slope, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = y[i] < 0 ? slope * y[i] : y[i];
}

IK_MULTIVERSIONED void leaky_relu_tile(int64_t rows, int64_t columns, const float* slopes, float* y, int64_t y_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = y + r * y_stride;
#pragma GCC ivdep
    for (int64_t c = 0; c < columns; ++c) row[c] = row[c] < 0 ? slopes[c] * row[c] : row[c];
  }
}

IK_MULTIVERSIONED void add_tile(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
                                int64_t y_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) y[r * y_stride + c] += x[r * x_stride + c];
  }
}

IK_MULTIVERSIONED void copy_tile(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
                                 int64_t y_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    float* end = std::copy_n(x + r * x_stride, columns, y + r * y_stride);
    std::fill(end, y + r * y_stride + round_up(columns), 0.0f);
  }
}

IK_MULTIVERSIONED void transpose_tile(int64_t rows, int64_t columns, const float* x, int64_t x_stride, float* y,
                                      int64_t y_stride) {
  for (int64_t r = 0; r < rows; r += kVectorWidth) {
    for (int64_t c = 0; c < columns; c += kVectorWidth) {
      Vec square[kVectorWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kVectorWidth; ++i) square[i] = r + i < rows ? vec_at(x + (r + i) * x_stride + c) : Vec{};
      exchange_all<8>(square);
      exchange_all<4>(square);
      exchange_all<2>(square);
      exchange_all<1>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kVectorWidth; ++i) {
        if (c + i < columns) vec_at(y + (c + i) * y_stride + r) = square[i];
      }
    }
  }
}

}  // namespace interconv

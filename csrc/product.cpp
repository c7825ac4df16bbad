// The bodies of product.h, compiled for each width of vector (clones.h).
#include "product.h"

#include <utility>

#include "clones.h"

namespace interconv {
namespace {

template <int M, int V>
IK_BODY void block(int64_t k, const float* a, Left left, const float* b, int64_t b_row, const float* init,
                   int64_t init_row, float* out, int64_t out_row, int64_t n) {
  Vec acc[M][V];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[i][v] = init ? at(init + i * init_row + v * kLanes) : Vec{};
  }
  for (int64_t j = 0; j < k; ++j, a += left.column, b += b_row) {
    Vec right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) right[v] = at(b + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[i][v] += a[i * left.row] * right[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
    if (n >= V * kLanes) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) at(out + i * out_row + v * kLanes) = acc[i][v];
    } else {
      float row[V * kLanes];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) at(row + v * kLanes) = acc[i][v];
      std::copy_n(row, n, out + i * out_row);
    }
  }
}

template <int V>
IK_BODY void column_of_blocks(int64_t m, int64_t k, Left a, const float* b, int64_t b_row, const float* init,
                              int64_t init_row, float* out, int64_t out_row, int64_t n) {
  int64_t i = 0;
  const auto step = [&](auto rows) __attribute__((always_inline)) {
    constexpr int kHeight = decltype(rows)::value;
    for (; i + kHeight <= m; i += kHeight) {
      block<kHeight, V>(k, a.p + i * a.row, a, b, b_row, init ? init + i * init_row : nullptr, init_row,
                      out + i * out_row, out_row, n);
    }
  };
  step(std::integral_constant<int, kRows>());
  step(std::integral_constant<int, 4>());
  step(std::integral_constant<int, 1>());
}

template <int S, size_t... I>
IK_BODY void exchange(Vec& a, Vec& b, std::index_sequence<I...>) {  // the off-diagonal S x S squares of two rows
  const Vec first = a;
  a = __builtin_shufflevector(first, b, ((I & S) ? kLanes + I - S : I)...);
  b = __builtin_shufflevector(first, b, ((I & S) ? kLanes + I : I + S)...);
}

template <int S>
IK_BODY void exchange_all(Vec (&x)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & S) == 0) exchange<S>(x[i], x[i + S], std::make_index_sequence<kLanes>());
  }
}

}  // namespace

IK_CLONES void multiply(int64_t m, int64_t n, int64_t k, Left a, Right b, Init init, float* out, int64_t out_row) {
  for (int64_t c = 0; c < n; c += kPanel) {
    const float* panel = b.p + c / kPanel * b.panel;
    const float* from = init.p ? init.p + c : nullptr;
    if (n - c > kLanes) {
      column_of_blocks<2>(m, k, a, panel, b.row, from, init.row, out + c, out_row, n - c);
    } else {
      column_of_blocks<1>(m, k, a, panel, b.row, from, init.row, out + c, out_row, n - c);
    }
  }
}

IK_CLONES void copy_tile(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    float* end = std::copy_n(from + r * from_row, columns, to + r * to_row);
    std::fill(end, to + r * to_row + padded(columns), 0.0f);
  }
}

IK_CLONES void add_tile(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[r * to_row + c] += from[r * from_row + c];
  }
}

IK_CLONES void add_scaled(float* to, const float* from, int64_t n, float scale) {
  for (int64_t i = 0; i < n; ++i) to[i] += scale * from[i];
}

IK_CLONES void divide(float* x, int64_t n, float by) {
  for (int64_t i = 0; i < n; ++i) x[i] /= by;
}

IK_CLONES void transpose(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < n; c += kLanes) {
      Vec x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) x[i] = r + i < rows ? at(from + (r + i) * from_row + c) : Vec{};
      exchange_all<8>(x);
      exchange_all<4>(x);
      exchange_all<2>(x);
      exchange_all<1>(x);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (c + i < n) at(to + (c + i) * to_row + r) = x[i];
      }
    }
  }
}

}  // namespace interconv

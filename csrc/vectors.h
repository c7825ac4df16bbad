// Loads and stores of short runs of columns, for the set operations on CPU and GPU.
//
// A run is W values in registers, of which the first n are used. On the GPU n = W: the 16 bytes (or the one element) of
// a thread. On the CPU W is a constant tile width and n its used part.
#pragma once
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

#include "inline.h"

namespace interconv {

// The type of sums: float for float32 and lower precision.
template <typename T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// v = p. On the GPU in explicit 16-byte loads: the compiler does not always merge the elements' loads.
template <int W, typename A, typename T>
IK_INLINE void load(A (&v)[W], const T* p, int n) {
#ifdef __CUDA_ARCH__
  alignas(16) T x[W];
  if constexpr (W > 1) {
    constexpr int kWords = W * int(sizeof(T)) / 16;
    for (int i = 0; i < kWords; ++i) reinterpret_cast<uint4*>(x)[i] = reinterpret_cast<const uint4*>(p)[i];
  } else {
    x[0] = *p;
  }
  for (int j = 0; j < W; ++j) v[j] = static_cast<A>(x[j]);
#else
  for (int j = 0; j < n; ++j) v[j] = static_cast<A>(p[j]);
#endif
}

// v += p. On the CPU in one pass, without the copy that load() would make.
template <int W, typename A, typename T>
IK_INLINE void add(A (&v)[W], const T* p, int n) {
#ifdef __CUDA_ARCH__
  A x[W];
  load(x, p, n);
  for (int j = 0; j < W; ++j) v[j] += x[j];
#else
  for (int j = 0; j < n; ++j) v[j] += static_cast<A>(p[j]);
#endif
}

// p = v, rounded to T.
template <int W, typename A, typename T>
IK_INLINE void store(T* p, const A (&v)[W], int n) {
#ifdef __CUDA_ARCH__
  alignas(16) T x[W];
  for (int j = 0; j < W; ++j) x[j] = static_cast<T>(v[j]);
  if constexpr (W > 1) {
    constexpr int kWords = W * int(sizeof(T)) / 16;
    for (int i = 0; i < kWords; ++i) __stwb(reinterpret_cast<uint4*>(p) + i, reinterpret_cast<uint4*>(x)[i]);
  } else {
    *p = x[0];
  }
#else
  for (int j = 0; j < n; ++j) p[j] = static_cast<T>(v[j]);
#endif
}

// Rows [2M] that hold the own half and the set half concatenated along the channels: blocks of `inner` columns (M in
// NCHW, C in channels_last) that alternate between the halves. The functions take a pointer to the first element of one
// half, and columns c of [M].
struct ConcatRows {
  int64_t inner, columns;
  int64_t thread_offset = 0;  // GPU: offset_of(the thread's column), computed once because it takes a division

  IK_INLINE int64_t offset_of(int64_t c) const { return c / inner * 2 * inner + c % inner; }

  template <int W, typename A, typename T>
  IK_INLINE void load(A (&v)[W], const T* half, int64_t row, int64_t c, int n) const {
#ifdef __CUDA_ARCH__  // the launcher checked that a vector lies within one block
    interconv::load(v, half + row * 2 * columns + thread_offset, n);
#else
    for_each_run(c, n, [&](int j, int64_t offset, int count) __attribute__((always_inline)) {
      const T* p = half + row * 2 * columns + offset;
      for (int i = 0; i < count; ++i) v[j + i] = static_cast<A>(p[i]);
    });
#endif
  }

  template <int W, typename A, typename T>
  IK_INLINE void store(T* half, const A (&v)[W], int64_t row, int64_t c, int n) const {
#ifdef __CUDA_ARCH__
    interconv::store(half + row * 2 * columns + thread_offset, v, n);
#else
    for_each_run(c, n, [&](int j, int64_t offset, int count) __attribute__((always_inline)) {
      T* p = half + row * 2 * columns + offset;
      for (int i = 0; i < count; ++i) p[i] = static_cast<T>(v[j + i]);
    });
#endif
  }

 private:
  // Calls f(j, offset, count) for each run of columns c+j ... c+j+count-1 that are contiguous at `offset` of a row.
  template <class F>
  IK_INLINE void for_each_run(int64_t c, int n, const F& f) const {
    int64_t offset = offset_of(c), left = inner - c % inner;  // of the block
    for (int j = 0; j < n;) {
      const int count = left < n - j ? static_cast<int>(left) : n - j;
      f(j, offset, count);
      j += count;
      offset += count + inner;  // skips the other half's block
      left = inner;
    }
  }
};

}  // namespace interconv

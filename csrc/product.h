// A matrix product and moves of tiles, for float32 on the CPU: what pointwise.cpp and winograd.cpp are made of.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>

#include "kernels.h"

namespace interconv {

constexpr int kLanes = 16;  // of a vector: one AVX-512 register, several of narrower machines
constexpr int kPanel = 2 * kLanes;  // columns, and kRows rows, of what a product holds in registers
constexpr int kRows = 8;
typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline int64_t padded(int64_t n, int64_t to = kLanes) { return (n + to - 1) / to * to; }

struct Free {
  void operator()(float* p) const { ::operator delete(p, std::align_val_t(64)); }
};
using Buffer = std::unique_ptr<float[], Free>;

inline Buffer allocate(int64_t floats) {
  return Buffer(static_cast<float*>(::operator new(std::max<int64_t>(1, floats) * sizeof(float), std::align_val_t(64))));
}

IK_BODY Vec& at(float* p) { return *reinterpret_cast<Vec*>(p); }
IK_BODY const Vec& at(const float* p) { return *reinterpret_cast<const Vec*>(p); }

// --- the matrix product: out [m, n] = init [m, n] + a [m, k] b [k, n] -------------------------------------------------

struct Left {  // a(i, j) = p[i row + j column]
  const float* p;
  int64_t row, column;
};
struct Right {  // b(j, c) = p[c / kPanel panel + j row + c % kPanel], readable up to a multiple of kLanes columns
  const float* p;
  int64_t row, panel;
};
struct Init {  // null: zero; readable up to a multiple of kLanes columns
  const float* p;
  int64_t row;
};

void multiply(int64_t m, int64_t n, int64_t k, Left a, Right b, Init init, float* out, int64_t out_row);

// --- moving tiles -----------------------------------------------------------------------------------------------------

// to [rows, to_row] = from [rows, columns], zero up to a multiple of kLanes columns.
void copy_tile(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t columns);

// to [rows, columns] += from.
void add_tile(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t columns);

void add_scaled(float* to, const float* from, int64_t n, float scale);

void divide(float* x, int64_t n, float by);

// to [n, to_row] = the transpose of from [rows, from_row] (readable up to a multiple of kLanes columns), zero up to a
// multiple of kLanes rows.
void transpose(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t n);

// --- work in parallel -------------------------------------------------------------------------------------------------

// f(task, scratch) for the tasks 0 ... count-1 on torch's threads, each with scratch floats of its own; a thread takes
// the next task when it is done with one, so that none waits long for another. Tasks must not depend on who does them.
template <class F>
void for_tasks(int64_t count, int64_t scratch, const F& f) {
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (threads == 0) return;
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    const Buffer buffer = allocate(scratch);
    for (int64_t task = next++; task < count; task = next++) f(task, buffer.get());
  });
}

// How many chunks `count` pieces of work make: enough for many threads, but their sums, `numel` floats each, are to be
// small beside the `traffic`, the floats that are read.
inline int64_t chunks_of(int64_t count, int64_t traffic, int64_t numel) {
  return std::clamp<int64_t>(traffic / (8 * numel), 1, std::clamp<int64_t>(count, 1, 64));
}

// f(i, chunk, first, end, scratch) for i = 0 ... count-1 in chunks, a chunk's in order: for sums of a chunk's own. Chunks
// must be fixed by shapes, so that the sums are; where that leaves threads without work, they share a chunk's `columns`
// (first ... end-1), which no bit depends on.
template <class F>
void for_chunks(int64_t count, int64_t chunks, int64_t columns, int64_t scratch, const F& f) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t groups = std::clamp<int64_t>((threads + chunks - 1) / chunks, 1, columns);
  for_tasks(chunks * groups, scratch, [&](int64_t task, float* buffer) {
    const int64_t chunk = task / groups, group = task % groups;
    const int64_t first = columns * group / groups, end = columns * (group + 1) / groups;
    for (int64_t i = count * chunk / chunks; i < count * (chunk + 1) / chunks; ++i) f(i, chunk, first, end, buffer);
  });
}

}  // namespace interconv

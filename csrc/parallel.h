// Scratch memory, and work on torch's threads, for the fused layers on the CPU.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>

namespace interconv {

struct AlignedDelete {
  static constexpr std::align_val_t kAlignment{64};  // a cache line, and an AVX-512 vector
  void operator()(float* p) const { ::operator delete(p, kAlignment); }
};
using Buffer = std::unique_ptr<float[], AlignedDelete>;

inline Buffer allocate(int64_t count) {
  const int64_t bytes = std::max<int64_t>(1, count) * sizeof(float);
  return Buffer(static_cast<float*>(::operator new(bytes, AlignedDelete::kAlignment)));
}

inline Buffer allocate_zeros(int64_t count) {
  Buffer buffer = allocate(count);
  std::fill_n(buffer.get(), count, 0.0f);
  return buffer;
}

// Calls f(task, scratch) for the tasks 0 ... count-1, with `scratch_floats` floats for each thread. A thread takes the
// next task when it has finished one, so that none waits long for another. Results must not depend on which thread runs
// a task.
template <class F>
void for_tasks(int64_t count, int64_t scratch_floats, const F& f) {
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (threads == 0) return;
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    const Buffer scratch = allocate(scratch_floats);
    for (int64_t task = next++; task < count; task = next++) f(task, scratch.get());
  });
}

// The number of chunks of a reduction over `count` items that reads `floats_read` floats and makes sums of `sum_floats`
// floats. It follows from shapes alone, so that bits do not depend on the number of threads. Enough for many threads
// (up to 64), but writing and adding up the chunks' sums should take at most about 1/8 of the memory traffic.
inline int64_t num_chunks(int64_t count, int64_t floats_read, int64_t sum_floats) {
  return std::clamp<int64_t>(floats_read / (8 * sum_floats), 1, std::clamp<int64_t>(count, 1, 64));
}

// Calls f(i, chunk, begin, end, scratch) for the items i = 0 ... count-1, divided into chunks; the items of a chunk in
// order, so that f may add to sums of the chunk. With more threads than chunks, threads share a chunk's `columns`: each
// call is for the columns begin ... end-1, and no bit of a column may depend on how they are divided.
template <class F>
void for_chunks(int64_t count, int64_t chunks, int64_t columns, int64_t scratch_floats, const F& f) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t groups = std::clamp<int64_t>((threads + chunks - 1) / chunks, 1, columns);
  for_tasks(chunks * groups, scratch_floats, [&](int64_t task, float* scratch) {
    const int64_t chunk = task / groups, group = task % groups;
    const int64_t begin = columns * group / groups, end = columns * (group + 1) / groups;
    for (int64_t i = count * chunk / chunks; i < count * (chunk + 1) / chunks; ++i) f(i, chunk, begin, end, scratch);
  });
}

}  // namespace interconv

// How a set operation (set_ops.h) runs: short sets in one phase; long sets in three, over chunks, sets and chunks.
//
// A phase is a functor run<W>(group, c, n) for the columns c ... c+n-1 of one group: a set or a chunk's slot (sets.h).
// The launchers (cpu.cpp, cuda.cu) run it for all groups and columns, in parallel and in any order.
#pragma once
#include "set_ops.h"

namespace interconv {

template <class Op>
struct Phase {
  using Scalar = typename Op::Scalar;
  using Sum = acc_t<Scalar>;
  Op op;
  SetIndex sets;
  Sum* chunk_sums;  // [slots, M]; null for ShortSets

  // The operation, prepared for the column c.
  IK_INLINE Op op_at(int64_t c) const {
    Op prepared = op;
    if constexpr (requires { prepared.concat; }) prepared.concat.thread_offset = prepared.concat.offset_of(c);
    return prepared;
  }

  template <int W>
  IK_INLINE static void sum_rows(Sum (&sum)[W], const Op& op, const Set& set, int64_t begin, int64_t end, int64_t c,
                                 int n) {
    for (int j = 0; j < n; ++j) sum[j] = 0;
#ifdef __CUDA_ARCH__
#pragma unroll 4
#endif
    for (int64_t row = begin; row < end; ++row) op.accumulate(sum, set, row, c, n);
  }

  IK_INLINE Sum* sum_of(int64_t slot, int64_t c) const { return chunk_sums + slot * op.columns + c; }
  // The total of a long set takes the place of its first chunk's sum.
  IK_INLINE Sum* total_of(const Set& set, int64_t c) const { return sum_of(SetIndex::slot_of(set, set.begin), c); }
};

template <class Op>
struct ShortSets : Phase<Op> {  // group: a set
  template <int W>
  IK_INLINE void run(int64_t b, int64_t c, int n) const {
    const Set set = this->sets[b];
    if (set.is_long()) return;
    const Op op = this->op_at(c);
    acc_t<typename Op::Scalar> sum[W];
    this->sum_rows(sum, op, set, set.begin, set.end, c, n);
    op.write(sum, set, set.begin, set.end, c, n);
  }
};

template <class Op>
struct SumChunks : Phase<Op> {  // group: a slot
  template <int W>
  IK_INLINE void run(int64_t slot, int64_t c, int n) const {
    const Chunk chunk = this->sets.chunk_of(slot);
    if (!chunk.exists()) return;
    acc_t<typename Op::Scalar> sum[W];
    this->sum_rows(sum, this->op_at(c), chunk.set, chunk.begin, chunk.end, c, n);
    store(this->sum_of(slot, c), sum, n);
  }
};

template <class Op>
struct SumTotals : Phase<Op> {  // group: a set
  template <int W>
  IK_INLINE void run(int64_t b, int64_t c, int n) const {
    const Set set = this->sets[b];
    if (!set.is_long()) return;
    acc_t<typename Op::Scalar> total[W];
    for (int j = 0; j < n; ++j) total[j] = 0;
    for (int64_t begin = set.begin; begin < set.end; begin += kChunk) {
      add(total, this->sum_of(SetIndex::slot_of(set, begin), c), n);
    }
    store(this->total_of(set, c), total, n);
  }
};

template <class Op>
struct WriteChunks : Phase<Op> {  // group: a slot
  template <int W>
  IK_INLINE void run(int64_t slot, int64_t c, int n) const {
    const Chunk chunk = this->sets.chunk_of(slot);
    if (!chunk.exists()) return;
    acc_t<typename Op::Scalar> total[W];
    load(total, this->total_of(chunk.set, c), n);
    this->op_at(c).write(total, chunk.set, chunk.begin, chunk.end, c, n);
  }
};

}  // namespace interconv

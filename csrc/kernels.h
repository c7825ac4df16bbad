// The body of every kernel, written once for CPU and GPU. Contracts: interconv_kernels/ops.py.
//
// A kernel is a functor f<W>(g, c, n): group g (a set, a piece of a set, or a sample), columns c ... c+n-1 of the rows
// [N, M]. Columns never mix, so a row is the flat memory of a sample in either memory format. On the GPU n = W, the 16
// bytes (or one element) of a thread; on the CPU W is a tile and n its used part.
#pragma once
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define IK_BODY __host__ __device__ __forceinline__
#else
#define IK_BODY inline __attribute__((always_inline))
#endif

namespace interconv {

// Sets longer than this are summed in pieces of this many samples, then piece by piece: always in the same order,
// counted from the set's own first sample, whatever the device, the threads and the set's place in the batch.
constexpr int64_t kPiece = 64;

template <typename T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// On the GPU 16 bytes at a time, spelled out: the compiler does not always join the parts.
template <int W, typename A, typename T>
IK_BODY void load(A (&v)[W], const T* p, int n) {
#ifdef __CUDA_ARCH__
  alignas(16) T x[W];
  if constexpr (W > 1) {
    for (int i = 0; i < W * int(sizeof(T)) / 16; ++i) reinterpret_cast<uint4*>(x)[i] = reinterpret_cast<const uint4*>(p)[i];
  } else {
    x[0] = *p;
  }
  for (int j = 0; j < W; ++j) v[j] = static_cast<A>(x[j]);
#else
  for (int j = 0; j < n; ++j) v[j] = static_cast<A>(p[j]);
#endif
}

// sum += p: on the CPU in one pass, without a copy in between.
template <int W, typename A, typename T>
IK_BODY void accumulate(A (&sum)[W], const T* p, int n) {
#ifdef __CUDA_ARCH__
  A v[W];
  load(v, p, n);
  for (int j = 0; j < W; ++j) sum[j] += v[j];
#else
  for (int j = 0; j < n; ++j) sum[j] += static_cast<A>(p[j]);
#endif
}

template <int W, typename A, typename T>
IK_BODY void store(T* p, const A (&v)[W], int n) {
#ifdef __CUDA_ARCH__
  alignas(16) T x[W];
  for (int j = 0; j < W; ++j) x[j] = static_cast<T>(v[j]);
  if constexpr (W > 1) {
    for (int i = 0; i < W * int(sizeof(T)) / 16; ++i) __stwb(reinterpret_cast<uint4*>(p) + i, reinterpret_cast<uint4*>(x)[i]);
  } else {
    *p = x[0];
  }
#else
  for (int j = 0; j < n; ++j) p[j] = static_cast<T>(v[j]);
#endif
}

// One half of rows [N, 2M] that hold [own | set] along the channels: blocks of `inner` columns (M in NCHW, C in
// channels_last), own and set by turns.
struct Halves {
  int64_t inner, columns;
  int64_t place = 0;  // where the thread's column lies in a row: found once, since it takes a division

  IK_BODY int64_t at(int64_t c) const { return c / inner * 2 * inner + c % inner; }

  template <int W, typename A, typename T>
  IK_BODY void load(A (&v)[W], const T* half, int64_t row, int64_t c, int n) const {
#ifdef __CUDA_ARCH__  // a vector lies in one block: the launcher checked
    interconv::load(v, half + row * 2 * columns + place, n);
#else
    for (int j = 0; j < n;) {
      const T* p = half + row * 2 * columns + at(c + j);
      for (int64_t left = inner - (c + j) % inner; left > 0 && j < n; --left) v[j++] = static_cast<A>(*p++);
    }
#endif
  }

  template <int W, typename A, typename T>
  IK_BODY void store(T* half, const A (&v)[W], int64_t row, int64_t c, int n) const {
#ifdef __CUDA_ARCH__
    interconv::store(half + row * 2 * columns + place, v, n);
#else
    for (int j = 0; j < n;) {
      T* p = half + row * 2 * columns + at(c + j);
      for (int64_t left = inner - (c + j) % inner; left > 0 && j < n; --left) *p++ = static_cast<T>(v[j++]);
    }
#endif
  }
};

// --- the operations: take() reads one sample into the set's sum, give() writes what follows from the sum -------------

struct Span {
  int64_t b, lo, hi;  // set b holds the samples lo ... hi-1

  template <typename A>
  IK_BODY A share() const {  // 1/K; an empty set's sum is zero whatever it is multiplied by
    return hi > lo ? A(1) / A(hi - lo) : A(1);
  }
};

template <class Op>
IK_BODY Op placed(Op op, int64_t c) {
  if constexpr (requires { op.halves; }) op.halves.place = op.halves.at(c);
  return op;
}

template <typename T>
struct Reduce {
  using Scalar = T;
  const T* x;
  T* out;
  int64_t columns;
  bool mean;

  template <int W>
  IK_BODY void take(acc_t<T> (&sum)[W], const Span&, int64_t row, int64_t c, int n) const {
    accumulate(sum, x + row * columns + c, n);
  }

  template <int W>
  IK_BODY void give(const acc_t<T> (&sum)[W], const Span& set, int64_t first, int64_t, int64_t c, int n) const {
    if (first != set.lo) return;  // once a set, and for an empty one too
    const acc_t<T> scale = mean ? set.template share<acc_t<T>>() : acc_t<T>(1);
    acc_t<T> v[W];
    for (int j = 0; j < n; ++j) v[j] = sum[j] * scale;
    store(out + set.b * columns + c, v, n);
  }
};

template <typename T>
struct Concat {
  using Scalar = T;
  const T* u;
  T* out;  // [N, 2M]
  int64_t columns;
  Halves halves;

  template <int W>
  IK_BODY void take(acc_t<T> (&sum)[W], const Span&, int64_t row, int64_t c, int n) const {
    acc_t<T> v[W];
    load(v, u + row * columns + c, n);
    halves.store(out, v, row, c, n);
    for (int j = 0; j < n; ++j) sum[j] += v[j];
  }

  template <int W>
  IK_BODY void give(const acc_t<T> (&sum)[W], const Span& set, int64_t first, int64_t end, int64_t c, int n) const {
    const auto share = set.template share<acc_t<T>>();
    acc_t<T> v[W];
    for (int j = 0; j < n; ++j) v[j] = sum[j] * share;
    for (int64_t row = first; row < end; ++row) halves.store(out + halves.inner, v, row, c, n);
  }
};

template <typename T>
struct ConcatBackward {
  using Scalar = T;
  const T* g;  // [N, 2M]
  T* out;
  int64_t columns;
  Halves halves;

  template <int W>
  IK_BODY void take(acc_t<T> (&sum)[W], const Span&, int64_t row, int64_t c, int n) const {
    acc_t<T> v[W];
    halves.load(v, g + halves.inner, row, c, n);
    for (int j = 0; j < n; ++j) sum[j] += v[j];
  }

  template <int W>
  IK_BODY void give(const acc_t<T> (&sum)[W], const Span& set, int64_t first, int64_t end, int64_t c, int n) const {
    const auto share = set.template share<acc_t<T>>();
    for (int64_t row = first; row < end; ++row) {
      acc_t<T> v[W];
      halves.load(v, g, row, c, n);
      for (int j = 0; j < n; ++j) v[j] += sum[j] * share;
      store(out + row * columns + c, v, n);
    }
  }
};

template <typename T>
struct Center {
  using Scalar = T;
  const T* x;
  T* mean;
  T* dev;  // [N-B, M]: set b lacks its last sample, so b samples are missing before it
  int64_t columns;
  bool from_mean;

  template <int W>
  IK_BODY void take(acc_t<T> (&sum)[W], const Span& set, int64_t row, int64_t c, int n) const {
    acc_t<T> v[W];
    load(v, x + row * columns + c, n);
    for (int j = 0; j < n; ++j) sum[j] += v[j];
    if (from_mean || row == set.hi - 1) return;
    acc_t<T> last[W];
    load(last, x + (set.hi - 1) * columns + c, n);
    for (int j = 0; j < n; ++j) v[j] -= last[j];
    store(dev + (row - set.b) * columns + c, v, n);
  }

  template <int W>
  IK_BODY void give(const acc_t<T> (&sum)[W], const Span& set, int64_t first, int64_t end, int64_t c, int n) const {
    const auto share = set.template share<acc_t<T>>();
    acc_t<T> m[W];
    for (int j = 0; j < n; ++j) m[j] = sum[j] * share;
    if (first == set.lo) store(mean + set.b * columns + c, m, n);
    if (!from_mean) return;
    for (int64_t row = first; row < end && row < set.hi - 1; ++row) {
      acc_t<T> v[W];
      load(v, x + row * columns + c, n);
      for (int j = 0; j < n; ++j) v[j] -= m[j];
      store(dev + (row - set.b) * columns + c, v, n);
    }
  }
};

template <typename T>
struct Uncenter {
  using Scalar = T;
  const T* mean;
  const T* dev;
  T* out;
  int64_t columns;

  template <int W>
  IK_BODY void take(acc_t<T> (&sum)[W], const Span& set, int64_t row, int64_t c, int n) const {
    if (row == set.hi - 1) return;
    accumulate(sum, dev + (row - set.b) * columns + c, n);
  }

  template <int W>
  IK_BODY void give(const acc_t<T> (&sum)[W], const Span& set, int64_t first, int64_t end, int64_t c, int n) const {
    const auto share = set.template share<acc_t<T>>();
    acc_t<T> last[W];
    load(last, mean + set.b * columns + c, n);
    for (int j = 0; j < n; ++j) last[j] -= sum[j] * share;
    for (int64_t row = first; row < end; ++row) {
      if (row == set.hi - 1) {
        store(out + row * columns + c, last, n);
        continue;
      }
      acc_t<T> v[W];
      load(v, dev + (row - set.b) * columns + c, n);
      for (int j = 0; j < n; ++j) v[j] += last[j];
      store(out + row * columns + c, v, n);
    }
  }
};

// --- how an operation runs: short sets in one launch; long ones as pieces, totals, pieces ----------------------------

struct SetIndex {
  const int32_t* offsets;
  const int32_t* set_ids;
  int64_t num_sets, num_rows;

  IK_BODY Span span(int64_t b) const { return {b, offsets[b], offsets[b + 1]}; }
  IK_BODY static bool is_long(const Span& set) { return set.hi - set.lo > kPiece; }

  // Two slots for each kPiece rows of the packed batch hold every piece of every long set, without reading the set
  // sizes on the host: slot 2q is for the one piece that starts there and belongs to the set of row q kPiece; slot
  // 2q + 1 for the first piece of a long set that starts between that row and the next such row, which it reaches.
  int64_t num_slots() const { return (num_rows + kPiece - 1) / kPiece * 2; }

  IK_BODY static int64_t slot(const Span& set, int64_t first) {
    return first / kPiece * 2 + (first == set.lo && first % kPiece != 0);
  }

  // The first sample of the piece in a slot, and its set; -1 for a slot that is not used.
  IK_BODY int64_t piece(int64_t slot, Span& set) const {
    int64_t row = slot / 2 * kPiece;
    if (slot % 2 == 0) {
      set = span(set_ids[row]);
      const int64_t first = set.lo + (row - set.lo + kPiece - 1) / kPiece * kPiece;
      return is_long(set) && first < set.hi ? first : -1;
    }
    if (row + kPiece >= num_rows) return -1;
    set = span(set_ids[row + kPiece]);
    return is_long(set) && set.lo > row && set.lo < row + kPiece ? set.lo : -1;
  }
};

IK_BODY int64_t piece_end(const Span& set, int64_t first) { return first + kPiece < set.hi ? first + kPiece : set.hi; }

template <int W, class Op>
IK_BODY void sum_rows(
    acc_t<typename Op::Scalar> (&sum)[W], const Op& op, const Span& set, int64_t first, int64_t end, int64_t c, int n) {
  for (int j = 0; j < n; ++j) sum[j] = 0;
#ifdef __CUDA_ARCH__
#pragma unroll 4
#endif
  for (int64_t row = first; row < end; ++row) op.take(sum, set, row, c, n);
}

template <class Op>
struct ShortSets {  // group: a set
  using Scalar = typename Op::Scalar;
  Op op;
  SetIndex sets;

  template <int W>
  IK_BODY void run(int64_t b, int64_t c, int n) const {
    const Span set = sets.span(b);
    if (SetIndex::is_long(set)) return;
    const Op here = placed(op, c);
    acc_t<Scalar> sum[W];
    sum_rows(sum, here, set, set.lo, set.hi, c, n);
    here.give(sum, set, set.lo, set.hi, c, n);
  }
};

template <class Op>
struct PieceSums {  // group: a slot
  using Scalar = typename Op::Scalar;
  Op op;
  SetIndex sets;
  acc_t<Scalar>* sums;  // [slots, M]

  template <int W>
  IK_BODY void run(int64_t slot, int64_t c, int n) const {
    Span set;
    const int64_t first = sets.piece(slot, set);
    if (first < 0) return;
    const Op here = placed(op, c);
    acc_t<Scalar> sum[W];
    sum_rows(sum, here, set, first, piece_end(set, first), c, n);
    store(sums + slot * op.columns + c, sum, n);
  }
};

template <class Op>
struct Totals {  // group: a set; its total replaces its first piece's sum
  using Scalar = typename Op::Scalar;
  Op op;
  SetIndex sets;
  acc_t<Scalar>* sums;

  template <int W>
  IK_BODY void run(int64_t b, int64_t c, int n) const {
    const Span set = sets.span(b);
    if (!SetIndex::is_long(set)) return;
    acc_t<Scalar> sum[W];
    for (int j = 0; j < n; ++j) sum[j] = 0;
    for (int64_t first = set.lo; first < set.hi; first += kPiece) {
      acc_t<Scalar> piece[W];
      load(piece, sums + SetIndex::slot(set, first) * op.columns + c, n);
      for (int j = 0; j < n; ++j) sum[j] += piece[j];
    }
    store(sums + SetIndex::slot(set, set.lo) * op.columns + c, sum, n);
  }
};

template <class Op>
struct GivePieces {  // group: a slot
  using Scalar = typename Op::Scalar;
  Op op;
  SetIndex sets;
  const acc_t<Scalar>* sums;

  template <int W>
  IK_BODY void run(int64_t slot, int64_t c, int n) const {
    Span set;
    const int64_t first = sets.piece(slot, set);
    if (first < 0) return;
    const Op here = placed(op, c);
    acc_t<Scalar> total[W];
    load(total, sums + SetIndex::slot(set, set.lo) * op.columns + c, n);
    here.give(total, set, first, piece_end(set, first), c, n);
  }
};

template <typename T>
struct AddRows {  // group: a sample of y and out, which hold the samples from first_row on
  using Scalar = T;
  const T* y;  // or null: zero
  const T* t;
  T* out;
  int64_t columns, first_row;
  bool mean;
  SetIndex sets;

  template <int W>
  IK_BODY void run(int64_t row, int64_t c, int n) const {
    const Span set = sets.span(sets.set_ids[first_row + row]);
    const acc_t<T> scale = mean ? set.template share<acc_t<T>>() : acc_t<T>(1);
    const T* own = y ? y + row * columns + c : nullptr;
    const T* term = t + set.b * columns + c;
    T* to = out + row * columns + c;
#ifdef __CUDA_ARCH__
    acc_t<T> v[W];
    load(v, term, n);
    for (int j = 0; j < W; ++j) v[j] *= scale;
    if (own) {
      acc_t<T> o[W];
      load(o, own, n);
      for (int j = 0; j < W; ++j) v[j] += o[j];
    }
    store(to, v, n);
#else  // `to` may be `own`, element for element: no iteration reads what another wrote
    if (own) {
#pragma GCC ivdep
      for (int j = 0; j < n; ++j) to[j] = static_cast<T>(acc_t<T>(own[j]) + acc_t<T>(term[j]) * scale);
    } else {
#pragma GCC ivdep
      for (int j = 0; j < n; ++j) to[j] = static_cast<T>(acc_t<T>(term[j]) * scale);
    }
#endif
  }
};

}  // namespace interconv

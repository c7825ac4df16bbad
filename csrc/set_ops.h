// The set operations, written once for CPU and GPU. Their contract: interconv_kernels/ops.py.
//
// A sample is a row of M columns: its flat memory, in either memory format, since columns are independent of each
// other. Each operation makes two passes over the samples of a set, for the columns c ... c+n-1:
//   accumulate(sum, set, row, c, n)         adds what the sample `row` contributes to the set's sum
//   write(sum, set, begin, end, c, n)       writes what follows from the sum, for the samples begin ... end-1
// set_phases.h runs them; accumulate() may already write what depends on the sample alone.
#pragma once
#include "sets.h"

namespace interconv {

// out[b] = the sum or the mean of the samples of set b.
template <typename T>
struct Reduce {
  using Scalar = T;
  const T* x;
  T* out;  // [B, M]
  int64_t columns;
  bool mean;

  template <int W>
  IK_INLINE void accumulate(acc_t<T> (&sum)[W], const Set&, int64_t row, int64_t c, int n) const {
    add(sum, x + row * columns + c, n);
  }

  template <int W>
  IK_INLINE void write(const acc_t<T> (&sum)[W], const Set& set, int64_t begin, int64_t, int64_t c, int n) const {
    if (begin != set.begin) return;  // once per set, empty sets included
    const acc_t<T> scale = mean ? set.template inverse_size<acc_t<T>>() : acc_t<T>(1);
    acc_t<T> v[W];
    for (int j = 0; j < n; ++j) v[j] = sum[j] * scale;
    store(out + set.b * columns + c, v, n);
  }
};

// out_i = [u_i | s], the concatenation with the set mean along the channels.
template <typename T>
struct Concat {
  using Scalar = T;
  const T* u;
  T* out;  // [N, 2M]
  int64_t columns;
  ConcatRows concat;

  template <int W>
  IK_INLINE void accumulate(acc_t<T> (&sum)[W], const Set&, int64_t row, int64_t c, int n) const {
    acc_t<T> v[W];
    load(v, u + row * columns + c, n);
    concat.store(out, v, row, c, n);
    for (int j = 0; j < n; ++j) sum[j] += v[j];
  }

  template <int W>
  IK_INLINE void write(const acc_t<T> (&sum)[W], const Set& set, int64_t begin, int64_t end, int64_t c, int n) const {
    const auto scale = set.template inverse_size<acc_t<T>>();
    acc_t<T> v[W];
    for (int j = 0; j < n; ++j) v[j] = sum[j] * scale;
    for (int64_t row = begin; row < end; ++row) concat.store(out + concat.inner, v, row, c, n);
  }
};

// The gradient of Concat: out_i = own half of g_i + the mean of the set's set halves.
template <typename T>
struct ConcatBackward {
  using Scalar = T;
  const T* g;  // [N, 2M]
  T* out;
  int64_t columns;
  ConcatRows concat;

  template <int W>
  IK_INLINE void accumulate(acc_t<T> (&sum)[W], const Set&, int64_t row, int64_t c, int n) const {
    acc_t<T> v[W];
    concat.load(v, g + concat.inner, row, c, n);
    for (int j = 0; j < n; ++j) sum[j] += v[j];
  }

  template <int W>
  IK_INLINE void write(const acc_t<T> (&sum)[W], const Set& set, int64_t begin, int64_t end, int64_t c, int n) const {
    const auto scale = set.template inverse_size<acc_t<T>>();
    for (int64_t row = begin; row < end; ++row) {
      acc_t<T> v[W];
      concat.load(v, g, row, c, n);
      for (int j = 0; j < n; ++j) v[j] += sum[j] * scale;
      store(out + row * columns + c, v, n);
    }
  }
};

// mean[b] = the set mean; deviations = x_i - x_K, or x_i - mean with `from_mean`, for every sample i but the set's
// last.
template <typename T>
struct Center {
  using Scalar = T;
  const T* x;
  T* mean;        // [B, M]
  T* deviations;  // [N-B, M]: each set before set b lacks one sample, so sample i of set b is row i - b
  int64_t columns;
  bool from_mean;

  template <int W>
  IK_INLINE void accumulate(acc_t<T> (&sum)[W], const Set& set, int64_t row, int64_t c, int n) const {
    acc_t<T> v[W];
    load(v, x + row * columns + c, n);
    for (int j = 0; j < n; ++j) sum[j] += v[j];
    if (from_mean || row == set.last()) return;
    acc_t<T> last[W];
    load(last, x + set.last() * columns + c, n);
    for (int j = 0; j < n; ++j) v[j] -= last[j];
    store(deviations + (row - set.b) * columns + c, v, n);
  }

  template <int W>
  IK_INLINE void write(const acc_t<T> (&sum)[W], const Set& set, int64_t begin, int64_t end, int64_t c, int n) const {
    const auto scale = set.template inverse_size<acc_t<T>>();
    acc_t<T> m[W];
    for (int j = 0; j < n; ++j) m[j] = sum[j] * scale;
    if (begin == set.begin) store(mean + set.b * columns + c, m, n);
    if (!from_mean) return;
    for (int64_t row = begin; row < end && row < set.last(); ++row) {
      acc_t<T> v[W];
      load(v, x + row * columns + c, n);
      for (int j = 0; j < n; ++j) v[j] -= m[j];
      store(deviations + (row - set.b) * columns + c, v, n);
    }
  }
};

// The inverse of Center: out_K = mean - (1/K) sum of the deviations from it, out_i = out_K + deviation_i.
template <typename T>
struct Uncenter {
  using Scalar = T;
  const T* mean;        // [B, M]
  const T* deviations;  // [N-B, M]
  T* out;
  int64_t columns;

  template <int W>
  IK_INLINE void accumulate(acc_t<T> (&sum)[W], const Set& set, int64_t row, int64_t c, int n) const {
    if (row == set.last()) return;
    add(sum, deviations + (row - set.b) * columns + c, n);
  }

  template <int W>
  IK_INLINE void write(const acc_t<T> (&sum)[W], const Set& set, int64_t begin, int64_t end, int64_t c, int n) const {
    const auto scale = set.template inverse_size<acc_t<T>>();
    acc_t<T> last[W];
    load(last, mean + set.b * columns + c, n);
    for (int j = 0; j < n; ++j) last[j] -= sum[j] * scale;
    for (int64_t row = begin; row < end; ++row) {
      if (row == set.last()) {
        store(out + row * columns + c, last, n);
        continue;
      }
      acc_t<T> v[W];
      load(v, deviations + (row - set.b) * columns + c, n);
      for (int j = 0; j < n; ++j) v[j] += last[j];
      store(out + row * columns + c, v, n);
    }
  }
};

// out_i = y_i + t_b, or y_i + t_b / K with `mean`. Not a reduction, so it is a functor as in set_phases.h itself.
template <typename T>
struct AddSetTerm {  // group: a sample of y and out, which hold the samples from first_row on
  using Scalar = T;
  const T* y;  // null: zero
  const T* t;  // [B, M]
  T* out;
  int64_t columns, first_row;
  bool mean;
  SetIndex sets;

  template <int W>
  IK_INLINE void run(int64_t row, int64_t c, int n) const {
    const Set set = sets[sets.set_ids[first_row + row]];
    const acc_t<T> scale = mean ? set.template inverse_size<acc_t<T>>() : acc_t<T>(1);
    const T* own = y ? y + row * columns + c : nullptr;
    const T* term = t + set.b * columns + c;
    T* to = out + row * columns + c;
#ifdef __CUDA_ARCH__
    acc_t<T> v[W];
    load(v, term, n);
    for (int j = 0; j < W; ++j) v[j] *= scale;
    if (own) add(v, own, n);
    store(to, v, n);
#else  // `to` may be `own`, element for element, so no iteration reads what another one wrote
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

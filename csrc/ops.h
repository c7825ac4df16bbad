// The ops on stable-ABI tensors: checks, dtypes and phases, shared by the devices. A Device has
//   launch(functor, groups, columns, vectors)   run it for all groups and columns; vectors: 16-byte access is safe
//   may_be_long(index)                          false only if no set is longer than kPiece
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <optional>

#include "kernels.h"

namespace interconv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class F>
void for_dtype(const Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return f(double());
    case ScalarType::Float: return f(float());
    case ScalarType::BFloat16: return f(c10::BFloat16());
    case ScalarType::Half: return f(c10::Half());
    default: break;
  }
  STD_TORCH_CHECK(false, "dtype number ", static_cast<int>(x.scalar_type()),
                  ": expected float64, float32, bfloat16 or float16");
}

inline int64_t columns_of(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 2 && x.is_contiguous(), name, " has ", x.dim(), " dimensions",
                  x.is_contiguous() ? "" : " and gaps", ": expected dense rows [N, M]");
  return x.size(1);
}

inline void check(const Tensor& x, const char* name, int64_t rows, int64_t columns, const Tensor& like) {
  STD_TORCH_CHECK(columns_of(x, name) == columns && x.size(0) == rows, name, " is [", x.size(0), ", ", x.size(1),
                  "]: expected [", rows, ", ", columns, "]");
  STD_TORCH_CHECK(x.scalar_type() == like.scalar_type() && x.device() == like.device(), name,
                  ": expected the dtype and the device of the other tensors");
}

inline SetIndex index_of(const Tensor& offsets, const Tensor& set_ids, const Tensor& like) {
  for (const Tensor* x : {&offsets, &set_ids}) {
    STD_TORCH_CHECK(x->scalar_type() == ScalarType::Int && x->dim() == 1 && x->is_contiguous() &&
                        x->device() == like.device(),
                    "offsets and set_ids: expected int32 vectors without gaps, on the device of the other tensors");
  }
  STD_TORCH_CHECK(offsets.size(0) >= 1, "offsets are empty: expected B+1 of them");
  return {static_cast<const int32_t*>(offsets.const_data_ptr()),
          static_cast<const int32_t*>(set_ids.const_data_ptr()), offsets.size(0) - 1, set_ids.size(0)};
}

// 16-byte access: every row of every tensor starts at a multiple of 16 bytes, and so does every block of `inner` columns.
inline bool vectors(std::initializer_list<const void*> pointers, int64_t inner, size_t element) {
  for (const void* p : pointers) {
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return false;
  }
  return inner * element % 16 == 0;
}

template <class Device, class Op>
void run(const Op& op, const SetIndex& sets, const Tensor& like, bool wide) {
  using Scalar = typename Op::Scalar;
  Device::launch(ShortSets<Op>{op, sets}, sets.num_sets, op.columns, wide);
  if (!Device::may_be_long(sets)) return;
  const auto dtype = std::is_same_v<Scalar, double> ? ScalarType::Double : ScalarType::Float;
  Tensor buffer = torch::stable::new_empty(like, {sets.num_slots(), op.columns}, dtype);
  auto* sums = static_cast<acc_t<Scalar>*>(buffer.mutable_data_ptr());
  Device::launch(PieceSums<Op>{op, sets, sums}, sets.num_slots(), op.columns, wide);
  Device::launch(Totals<Op>{op, sets, sums}, sets.num_sets, op.columns, wide);
  Device::launch(GivePieces<Op>{op, sets, sums}, sets.num_slots(), op.columns, wide);
}

template <typename T>
const T* in(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <typename T>
T* result(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

template <class Device>
void set_reduce(const Tensor x, const Tensor offsets, const Tensor set_ids, bool mean, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, x);
  const int64_t m = columns_of(out, "out");
  check(x, "x", sets.num_rows, m, out);
  check(out, "out", sets.num_sets, m, x);
  const Device device(x);
  for_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const Reduce<T> op{in<T>(x), result<T>(out), m, mean};
    run<Device>(op, sets, x, vectors({op.x, op.out}, m, sizeof(T)));
  });
}

template <class Device>
void set_add(const std::optional<Tensor> y, const Tensor t, const Tensor offsets, const Tensor set_ids, bool mean,
             int64_t first_row, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, t);
  const int64_t m = columns_of(out, "out"), rows = out.size(0);
  check(t, "t", sets.num_sets, m, out);
  if (y) check(*y, "y", rows, m, out);
  STD_TORCH_CHECK(first_row >= 0 && first_row + rows <= sets.num_rows, "out holds the samples ", first_row, " ... ",
                  first_row + rows, " - 1: expected them among N = ", sets.num_rows);
  const Device device(t);
  for_dtype(t, [&](auto zero) {
    using T = decltype(zero);
    const AddRows<T> f{y ? in<T>(*y) : nullptr, in<T>(t), result<T>(out), m, first_row, mean, sets};
    Device::launch(f, rows, m, vectors({f.y, f.t, f.out}, m, sizeof(T)));
  });
}

// `inner`: M in NCHW, C in channels_last.
template <class Device>
void concat_set_mean(const Tensor u, const Tensor offsets, const Tensor set_ids, int64_t inner, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, u);
  const int64_t m = columns_of(u, "u");
  check(u, "u", sets.num_rows, m, out);
  check(out, "out", sets.num_rows, 2 * m, u);
  STD_TORCH_CHECK(inner > 0 && m % inner == 0, "inner = ", inner, ": expected a divisor of M = ", m);
  const Device device(u);
  for_dtype(u, [&](auto zero) {
    using T = decltype(zero);
    const Concat<T> op{in<T>(u), result<T>(out), m, {inner, m}};
    run<Device>(op, sets, u, vectors({op.u, op.out}, inner, sizeof(T)));
  });
}

template <class Device>
void concat_set_mean_backward(const Tensor g, const Tensor offsets, const Tensor set_ids, int64_t inner, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, g);
  const int64_t m = columns_of(out, "out");
  check(g, "g", sets.num_rows, 2 * m, out);
  check(out, "out", sets.num_rows, m, g);
  STD_TORCH_CHECK(inner > 0 && m % inner == 0, "inner = ", inner, ": expected a divisor of M = ", m);
  const Device device(g);
  for_dtype(g, [&](auto zero) {
    using T = decltype(zero);
    const ConcatBackward<T> op{in<T>(g), result<T>(out), m, {inner, m}};
    run<Device>(op, sets, g, vectors({op.g, op.out}, inner, sizeof(T)));
  });
}

template <class Device>
void center(const Tensor x, const Tensor offsets, const Tensor set_ids, bool from_mean, Tensor mean, Tensor dev) {
  const SetIndex sets = index_of(offsets, set_ids, x);
  const int64_t m = columns_of(x, "x");
  check(x, "x", sets.num_rows, m, mean);
  check(mean, "mean", sets.num_sets, m, x);
  check(dev, "dev", sets.num_rows - sets.num_sets, m, x);
  const Device device(x);
  for_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const Center<T> op{in<T>(x), result<T>(mean), result<T>(dev), m, from_mean};
    run<Device>(op, sets, x, vectors({op.x, op.mean, op.dev}, m, sizeof(T)));
  });
}

template <class Device>
void uncenter(const Tensor mean, const Tensor dev, const Tensor offsets, const Tensor set_ids, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, mean);
  const int64_t m = columns_of(mean, "mean");
  check(mean, "mean", sets.num_sets, m, out);
  check(dev, "dev", sets.num_rows - sets.num_sets, m, mean);
  check(out, "out", sets.num_rows, m, mean);
  const Device device(mean);
  for_dtype(mean, [&](auto zero) {
    using T = decltype(zero);
    const Uncenter<T> op{in<T>(mean), in<T>(dev), result<T>(out), m};
    run<Device>(op, sets, mean, vectors({op.mean, op.dev, op.out}, m, sizeof(T)));
  });
}

template <class Device>
void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("set_reduce", TORCH_BOX(&set_reduce<Device>));
  m.impl("set_add", TORCH_BOX(&set_add<Device>));
  m.impl("concat_set_mean", TORCH_BOX(&concat_set_mean<Device>));
  m.impl("concat_set_mean_backward", TORCH_BOX(&concat_set_mean_backward<Device>));
  m.impl("center", TORCH_BOX(&center<Device>));
  m.impl("uncenter", TORCH_BOX(&uncenter<Device>));
}

}  // namespace interconv

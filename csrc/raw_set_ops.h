// The raw set operations on tensors: checks, dtypes and phases, shared by the devices. A Device has
//   Device(tensor)                                 makes the tensor's device the current one
//   launch(functor, groups, columns, vectorized)   runs a phase; vectorized: 16-byte access to all rows is aligned
//   may_have_long_sets(sets)                       false only if no set is longer than kChunk
#pragma once
#include <initializer_list>

#include "set_phases.h"
#include "tensors.h"

namespace interconv {

template <class F>
void for_dtype(const Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return f(double());
    case ScalarType::Float:
      return f(float());
    case ScalarType::BFloat16:
      return f(c10::BFloat16());
    case ScalarType::Half:
      return f(c10::Half());
    default:
      break;
  }
  STD_TORCH_CHECK(false, "dtype number ", static_cast<int>(x.scalar_type()),
                  ": expected float64, float32, bfloat16 or float16");
}

// Whether blocks of `inner` columns of rows of `tensors` all start at multiples of 16 bytes.
inline bool is_aligned(std::initializer_list<const void*> tensors, int64_t inner, size_t element_size) {
  for (const void* p : tensors) {
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return false;
  }
  return inner * element_size % 16 == 0;
}

template <class Device, class Op>
void run_phases(const Op& op, const SetIndex& sets, const Tensor& like, bool vectorized) {
  using Scalar = typename Op::Scalar;
  Device::launch(ShortSets<Op>{{op, sets, nullptr}}, sets.num_sets, op.columns, vectorized);
  if (!Device::may_have_long_sets(sets)) return;
  const auto dtype = std::is_same_v<Scalar, double> ? ScalarType::Double : ScalarType::Float;
  Tensor buffer = torch::stable::new_empty(like, {sets.num_slots(), op.columns}, dtype);
  const Phase<Op> phase{op, sets, output<acc_t<Scalar>>(buffer)};
  Device::launch(SumChunks<Op>{phase}, sets.num_slots(), op.columns, vectorized);
  Device::launch(SumTotals<Op>{phase}, sets.num_sets, op.columns, vectorized);
  Device::launch(WriteChunks<Op>{phase}, sets.num_slots(), op.columns, vectorized);
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
    const Reduce<T> op{input<T>(x), output<T>(out), m, mean};
    run_phases<Device>(op, sets, x, is_aligned({op.x, op.out}, m, sizeof(T)));
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
    const AddSetTerm<T> f{y ? input<T>(*y) : nullptr, input<T>(t), output<T>(out), m, first_row, mean, sets};
    Device::launch(f, rows, m, is_aligned({f.y, f.t, f.out}, m, sizeof(T)));
  });
}

// Concat or ConcatBackward, from x to out; one of them has M columns, the other 2M.
template <class Device, template <typename> class Op>
void run_concat(const Tensor& x, const SetIndex& sets, int64_t m, int64_t inner, const Tensor& out) {
  STD_TORCH_CHECK(inner > 0 && m % inner == 0, "inner = ", inner, ": expected a divisor of M = ", m);
  const Device device(x);
  for_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const Op<T> op{input<T>(x), output<T>(out), m, {inner, m}};
    run_phases<Device>(op, sets, x, is_aligned({input<T>(x), op.out}, inner, sizeof(T)));
  });
}

// `inner`: M in NCHW, C in channels_last.
template <class Device>
void concat_set_mean(const Tensor u, const Tensor offsets, const Tensor set_ids, int64_t inner, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, u);
  const int64_t m = columns_of(u, "u");
  check(u, "u", sets.num_rows, m, out);
  check(out, "out", sets.num_rows, 2 * m, u);
  run_concat<Device, Concat>(u, sets, m, inner, out);
}

template <class Device>
void concat_set_mean_backward(const Tensor g, const Tensor offsets, const Tensor set_ids, int64_t inner, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, g);
  const int64_t m = columns_of(out, "out");
  check(g, "g", sets.num_rows, 2 * m, out);
  check(out, "out", sets.num_rows, m, g);
  run_concat<Device, ConcatBackward>(g, sets, m, inner, out);
}

template <class Device>
void center(const Tensor x, const Tensor offsets, const Tensor set_ids, bool from_mean, Tensor mean,
            Tensor deviations) {
  const SetIndex sets = index_of(offsets, set_ids, x);
  const int64_t m = columns_of(x, "x");
  check(x, "x", sets.num_rows, m, mean);
  check(mean, "mean", sets.num_sets, m, x);
  check(deviations, "deviations", sets.num_rows - sets.num_sets, m, x);
  const Device device(x);
  for_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const Center<T> op{input<T>(x), output<T>(mean), output<T>(deviations), m, from_mean};
    run_phases<Device>(op, sets, x, is_aligned({op.x, op.mean, op.deviations}, m, sizeof(T)));
  });
}

template <class Device>
void uncenter(const Tensor mean, const Tensor deviations, const Tensor offsets, const Tensor set_ids, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, mean);
  const int64_t m = columns_of(mean, "mean");
  check(mean, "mean", sets.num_sets, m, out);
  check(deviations, "deviations", sets.num_rows - sets.num_sets, m, mean);
  check(out, "out", sets.num_rows, m, mean);
  const Device device(mean);
  for_dtype(mean, [&](auto zero) {
    using T = decltype(zero);
    const Uncenter<T> op{input<T>(mean), input<T>(deviations), output<T>(out), m};
    run_phases<Device>(op, sets, mean, is_aligned({op.mean, op.deviations, op.out}, m, sizeof(T)));
  });
}

template <class Device>
void register_set_ops(torch::stable::detail::StableLibrary& m) {
  m.impl("set_reduce", TORCH_BOX(&set_reduce<Device>));
  m.impl("set_add", TORCH_BOX(&set_add<Device>));
  m.impl("concat_set_mean", TORCH_BOX(&concat_set_mean<Device>));
  m.impl("concat_set_mean_backward", TORCH_BOX(&concat_set_mean_backward<Device>));
  m.impl("center", TORCH_BOX(&center<Device>));
  m.impl("uncenter", TORCH_BOX(&uncenter<Device>));
}

}  // namespace interconv

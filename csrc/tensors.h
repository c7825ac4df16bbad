// Checks of the tensors that the raw ops get, and access to their memory.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "sets.h"

namespace interconv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
const T* input(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <typename T>
T* output(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

inline int64_t columns_of(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 2 && x.is_contiguous(), name, " has ", x.dim(), " dimensions",
                  x.is_contiguous() ? "" : " and is not contiguous", ": expected contiguous rows [N, M]");
  return x.size(1);
}

// Contiguous rows of this shape, with the dtype and the device of `like`.
inline void check(const Tensor& x, const char* name, int64_t rows, int64_t columns, const Tensor& like) {
  STD_TORCH_CHECK(columns_of(x, name) == columns && x.size(0) == rows, name, " is [", x.size(0), ", ", x.size(1),
                  "]: expected [", rows, ", ", columns, "]");
  STD_TORCH_CHECK(x.scalar_type() == like.scalar_type() && x.device() == like.device(), name,
                  ": expected the dtype and the device of the other tensors");
}

inline SetIndex index_of(const Tensor& offsets, const Tensor& set_ids, const Tensor& like) {
  for (const Tensor* x : {&offsets, &set_ids}) {
    STD_TORCH_CHECK(
        x->scalar_type() == ScalarType::Int && x->dim() == 1 && x->is_contiguous() && x->device() == like.device(),
        "offsets and set_ids: expected contiguous int32 vectors, on the device of the other tensors");
  }
  STD_TORCH_CHECK(offsets.size(0) >= 1, "offsets is empty: expected B+1 values");
  return {input<int32_t>(offsets), input<int32_t>(set_ids), offsets.size(0) - 1, set_ids.size(0)};
}

// The values of a row [1, columns] that a caller may leave out: null without it.
inline const float* optional_row(const std::optional<Tensor>& x, const char* name, int64_t columns,
                                 const Tensor& like) {
  if (!x) return nullptr;
  check(*x, name, 1, columns, like);
  return input<float>(*x);
}

// What the fused layers have in common.
inline void check_fused(const Tensor& u, int64_t max_centered) {
  STD_TORCH_CHECK(u.scalar_type() == ScalarType::Float, "dtype number ", static_cast<int>(u.scalar_type()),
                  ": expected float32");
  STD_TORCH_CHECK(max_centered >= 1, "max_centered = ", max_centered, ": expected at least 1");
}

}  // namespace interconv

// The schemas of the raw ops: contiguous rows [N, M] as inputs, results into the last arguments. backend "cpp" of
// interconv_kernels/_backends/ calls them. For the fused layers, sets of at most `max_centered` samples are computed
// `centered` and larger ones `split` (interconv_kernels/algorithms.py); the caller chooses, and any value >= 1 gives
// the same result up to rounding. halo_layer and halo_weight_gradient (CUDA, 2-byte dtypes) take 4-dimensional
// channels_last tensors.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(interconv_cpp, m) {
  m.def("set_reduce(Tensor x, Tensor offsets, Tensor set_ids, bool mean, Tensor(a!) out) -> ()");
  m.def("set_add(Tensor? y, Tensor t, Tensor offsets, Tensor set_ids, bool mean, int first_row, Tensor(a!) out) -> ()");
  m.def("concat_set_mean(Tensor u, Tensor offsets, Tensor set_ids, int inner, Tensor(a!) out) -> ()");
  m.def("concat_set_mean_backward(Tensor g, Tensor offsets, Tensor set_ids, int inner, Tensor(a!) out) -> ()");
  m.def(
      "center(Tensor x, Tensor offsets, Tensor set_ids, bool from_mean, Tensor(a!) mean, Tensor(b!) deviations) "
      "-> ()");
  m.def("uncenter(Tensor mean, Tensor deviations, Tensor offsets, Tensor set_ids, Tensor(a!) out) -> ()");
  m.def(
      "pointwise_forward(Tensor u, Tensor weight, Tensor? bias, Tensor? slope, Tensor offsets, Tensor set_ids, bool "
      "channels_last, "
      "int max_centered, Tensor(a!) out) -> ()");
  m.def(
      "pointwise_backward(Tensor g, Tensor u, Tensor weight, Tensor offsets, Tensor set_ids, bool channels_last, "
      "int max_centered, Tensor(a!)? grad_u, Tensor(b!)? grad_weight, Tensor(c!)? grad_bias) -> ()");
  m.def(
      "winograd_forward(Tensor u, Tensor weight, Tensor? bias, Tensor? slope, Tensor offsets, Tensor set_ids, bool "
      "channels_last, "
      "int height, int width, int pad_h, int pad_w, int max_centered, Tensor(a!) out) -> ()");
  m.def(
      "winograd_backward(Tensor g, Tensor u, Tensor weight, Tensor offsets, Tensor set_ids, bool channels_last, "
      "int height, int width, int pad_h, int pad_w, int max_centered, Tensor(a!)? grad_u, Tensor(b!)? grad_weight, "
      "Tensor(c!)? grad_bias) -> ()");
  m.def("halo_configs() -> str");
  m.def(
      "halo_layer(Tensor u, Tensor weight, Tensor? bias, Tensor? slope, Tensor offsets, Tensor set_ids, int config, "
      "int pad_h, int pad_w, bool transposed, bool single, Tensor(a!) out) -> ()");
  m.def(
      "halo_weight_gradient(Tensor u, Tensor g, Tensor? means, Tensor? totals, Tensor offsets, Tensor set_ids, int "
      "pad_h, int pad_w, bool single, Tensor(a!) grad_weight, Tensor(b!)? grad_bias) -> ()");
}

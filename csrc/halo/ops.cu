// The raw op halo_layer: the launches of the layer's kernels.
#include <algorithm>
#include <utility>

#include "kernels.h"
#include "launch.h"

namespace interconv::halo {
namespace {

constexpr int kNumRows = kNumConfigs + kNumWarpgroupConfigs;

// For rows of the table for this dtype; others have no kernel.
template <class T, int I>
Launch mma_launch() {
  if constexpr (kConfigs[I].config.bytes == sizeof(T)) {
    return launch_of(reinterpret_cast<const void*>(halo_layer_kernel<T, I>), kConfigs[I].config);
  }
  return {};
}

template <class T, size_t... I>
Launch launch_of_row(int64_t row, std::index_sequence<I...>) {
  static const Launch mma[] = {mma_launch<T, int(I)>()...};
  if (row < kNumConfigs) return mma[row];
#ifdef IK_SM_90A
  if (sizeof(T) == 2) {
    const int i = int(row) - kNumConfigs;
    return launch_of(warpgroup_kernel(std::is_same_v<T, Float16>, i), kWarpgroupConfigs[i].config);
  }
  return {};
#else
  STD_TORCH_CHECK(false, "configuration ", row, " is for sm_90a: the extension was built without it");
#endif
}

struct Call {
  const Tensor &u, &weight, &offsets, &set_ids, &out;
  const Tensor *bias, *slope;
  int pad_h, pad_w;
  bool transposed, single;
};

template <class T>
void launch(const Launch& X, const Call& call) {
  const auto memory = [&](int64_t numel, ScalarType dtype) {
    return torch::stable::empty({numel}, dtype, std::nullopt, call.u.device());
  };
  const cudaStream_t stream = current_stream();
  const int64_t n = call.u.size(0), channels = call.u.size(1), out_channels = call.out.size(1);
  const int h = int(call.u.size(2)), w = int(call.u.size(3)), out_h = int(call.out.size(2)),
            out_w = int(call.out.size(3));
  const auto strides = call.weight.strides();

  PackWeights<T> pack{input<T>(call.weight), nullptr,           strides[0], strides[1], strides[2],      strides[3],
                      int(channels),         int(out_channels), X.channels, X.columns,  call.transposed, call.single};
  const Tensor packed = memory(pack.numel(), call.u.scalar_type());
  pack.packed = output<T>(packed);
  pack_weights<T><<<ceil_div(pack.numel(), kPackThreads), kPackThreads, 0, stream>>>(pack, pack.numel());
  check_cuda(cudaGetLastError());

  // Programs are persistent.
  const int64_t num_sets = call.offsets.size(0) - 1, column_tiles = pack.column_tiles();
  const int64_t tiles = X.kernel_size == 1 ? ceil_div(int64_t(h) * w, X.tile_h * X.tile_w)
                                           : ceil_div(out_h, X.tile_h) * ceil_div(out_w, X.tile_w);
  const int64_t slots = std::max<int64_t>(1, resident_programs(X.kernel, X.warps * 32, X.shared) / column_tiles);
  const int64_t parts = choose_parts(n, num_sets, tiles, slots, call.single);
  STD_TORCH_CHECK(tiles * parts < INT32_MAX, "u has ", tiles * parts, " tiles: expected fewer than 2^31");
  const int programs = int(std::min(slots, tiles * parts) * column_tiles);
  const Tensor scratch = memory(int64_t(programs) * X.scratch, ScalarType::Float);
  const T *u = input<T>(call.u), *bias = call.bias ? input<T>(*call.bias) : nullptr;
  const T* slope = call.slope ? input<T>(*call.slope) : nullptr;
  T* y = output<T>(call.out);
  Arguments<T> layer{u,
                     pack.packed,
                     bias,
                     slope,
                     input<int32_t>(call.offsets),
                     input<int32_t>(call.set_ids),
                     y,
                     output<float>(scratch),
                     int(n),
                     h,
                     w,
                     out_h,
                     out_w,
                     call.pad_h,
                     call.pad_w,
                     int(channels),
                     int(out_channels),
                     h * w,
                     out_h * out_w,
                     access_width(int(channels), u),
                     access_width(int(out_channels), y),
                     int(parts),
                     call.single};
  if (X.kernel_size == 1) layer.as_lines(X.tile_w);
  void* arguments[] = {&layer};
  check_cuda(cudaLaunchKernel(X.kernel, dim3(programs), dim3(X.warps * 32), arguments, size_t(X.shared), stream));
}

void check_channel_values(const std::optional<Tensor>& x, const char* name, const Tensor& like) {
  if (!x) return;
  STD_TORCH_CHECK(x->dim() == 1 && x->size(0) == like.size(1) && x->is_contiguous() &&
                      x->scalar_type() == like.scalar_type() && x->device() == like.device(),
                  name, ": expected a contiguous vector of a value for each output channel, of u's dtype and device");
}

void halo_layer(const Tensor u, const Tensor weight, const std::optional<Tensor> bias,
                const std::optional<Tensor> slope, const Tensor offsets, const Tensor set_ids, int64_t config,
                int64_t pad_h, int64_t pad_w, bool transposed, bool single, Tensor out) {
  check_image(u, "u", u.dim() > 1 ? u.size(1) : 0, u);
  STD_TORCH_CHECK(config >= 0 && config < kNumRows, "config is ", config, ": expected 0 to ", kNumRows - 1);
  const ScalarType dtype = u.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::BFloat16 || dtype == ScalarType::Half || dtype == ScalarType::Float,
                  "u: expected bfloat16, float16 or float32");
  constexpr auto every = std::make_index_sequence<kNumConfigs>();
  const Launch chosen = dtype == ScalarType::Half       ? launch_of_row<Float16>(config, every)
                        : dtype == ScalarType::BFloat16 ? launch_of_row<Bfloat16>(config, every)
                                                        : launch_of_row<Tf32>(config, every);
  STD_TORCH_CHECK(chosen.kernel, "configuration ", config, " is not for u's dtype");
  const int64_t k = chosen.kernel_size, stride = chosen.stride;
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) % 2 == 0 && weight.size(2) == k && weight.size(3) == k &&
                      weight.scalar_type() == u.scalar_type() && weight.device() == u.device(),
                  "weight: expected [Co, 2C, ", k, ", ", k, "], of u's dtype and device");
  const int64_t co = weight.size(0), c = weight.size(1) / 2;
  STD_TORCH_CHECK(u.size(1) == (transposed ? co : c), "u has ", u.size(1), " channels, weight is for ",
                  transposed ? co : c);
  STD_TORCH_CHECK(chosen.weights == Weights::kStreamed || u.size(1) <= chosen.channels, "configuration ", config,
                  " is for ", chosen.channels, " channels, u has ", u.size(1));
  check_image(out, "out", transposed ? c : co, u);
  STD_TORCH_CHECK(out.size(0) == u.size(0) && out.size(2) == (u.size(2) + 2 * pad_h - k) / stride + 1 &&
                      out.size(3) == (u.size(3) + 2 * pad_w - k) / stride + 1 &&
                      (k == 3 || (pad_h == 0 && pad_w == 0)) && u.size(2) * u.size(3) < INT32_MAX,
                  "out has another number of samples or pixels than expected");
  check_channel_values(bias, "bias", out);
  check_channel_values(slope, "slope", out);
  const SetIndex sets = index_of(offsets, set_ids, u);
  STD_TORCH_CHECK(sets.num_rows == u.size(0), "set_ids has ", sets.num_rows, " values: expected ", u.size(0));
  if (out.numel() == 0) return;

  const torch::stable::accelerator::DeviceGuard guard(u.get_device_index());
  const Call call{u,          weight,     offsets,    set_ids, out, bias ? &*bias : nullptr, slope ? &*slope : nullptr,
                  int(pad_h), int(pad_w), transposed, single};
  if (dtype == ScalarType::Half) {
    launch<Float16>(chosen, call);
  } else if (dtype == ScalarType::BFloat16) {
    launch<Bfloat16>(chosen, call);
  } else {
    launch<Tf32>(chosen, call);
  }
}

}  // namespace
}  // namespace interconv::halo

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CUDA, m) { m.impl("halo_layer", TORCH_BOX(&interconv::halo::halo_layer)); }

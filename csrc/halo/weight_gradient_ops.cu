// The raw op halo_weight_gradient: the launches of the weight gradient's kernels.
#include <algorithm>
#include <utility>

#include "launch.h"
#include "weight_gradient_kernels.h"

namespace interconv::halo {
namespace {

constexpr int kSteps = 2;             // tiles of a program at least, since adding its sums up takes time too
constexpr int64_t kMaxGroups = 4096;  // programs that add up

struct Call {
  const Tensor &u, &g;
  const Tensor *means, *totals;  // null: they are computed
  const Tensor &offsets, &set_ids, &weight;
  const Tensor* bias;
  int pad_h, pad_w;
  bool single;
};

struct Partials {
  Tensor memory;
  int slices;
};

template <class T, int I>
void launch(const Call& call) {
  constexpr WeightGradientConfig X = kWeightGradientConfigs[I].config;
  using Kernel = WeightGradient<T, X>;
  constexpr auto kKernel = weight_gradient_kernel<T, I>;
  const cudaStream_t stream = current_stream();
  const ScalarType dtype = call.u.scalar_type();
  const auto memory = [&](std::initializer_list<int64_t> size, ScalarType type) {
    return torch::stable::empty(size, type, std::nullopt, call.u.device());
  };
  const int64_t num_sets = call.offsets.size(0) - 1;
  const auto image = [&](const Tensor& like, const T* data) {
    const int64_t h = like.size(2), w = like.size(3);
    return X.kernel == 1 ? Images<T>(data, 1, h * w, like.size(1)) : Images<T>(data, h, w, like.size(1));
  };

  // The products of all samples: `sums` says where the sets' means and totals go, if they are to be computed.
  const auto multiply = [&](const T* u, const T* g, int64_t samples, T* means, T* totals, const int32_t* offsets,
                            bool bias) {
    Kernel kernel{{image(call.u, u), image(call.g, g), nullptr, means, totals, offsets,
                   means ? input<int32_t>(call.set_ids) : nullptr, int(samples), call.pad_h, call.pad_w, bias}};
    const int64_t steps = samples * kernel.tiles(), pairs = kernel.pairs();
    STD_TORCH_CHECK(steps * pairs < INT32_MAX, "u has ", steps, " tiles: expected fewer than 2^31");
    const int64_t slots =
        resident_programs(reinterpret_cast<const void*>(kKernel), Kernel::kWarps * 32, Kernel::kShared) / pairs;
    const int slices = int(std::max<int64_t>(1, std::min(slots, steps / kSteps)));
    const Tensor partials = memory({slices * pairs * Kernel::kPartial}, ScalarType::Float);
    kernel.a.partials = output<float>(partials);
    kKernel<<<int(slices * pairs), Kernel::kWarps * 32, Kernel::kShared, stream>>>(kernel);
    check_cuda(cudaGetLastError());
    return Partials{partials, slices};
  };

  const T *u = input<T>(call.u), *g = input<T>(call.g);
  const int32_t* offsets = input<int32_t>(call.offsets);
  Partials own, from_set;
  if (call.single) {
    own = multiply(u, g, call.u.size(0), nullptr, nullptr, nullptr, call.bias);
  } else if (call.means) {
    own = multiply(u, g, call.u.size(0), nullptr, nullptr, nullptr, call.bias);
    from_set = multiply(input<T>(*call.means), input<T>(*call.totals), num_sets, nullptr, nullptr, offsets, false);
  } else {
    const Tensor means = memory({num_sets * call.u.size(2) * call.u.size(3) * call.u.size(1)}, dtype);
    const Tensor totals = memory({num_sets * call.g.size(2) * call.g.size(3) * call.g.size(1)}, dtype);
    own = multiply(u, g, call.u.size(0), output<T>(means), output<T>(totals), offsets, call.bias);
    from_set = multiply(input<T>(means), input<T>(totals), num_sets, nullptr, nullptr, offsets, false);
  }

  const auto strides = call.weight.strides();
  const AddPartials<T> add{input<float>(own.memory),
                           call.single ? nullptr : input<float>(from_set.memory),
                           output<T>(call.weight),
                           call.bias ? output<T>(*call.bias) : nullptr,
                           X.kernel,
                           strides[0],
                           strides[1],
                           strides[2],
                           strides[3],
                           int(call.u.size(1)),
                           int(call.g.size(1)),
                           X.channels,
                           X.columns,
                           Kernel::kPartial,
                           own.slices,
                           from_set.slices};
  const int programs = int(std::min<int64_t>(kMaxGroups, add.groups()));
  add_partials_kernel<T><<<programs, AddPartials<T>::kWarps * 32, AddPartials<T>::kShared, stream>>>(add);
  check_cuda(cudaGetLastError());
}

template <class T, size_t... I>
void launch_config(int config, const Call& call, std::index_sequence<I...>) {
  ((config == int(I) ? launch<T, int(I)>(call) : void()), ...);
}

void halo_weight_gradient(const Tensor u, const Tensor g, const std::optional<Tensor> means,
                          const std::optional<Tensor> totals, const Tensor offsets, const Tensor set_ids, int64_t pad_h,
                          int64_t pad_w, bool single, Tensor grad_weight, std::optional<Tensor> grad_bias) {
  STD_TORCH_CHECK(u.dim() == 4 && g.dim() == 4 && grad_weight.dim() == 4,
                  "expected u, g and grad_weight of 4 dimensions");
  const int64_t c = u.size(1), co = g.size(1), k = grad_weight.size(2);
  STD_TORCH_CHECK(k == 3 || (k == 1 && pad_h == 0 && pad_w == 0), "grad_weight is of kernels of size ", k,
                  ": expected 3, or 1 without padding");
  check_image(u, "u", c, u);
  check_image(g, "g", co, u);
  STD_TORCH_CHECK(g.size(0) == u.size(0) && g.size(2) == u.size(2) + 2 * pad_h - k + 1 &&
                      g.size(3) == u.size(3) + 2 * pad_w - k + 1,
                  "g has another number of samples or pixels than expected");
  const SetIndex sets = index_of(offsets, set_ids, u);
  STD_TORCH_CHECK(sets.num_rows == u.size(0), "set_ids has ", sets.num_rows, " values: expected ", u.size(0));
  STD_TORCH_CHECK(means.has_value() == totals.has_value(), "means and totals: expected both or none");
  for (const auto& [sums, like, name] : {std::tuple{&means, &u, "means"}, std::tuple{&totals, &g, "totals"}}) {
    if (!*sums) continue;
    check_image(**sums, name, like->size(1), u);
    STD_TORCH_CHECK(
        (*sums)->size(0) == sets.num_sets && (*sums)->size(2) == like->size(2) && (*sums)->size(3) == like->size(3),
        name, ": expected one image for each set");
  }
  STD_TORCH_CHECK(grad_weight.size(0) == co && grad_weight.size(1) == 2 * c && grad_weight.size(3) == k &&
                      grad_weight.scalar_type() == u.scalar_type() && grad_weight.device() == u.device(),
                  "grad_weight: expected [Co, 2C, k, k], of u's dtype and device");
  STD_TORCH_CHECK(!grad_bias || (grad_bias->dim() == 1 && grad_bias->size(0) == co && grad_bias->is_contiguous() &&
                                 grad_bias->scalar_type() == u.scalar_type() && grad_bias->device() == u.device()),
                  "grad_bias: expected a contiguous vector of Co values, of u's dtype and device");
  for (const Tensor* x : {&u, &g}) {
    STD_TORCH_CHECK(x->size(1) * x->size(2) * x->size(3) < INT32_MAX, "a sample has more than 2^31 values");
  }

  const torch::stable::accelerator::DeviceGuard guard(u.get_device_index());
  const Call call{u,
                  g,
                  means ? &*means : nullptr,
                  totals ? &*totals : nullptr,
                  offsets,
                  set_ids,
                  grad_weight,
                  grad_bias ? &*grad_bias : nullptr,
                  int(pad_h),
                  int(pad_w),
                  single};
  const int config = pick_weight_gradient(int(k), c, co);
  constexpr auto every = std::make_index_sequence<kNumWeightGradientConfigs>();
  if (u.scalar_type() == ScalarType::BFloat16) {
    launch_config<Bfloat16>(config, call, every);
  } else {
    STD_TORCH_CHECK(u.scalar_type() == ScalarType::Half, "u: expected bfloat16 or float16");
    launch_config<Float16>(config, call, every);
  }
}

}  // namespace
}  // namespace interconv::halo

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CUDA, m) {
  m.impl("halo_weight_gradient", TORCH_BOX(&interconv::halo::halo_weight_gradient));
}

// The kernels for warpgroups: compiled for sm_90a alone, and launched by ops.cu.
#include <utility>

#include "launch.h"
#include "warpgroup_kernels.h"

namespace interconv::halo {
namespace {

template <class T, size_t... I>
const void* kernel_of(int row, std::index_sequence<I...>) {
  const void* const kernels[] = {reinterpret_cast<const void*>(warpgroup_layer_kernel<T, int(I)>)...};
  return kernels[row];
}

}  // namespace

const void* warpgroup_kernel(bool is_float16, int row) {
  constexpr auto every = std::make_index_sequence<kNumWarpgroupConfigs>();
  return is_float16 ? kernel_of<Float16>(row, every) : kernel_of<Bfloat16>(row, every);
}

}  // namespace interconv::halo

// The GPU kernels for warpgroups.
#pragma once
#include "warpgroup_layer.h"

namespace interconv::halo {

// One program a multiprocessor: where registers are moved between warps, that many must be there.
template <class T, int I>
__global__ void __launch_bounds__(kWarpgroupConfigs[I].config.warps() * 32, 1)
    warpgroup_layer_kernel(WarpgroupLayer<T, kWarpgroupConfigs[I].config> layer) {
  extern __shared__ __align__(1024) char shared[];
  const int warp = __shfl_sync(0xffffffff, int(threadIdx.x) / 32, 0);  // so that the compiler knows it is the warp's
  WarpgroupBlock block{shared, warp, int(blockIdx.x), int(gridDim.x)};
  layer.run(block);
}

}  // namespace interconv::halo

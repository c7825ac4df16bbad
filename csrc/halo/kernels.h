// The GPU kernels.
#pragma once
#include "layer.h"
#include "weights.h"

namespace interconv::halo {

constexpr int kPackThreads = 256;

template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_weights(PackWeights<T> pack, int64_t numel) {
  const int64_t i = blockIdx.x * int64_t(kPackThreads) + threadIdx.x;
  if (i < numel) pack.run(i);
}

template <class T, int I>
__global__ void __launch_bounds__(kConfigs[I].config.warps() * 32, 1)
    halo_layer_kernel(HaloLayer<T, kConfigs[I].config> layer) {
  extern __shared__ __align__(1024) char shared[];
  const int warp = __shfl_sync(0xffffffff, int(threadIdx.x) / 32, 0);  // so that the compiler knows it is the warp's
  Block block{shared, warp, int(blockIdx.x), int(gridDim.x), layer.a.samples >> 31};
  layer.run(block);
}

}  // namespace interconv::halo

// The GPU kernels of the weight gradient.
#pragma once
#include "weight_gradient.h"

namespace interconv::halo {

template <class T, int I>
__global__ void __launch_bounds__(kWeightGradientConfigs[I].config.warps() * 32,
                                  kWeightGradientConfigs[I].config.programs)
    weight_gradient_kernel(WeightGradient<T, kWeightGradientConfigs[I].config> gradient) {
  extern __shared__ __align__(1024) char shared[];
  const int warp = __shfl_sync(0xffffffff, int(threadIdx.x) / 32, 0);  // so that the compiler knows it is the warp's
  Block block{shared, warp, int(blockIdx.x), int(gridDim.x)};
  gradient.run(block);
}

template <class T>
__global__ void __launch_bounds__(AddPartials<T>::kWarps * 32) add_partials_kernel(AddPartials<T> add) {
  extern __shared__ __align__(1024) char shared[];
  const int warp = __shfl_sync(0xffffffff, int(threadIdx.x) / 32, 0);
  Block block{shared, warp, int(blockIdx.x), int(gridDim.x)};
  add.run(block);
}

}  // namespace interconv::halo

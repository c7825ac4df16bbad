// What is launched for a row of the tables of configurations.
#pragma once
#include "warpgroup_configs.h"

namespace interconv::halo {

struct Launch {
  const void* kernel = nullptr;  // takes Arguments<T> in a struct
  int kernel_size = 0, stride = 0, channels = 0, columns = 0, tile_h = 0, tile_w = 0, warps = 0;
  int shared = 0, scratch = 0;
  Weights weights{};
};

template <class X>
Launch launch_of(const void* kernel, const X& config) {
  return {kernel,          config.kernel,  config.stride,   config.channels,  config.columns, config.tile_h(),
          config.tile_w(), config.warps(), config.shared(), config.scratch(), config.weights};
}

// The kernel for warpgroups of a row of kWarpgroupConfigs: in a file of its own, which is compiled for sm_90a alone.
const void* warpgroup_kernel(bool is_float16, int row);

}  // namespace interconv::halo

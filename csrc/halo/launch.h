// What the launches of the kernels in this folder have in common.
#pragma once
#include <map>
#include <mutex>
#include <utility>

#include "../cuda.h"
#include "../tensors.h"
#include "arguments.h"
#include "warpgroup_configs.h"

namespace interconv::halo {

// What is launched for a row of the tables of the layer's configurations.
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

// How many programs of a kernel the current device runs at once. Allows the kernel its shared memory.
inline int resident_programs(const void* kernel, int threads, int shared) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int> known;
  int device = 0, processors = 0, each = 0;
  check_cuda(cudaGetDevice(&device));
  const std::lock_guard guard(mutex);
  int& programs = known[{kernel, device}];
  if (programs) return programs;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, size_t(shared)));
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  STD_TORCH_CHECK(each > 0, "the GPU cannot run a kernel that takes ", shared, " bytes of shared memory");
  return programs = each * processors;
}

// A dense channels_last tensor of so many channels, of the dtype and the device of `like`.
inline void check_image(const Tensor& x, const char* name, int64_t channels, const Tensor& like) {
  STD_TORCH_CHECK(
      x.dim() == 4 && x.size(1) == channels && x.scalar_type() == like.scalar_type() && x.device() == like.device(),
      name, " has another number of dimensions or channels, dtype or device than expected");
  const auto strides = x.strides();
  const int64_t w = x.size(3), h = x.size(2);
  const bool dense = (channels == 1 || strides[1] == 1) && (w == 1 || strides[3] == channels) &&
                     (h == 1 || strides[2] == channels * w) && (x.size(0) == 1 || strides[0] == channels * w * h);
  STD_TORCH_CHECK(dense, name, ": expected a dense channels_last tensor");
}

}  // namespace interconv::halo

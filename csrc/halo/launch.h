// What the launches of the kernels in this folder have in common.
#pragma once
#include <array>
#include <atomic>

#include "../cuda.h"
#include "../tensors.h"

namespace interconv::halo {

constexpr int kMaxDevices = 64;

// How many programs of a kernel the current device runs at once. Allows the kernel its shared memory.
template <auto kKernel>
int resident_programs(int threads, int shared) {
  static std::array<std::atomic<int>, kMaxDevices> known;
  int device = 0, processors = 0, each = 0;
  check_cuda(cudaGetDevice(&device));
  STD_TORCH_CHECK(device < kMaxDevices, "device ", device, ": expected fewer than ", kMaxDevices, " devices");
  if (const int programs = known[device]) return programs;
  check_cuda(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kKernel, threads, shared));
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  STD_TORCH_CHECK(each > 0, "the GPU cannot run a kernel that takes ", shared, " bytes of shared memory");
  return known[device] = each * processors;
}

inline int ceil_div(int64_t x, int64_t y) { return int((x + y - 1) / y); }

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

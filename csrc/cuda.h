// Launches on CUDA: the current stream, and errors.
#pragma once
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

namespace interconv {

inline cudaStream_t current_stream() {
  const auto stream = torch::stable::accelerator::getCurrentStream(torch::stable::accelerator::getCurrentDeviceIndex());
  return static_cast<cudaStream_t>(stream.nativeHandle());
}

inline void check_cuda(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA error: ", cudaGetErrorString(error));
}

}  // namespace interconv

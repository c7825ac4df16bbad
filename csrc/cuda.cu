// The set operations on CUDA: a thread handles 16 bytes (or one element) of columns of one group.
#include <algorithm>

#include "cuda.h"
#include "raw_set_ops.h"

namespace interconv {
namespace {

constexpr int kThreads = 256;         // of a block
constexpr int kMinBlocks = 2;         // per multiprocessor: leaves each thread 128 registers, enough not to spill
constexpr unsigned kWarp = 32;        // threads along the columns at least, so that a warp reads contiguous memory
constexpr int64_t kMaxGridY = 65535;  // CUDA's limit

template <int W, class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks) run_vectors(F f, int64_t groups, int64_t vectors) {
  const int64_t v = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (v >= vectors) return;
  for (int64_t g = blockIdx.y * int64_t(blockDim.y) + threadIdx.y; g < groups; g += int64_t(gridDim.y) * blockDim.y) {
    f.template run<W>(g, v * W, W);
  }
}

template <int W, class F>
void launch_vectors(const F& f, int64_t groups, int64_t vectors, cudaStream_t stream) {
  unsigned x = kWarp;
  while (x < kThreads && x < vectors) x *= 2;
  const unsigned y = kThreads / x;
  const dim3 grid((vectors + x - 1) / x, std::min(kMaxGridY, (groups + y - 1) / y));
  run_vectors<W><<<grid, dim3(x, y), 0, stream>>>(f, groups, vectors);
  check_cuda(cudaGetLastError());
}

struct Cuda {
  torch::stable::accelerator::DeviceGuard guard;

  explicit Cuda(const Tensor& x) : guard(x.get_device_index()) {}

  template <class F>
  static void launch(const F& f, int64_t groups, int64_t columns, bool vectorized) {
    if (groups * columns == 0) return;
    const cudaStream_t stream = current_stream();
    constexpr int kWidth = 16 / sizeof(typename F::Scalar);
    if (vectorized) {
      launch_vectors<kWidth>(f, groups, columns / kWidth, stream);
    } else {
      launch_vectors<1>(f, groups, columns, stream);
    }
  }

  // From shapes alone: set sizes are on the device, and reading them would wait for it.
  static bool may_have_long_sets(const SetIndex& sets) { return sets.num_rows > kChunk; }
};

}  // namespace
}  // namespace interconv

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CUDA, m) { interconv::register_set_ops<interconv::Cuda>(m); }

// When operators.cpp takes the fused layer: the rules and constants of interconv_kernels/choice.py, where they are
// explained. A test compares the two.
#pragma once
#include <algorithm>
#include <cstdint>

namespace interconv {

constexpr int64_t kMinFusedChannels = 8;
constexpr int64_t kCenteredPasses = 8;
constexpr int64_t kWinogradMaxCentered = 8;

inline int64_t pointwise_max_centered(int64_t channels, int64_t out_channels) {
  return std::max<int64_t>(1, channels * out_channels / (kCenteredPasses * (channels + out_channels)));
}

// What torch.backends.cpu.get_cpu_capability() calls AVX512.
inline bool has_avx512() {
#ifdef __x86_64__
  return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

}  // namespace interconv

#include <vector>

#include "winograd.h"

namespace interconv {

// A set that is not packed as a whole needs two samples at a time: the last one and another.
WinogradWeightGradient::WinogradWeightGradient(const ImageLayout& u, const ImageLayout& g, Padding padding,
                                               const SetIndex& sets, int64_t max_centered)
    : u_(u), g_(g), padding_(padding), num_packed_(std::min(SetSizes(sets).max, std::max<int64_t>(max_centered, 2))) {}

int64_t WinogradWeightGradient::scratch_numel(const Regions& regions) const {
  const int64_t tiles = regions.max_tiles();
  return (num_packed_ + 1) * (u_.input_numel(regions.max_rows(), regions.max_columns()) + g_.output_numel(tiles)) +
         kElements * (plane_stride(tiles, u_.padded_channels()) + plane_stride(tiles, g_.padded_channels())) +
         std::max(u_.scratch_numel(), g_.scratch_numel());
}

void WinogradWeightGradient::add(const float* u, const float* g, const Region& region, int64_t first, int64_t n,
                                 float* sums, float* scratch) const {
  const int64_t tiles = region.tiles(), size = region.set.size(), last = size - 1;
  const int64_t u_channels = u_.padded_channels(), g_channels = g_.padded_channels();
  const int64_t u_numel = u_.input_numel(region.rows, region.columns), g_numel = g_.output_numel(tiles);
  const int64_t v_stride = plane_stride(tiles, u_channels), m_stride = plane_stride(tiles, n);
  float *u_packed = scratch, *mean = u_packed + num_packed_ * u_numel, *g_packed = mean + u_numel;
  float *g_sum = g_packed + num_packed_ * g_numel, *v = g_sum + g_numel, *m = v + kElements * v_stride;
  float* pack_scratch = m + kElements * m_stride;

  const bool keeps_all = size <= num_packed_;
  const auto slot = [&](int64_t i) { return keeps_all ? i : i == last ? 1 : 0; };
  const auto read = [&](int64_t i) {
    const int64_t sample = region.set.begin + i;
    pack(u_, u + sample * u_.numel(), 2 * region.row - padding_.h, 2 * region.column - padding_.w, 2 * region.rows + 2,
         2 * region.columns + 2, u_packed + slot(i) * u_numel, pack_scratch);
    pack(g_, g + sample * g_.numel(), 2 * region.row, 2 * region.column, 2 * region.rows, 2 * region.columns,
         g_packed + slot(i) * g_numel, pack_scratch);
  };
  const auto correlate = [&](const float* u_pixels, const float* g_pixels, float* du) {
    transform_input(u_pixels, region.rows, region.columns, u_channels, v);
    transform_gradient(g_pixels + first, region.rows, region.columns, g_channels, n, m);
    for (int64_t e = 0; e < kElements; ++e) {
      float* d = du + first + e * u_.channels * g_channels;
      gemm(u_.channels, n, tiles, {v + e * v_stride, 1, u_channels}, {m + e * m_stride, n, kNR}, {d, g_channels}, d,
           g_channels);
    }
  };

  std::fill_n(mean, u_numel, 0.0f);
  std::fill_n(g_sum, g_numel, 0.0f);
  for (int64_t i = 0; i < size; ++i) {
    read(i);
    axpy(u_numel, 1, u_packed + slot(i) * u_numel, mean);
    axpy(g_numel, 1, g_packed + slot(i) * g_numel, g_sum);
  }
  divide(u_numel, static_cast<float>(size), mean);
  correlate(mean, g_sum, sums + half_numel());
  for (int64_t t = 0; t < tiles; ++t) {
    axpy(n, 1, m + kBiasElement * m_stride + t * n, sums + 2 * half_numel() + first);
  }
  for (int64_t i = 0; i < last; ++i) {
    if (!keeps_all) read(i);
    float *u_i = u_packed + slot(i) * u_numel, *g_i = g_packed + slot(i) * g_numel;
    axpy(u_numel, -1, u_packed + slot(last) * u_numel, u_i);
    axpy(g_numel, -1 / static_cast<float>(size), g_sum, g_i);
    correlate(u_i, g_i, sums);
  }
}

void WinogradWeightGradient::write_weight(const float* sums, int64_t chunks, const KernelView& w,
                                          float* grad_weight) const {
  const int64_t n = g_.padded_channels();
  torch::stable::parallel_for(0, u_.channels, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> du(2 * kElements * n), taps(9 * n);
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t e = 0; e < 2 * kElements; ++e) {
        const float* from = sums + (e * u_.channels + i) * n;
        float* to = du.data() + e * n;
        std::copy_n(from, n, to);
        for (int64_t chunk = 1; chunk < chunks; ++chunk) axpy(n, 1, from + chunk * sums_numel(), to);
      }
      axpy(kElements * n, 1, du.data() + kElements * n, du.data());
      for (int half = 0; half < 2; ++half) {
        transform_kernels_adjoint(du.data() + half * kElements * n, taps.data(), n);
        float* to = grad_weight + (half * u_.channels + i) * w.in_stride;
        for (int64_t o = 0; o < g_.channels; ++o) {
          for (int64_t t = 0; t < 9; ++t) to[o * w.out_stride + t * w.tap_stride] = taps[t * n + o];
        }
      }
    }
  });
}

void WinogradWeightGradient::write_bias(const float* sums, int64_t chunks, float* grad_bias) const {
  std::fill_n(grad_bias, g_.channels, 0.0f);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    axpy(g_.channels, 1, sums + chunk * sums_numel() + 2 * half_numel(), grad_bias);
  }
}

}  // namespace interconv

// The layer with a 3x3 kernel and stride 1, fused, in float32 on the CPU, by Winograd's F(2x2, 3x3): 16 products per
// tile of 2x2 outputs where the convolution itself has 36 (winograd_transforms.h).
//
// All transforms are linear, so the work on a set is done on transformed tiles. In the terms of
// interconv_kernels/algorithms.py, sets of at most `max_centered` samples are computed `centered`: the mean by Wu + Ws,
// and each sample's difference from the last one by Wu. Larger sets are `split`: M_i = U_own V_i + M_set, where M_set =
// U_set V_mean is computed once per set.
//
// grad_u is the same layer without bias on g, with transposed and flipped kernels and padding 2 - p: its set term is
// that of the mean of g. The gradient of the weight is the adjoint: dU = V^T (A g A^T), dw = G^T dU G.
//
// The work is divided into regions: the same tiles of all samples of one set. Its results depend on nothing else.
#pragma once
#include <algorithm>
#include <limits>

#include "parallel.h"
#include "sets.h"
#include "winograd_transforms.h"

namespace interconv {

struct Region {
  Set set;
  int64_t row, column, rows, columns;  // tiles

  int64_t tiles() const { return rows * columns; }
};

// The regions of all sets, in order; empty sets have regions too.
class Regions {
 public:
  // Regions of about `tiles` tiles of the output images `out`.
  Regions(const SetIndex& sets, const ImageLayout& out, int64_t tiles)
      : sets_(sets), tile_rows_((out.height + 1) / 2), tile_columns_((out.width + 1) / 2) {
    const auto part_size = [](int64_t n, int64_t max) {  // of n in parts that are nearly equal and at most max
      const int64_t parts = (n + max - 1) / max;
      return (n + parts - 1) / parts;
    };
    // At most half as many columns as tiles: a region has at least two rows, which share inputs.
    columns_ = part_size(tile_columns_, std::max<int64_t>(tiles / 2, 1));
    rows_ = part_size(tile_rows_, std::max<int64_t>(tiles / columns_, 1));
  }

  int64_t count() const { return sets_.num_sets * per_set(); }
  int64_t max_rows() const { return rows_; }
  int64_t max_columns() const { return columns_; }
  int64_t max_tiles() const { return rows_ * columns_; }

  Region operator[](int64_t i) const {
    const int64_t index = i % per_set();
    const int64_t row = index / per_row() * rows_, column = index % per_row() * columns_;
    return {sets_[i / per_set()], row, column, std::min(rows_, tile_rows_ - row),
            std::min(columns_, tile_columns_ - column)};
  }

 private:
  int64_t per_row() const { return (tile_columns_ + columns_ - 1) / columns_; }
  int64_t per_set() const { return (tile_rows_ + rows_ - 1) / rows_ * per_row(); }

  SetIndex sets_;
  int64_t tile_rows_, tile_columns_, rows_, columns_;
};

// The smallest and the largest size of a set that is not empty.
struct SetSizes {
  int64_t min = std::numeric_limits<int64_t>::max(), max = 0;

  explicit SetSizes(const SetIndex& sets) {
    for (int64_t b = 0; b < sets.num_sets; ++b) {
      if (sets[b].size() == 0) continue;
      min = std::min(min, sets[b].size());
      max = std::max(max, sets[b].size());
    }
  }
};

// Kernels w(o, i, t) = data[o * out_stride + i * in_stride + t * tap_stride], with the taps t numbered row by row.
struct KernelView {
  const float* data;
  int64_t out_stride, in_stride, tap_stride;
};

struct Padding {
  int64_t h, w;
};

// y_i = own * x_i + (set * s + bias), and slope * y_i where that is negative, if there is a slope.
class WinogradLayer {
 public:
  WinogradLayer(const ImageLayout& in, const ImageLayout& out, Padding padding, const KernelView& own,
                const KernelView& set, const float* bias, const float* slope, const SetIndex& sets,
                int64_t max_centered);

  void run(const float* x, float* y, const Regions& regions) const;

 private:
  class RegionTask;

  int64_t scratch_numel(const Regions& regions) const;

  ImageLayout in_, out_;
  Padding padding_;
  int64_t max_centered_;                   // at most the size of the largest set: scratch memory grows with it
  Buffer own_, set_, sum_, bias_, slope_;  // transformed kernels; sum = own + set. Those that no set needs are null.
};

// Sums over a chunk of regions from which the gradients of weight and bias follow: dU [2, 16, C, padded Co], and
// grad_b. For a set with mean s and summed gradients G, in transformed tiles:
// - dU[0]: the products of u_i - u_K and g_i - G / K, i < K; the gradient of the own half is dU[0] + dU[1]
// - dU[1]: the product of s and G, which is the gradient of the set half
// That is the `centered` form. It is used for all sets, since it takes one product less than `split`; `max_centered`
// only limits how many samples are kept in packed form. Those of larger sets are packed twice.
//
// Chunks follow from shapes, not from threads, and are added in order.
class WinogradWeightGradient {
 public:
  WinogradWeightGradient(const ImageLayout& u, const ImageLayout& g, Padding padding, const SetIndex& sets,
                         int64_t max_centered);

  int64_t sums_numel() const { return 2 * half_numel() + g_.padded_channels(); }
  int64_t scratch_numel(const Regions& regions) const;

  // Adds a region to the sums of its chunk, for the output channels first ... first + n - 1.
  void add(const float* u, const float* g, const Region& region, int64_t first, int64_t n, float* sums,
           float* scratch) const;

  // dw = G^T dU G from the sums of all chunks; `w` has the strides of the gradient.
  void write_weight(const float* sums, int64_t chunks, const KernelView& w, float* grad_weight) const;
  void write_bias(const float* sums, int64_t chunks, float* grad_bias) const;

 private:
  int64_t half_numel() const { return kElements * u_.channels * g_.padded_channels(); }

  ImageLayout u_, g_;
  Padding padding_;
  int64_t num_packed_;  // samples of a set that are packed at a time
};

}  // namespace interconv

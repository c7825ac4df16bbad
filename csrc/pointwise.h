// The layer with a 1x1 kernel, fused, in float32 on the CPU: the set mean, both matrix products and the sum of own and
// set term for one tile at a time, so that u is read from memory once and y is written once.
//
// A tile is the same pixels of all samples of one set; its results depend on nothing else. In the terms of
// interconv_kernels/algorithms.py, sets of at most `max_centered` samples are computed `centered`, larger ones `split`.
//
// grad_u is the same layer on g, without bias and with Wu and Ws transposed: its set term Ws^T G / K is that of the
// mean of g.
//
// In channels_last a tile is pixels [n, C], and the weight is the B of the products; in NCHW it is [C, n], and the
// weight is A.
#pragma once
#include <algorithm>
#include <vector>

#include "gemm.h"
#include "parallel.h"
#include "sets.h"

namespace interconv {

struct Tile {
  Set set;
  int64_t first, n;  // pixels first ... first + n - 1
  int64_t max_n;     // pixels of all of the set's tiles but the last, which may have fewer

  // The row stride of scratch matrices [channels, n]. Not a power of two: rows would compete for the same cache lines.
  int64_t stride() const { return max_n + kVectorWidth; }
};

// The tiles of all sets, in order.
class Tiles {
 public:
  // Pixels of a tile: at least kMinPixels, so that each product reuses the weight; at most kMaxPixels.
  static constexpr int64_t kMinPixels = 64, kMaxPixels = 256;
  // Floats of a tile, inputs and outputs of all samples: 256 KB, which with scratch memory of the same order fits the
  // L2 cache (1 MB on current servers).
  static constexpr int64_t kFloats = 64 * 1024;

  // `channels`: inputs and outputs together.
  Tiles(const SetIndex& sets, int64_t pixels, int64_t channels) : sets_(sets), pixels_(pixels), starts_{0} {
    for (int64_t b = 0; b < sets.num_sets; ++b) {
      const int64_t size = sets[b].size(), floats_per_pixel = std::max<int64_t>(1, size) * channels;
      max_n_.push_back(std::clamp(kFloats / floats_per_pixel / kNR * kNR, kMinPixels, kMaxPixels));
      starts_.push_back(starts_.back() + (size > 0 ? (pixels + max_n_.back() - 1) / max_n_.back() : 0));
    }
  }

  int64_t count() const { return starts_.back(); }

  Tile operator[](int64_t i) const {
    const int64_t b = std::upper_bound(starts_.begin(), starts_.end(), i) - starts_.begin() - 1;
    const int64_t first = (i - starts_[b]) * max_n_[b];
    return {sets_[b], first, std::min(max_n_[b], pixels_ - first), max_n_[b]};
  }

 private:
  SetIndex sets_;
  int64_t pixels_;
  std::vector<int64_t> max_n_, starts_;  // of each set: pixels of a tile, index of the first tile
};

struct PixelLayout {
  int64_t pixels;  // of a sample
  bool channels_last;

  int64_t offset_of(int64_t sample, int64_t channels, int64_t pixel) const {
    return channels_last ? (sample * pixels + pixel) * channels : sample * pixels * channels + pixel;
  }
};

// y_i = own x_i + (set s + bias), and slope * y_i where that is negative, if there is a slope.
class PointwiseLayer {
 public:
  // The weight [Co, 2C], or with `transposed` both of its halves transposed; bias and slope: [out] or null.
  PointwiseLayer(PixelLayout layout, const float* weight, int64_t co, int64_t c, bool transposed, const float* bias,
                 const float* slope, int64_t max_centered);

  void run(const float* x, float* y, const Tiles& tiles) const;

 private:
  int64_t scratch_numel() const;
  void run_channels_last(const float* x, float* y, const Tile& tile, float* scratch) const;
  void run_nchw(const float* x, float* y, const Tile& tile, float* scratch) const;
  void uncenter(float* y, const Tile& tile, int64_t rows, int64_t n, int64_t stride) const;
  void activate(float* y, const Tile& tile) const;

  PixelLayout layout_;
  int64_t in_, out_, max_centered_;
  const float* slope_;
  Buffer own_, set_, sum_, bias_;  // weights in the layout of a product's factor; sum = own + set
};

// Sums over a chunk of tiles from which the gradients of weight and bias follow. For a set with mean s and summed
// gradients G they are three matrices [Co, padded C], and grad_b:
// - own, for the own half: g_i u_i^T of `split` sets; (g_i - G / K) (u_i - u_K)^T, i < K, of `centered` sets
// - set, for the set half: G s^T of `split` sets
// - both, for both halves: G s^T of `centered` sets, which is g u^T for a set of one sample
// - grad_b: G, summed over pixels
// Chunks follow from shapes, not from threads, and are added in order.
class PointwiseWeightGradient {
 public:
  PointwiseWeightGradient(PixelLayout layout, int64_t c, int64_t co, int64_t max_centered)
      : layout_(layout), c_(c), co_(co), max_centered_(max_centered) {}

  int64_t sums_numel() const { return 3 * matrix_numel() + round_up(co_); }
  int64_t scratch_numel() const;

  // Adds a tile to the sums of its chunk, for the output channels first ... first + n - 1.
  void add(const float* g, const float* u, const Tile& tile, int64_t first, int64_t n, float* sums,
           float* scratch) const;

  // Adds the sums of all chunks to those of the first one, from which write_weight() and write_bias() read.
  void add_chunks(float* sums, int64_t chunks) const;
  void write_weight(const float* sums, float* grad_weight) const;
  void write_bias(const float* sums, float* grad_bias) const;

 private:
  class TileTask;

  int64_t matrix_numel() const { return co_ * round_up(c_); }

  PixelLayout layout_;
  int64_t c_, co_, max_centered_;
};

}  // namespace interconv

#include "pointwise.h"

namespace interconv {
namespace {

// In NCHW, the samples of a tile are packed only once where they take no more than this: 512 KB, half of the L2 cache
// of current servers.
constexpr int64_t kMaxPackedFloats = 2 * Tiles::kFloats;

}  // namespace

PointwiseLayer::PointwiseLayer(PixelLayout layout, const float* weight, int64_t co, int64_t c, bool transposed,
                               const float* bias, const float* slope, int64_t max_centered)
    : layout_(layout),
      in_(transposed ? co : c),
      out_(transposed ? c : co),
      max_centered_(max_centered),
      slope_(slope),
      bias_(allocate_zeros(round_up(out_))) {
  if (bias) std::copy_n(bias, out_, bias_.get());
  const int64_t out_stride = transposed ? 1 : 2 * c, in_stride = transposed ? 2 * c : 1;
  const int64_t numel = in_ * (layout.channels_last ? round_up(out_, kNR) : out_);
  for (Buffer* w : {&own_, &set_, &sum_}) *w = allocate_zeros(numel);
  constexpr int64_t kGrain = 16;  // rows per thread at least
  torch::stable::parallel_for(0, out_, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t i = 0; i < in_; ++i) {
        const float* w = weight + o * out_stride + i * in_stride;
        const int64_t j = layout.channels_last ? (o / kNR * in_ + i) * kNR + o % kNR : o * in_ + i;
        own_[j] = w[0], set_[j] = w[c], sum_[j] = w[0] + w[c];
      }
    }
  });
}

// The mean; the set term; and samples: as many as are packed, or two.
int64_t PointwiseLayer::scratch_numel() const {
  return (Tiles::kMaxPixels + kVectorWidth) * (3 * round_up(in_) + round_up(out_)) + kMaxPackedFloats;
}

void PointwiseLayer::run(const float* x, float* y, const Tiles& tiles) const {
  for_tasks(tiles.count(), scratch_numel(), [&](int64_t i, float* scratch) {
    const Tile tile = tiles[i];
    layout_.channels_last ? run_channels_last(x, y, tile, scratch) : run_nchw(x, y, tile, scratch);
    if (slope_) activate(y, tile);  // in the cache still
  });
}

void PointwiseLayer::run_channels_last(const float* x, float* y, const Tile& tile, float* scratch) const {
  const int64_t numel = tile.n * in_, padded_out = round_up(out_), size = tile.set.size(), last = tile.set.last();
  float *sum = scratch, *term = sum + round_up(tile.max_n * in_);
  float* difference = term + round_up(tile.max_n * padded_out);
  const MatrixC bias{bias_.get(), 0};  // the same row for every pixel
  const auto x_of = [&](int64_t i) { return x + layout_.offset_of(i, in_, tile.first); };
  const auto y_of = [&](int64_t i) { return y + layout_.offset_of(i, out_, tile.first); };
  const auto multiply = [&](const Buffer& w, const float* from, MatrixC c, float* to, int64_t n, int64_t stride) {
    gemm(tile.n, n, in_, {from, in_, 1}, {w.get(), kNR, in_ * kNR}, c, to, stride);
  };

  const float* mean = x_of(last);
  if (size > 1) {
    std::fill_n(sum, numel, 0.0f);
    for (int64_t i = tile.set.begin; i < tile.set.end; ++i) axpy(numel, 1, x_of(i), sum);
    divide(numel, static_cast<float>(size), sum);
    mean = sum;
  }
  if (size <= max_centered_) {
    multiply(sum_, mean, bias, y_of(last), out_, out_);
    for (int64_t i = tile.set.begin; i < last; ++i) {
      std::copy_n(x_of(i), numel, difference);
      axpy(numel, -1, x_of(last), difference);
      multiply(own_, difference, {nullptr, 0}, y_of(i), out_, out_);
    }
    uncenter(y, tile, 1, tile.n * out_, 0);
  } else {
    multiply(set_, mean, bias, term, padded_out, padded_out);
    for (int64_t i = tile.set.begin; i < tile.set.end; ++i) {
      multiply(own_, x_of(i), {term, padded_out}, y_of(i), out_, out_);
    }
  }
}

void PointwiseLayer::run_nchw(const float* x, float* y, const Tile& tile, float* scratch) const {
  const int64_t stride = tile.stride(), padded_n = round_up(tile.n), numel = in_ * stride;
  const int64_t size = tile.set.size(), last = tile.set.last();
  float *sum = scratch, *term = sum + numel, *samples = term + out_ * stride;
  const auto y_of = [&](int64_t i) { return y + layout_.offset_of(i, out_, tile.first); };
  const auto multiply = [&](const Buffer& w, const float* from, const float* c, float* to, int64_t n,
                            int64_t to_stride) {
    gemm(out_, n, in_, {w.get(), in_, 1}, {from, stride, kNR}, {c, stride}, to, to_stride);
  };
  // All samples are packed once where they fit, else the last one and one other at a time. Planes are far apart, often
  // by a multiple of the cache's stride, so that a second read of x might miss the cache.
  const bool keeps_all = size * numel <= kMaxPackedFloats;
  const auto packed = [&](int64_t i) { return samples + (keeps_all ? i - tile.set.begin : i == last) * numel; };
  const auto pack = [&](int64_t i) {
    copy_tile(in_, tile.n, x + layout_.offset_of(i, in_, tile.first), layout_.pixels, packed(i), stride);
  };

  for (int64_t o = 0; o < out_; ++o) std::fill_n(term + o * stride, padded_n, bias_[o]);
  const float* mean = packed(last);
  if (size > 1) {
    std::fill_n(sum, numel, 0.0f);
    for (int64_t i = tile.set.begin; i < tile.set.end; ++i) {
      pack(i);
      add_tile(in_, padded_n, packed(i), stride, sum, stride);
    }
    divide(numel, static_cast<float>(size), sum);
    mean = sum;
  } else {
    pack(last);
  }
  if (size <= max_centered_) {
    multiply(sum_, mean, term, y_of(last), tile.n, layout_.pixels);
    for (int64_t i = tile.set.begin; i < last; ++i) {
      if (!keeps_all) pack(i);
      for (int64_t c = 0; c < in_; ++c) axpy(padded_n, -1, packed(last) + c * stride, packed(i) + c * stride);
      multiply(own_, packed(i), nullptr, y_of(i), tile.n, layout_.pixels);
    }
    uncenter(y, tile, out_, tile.n, layout_.pixels);
  } else {
    multiply(set_, mean, term, term, padded_n, stride);
    for (int64_t i = tile.set.begin; i < tile.set.end; ++i) {
      if (!keeps_all) pack(i);
      multiply(own_, packed(i), term, y_of(i), tile.n, layout_.pixels);
    }
  }
}

// A tile of y [rows, n] holds the mean output m in the place of the last sample, and the outputs d_i of the differences
// in those of the others: y_K = m - (1/K) sum of d_i, y_i = y_K + d_i.
void PointwiseLayer::uncenter(float* y, const Tile& tile, int64_t rows, int64_t n, int64_t stride) const {
  const int64_t last = tile.set.last();
  const float scale = -1 / static_cast<float>(tile.set.size());
  for (int64_t r = 0; r < rows; ++r) {
    const auto y_of = [&](int64_t i) { return y + layout_.offset_of(i, out_, tile.first) + r * stride; };
    for (int64_t i = tile.set.begin; i < last; ++i) axpy(n, scale, y_of(i), y_of(last));
    for (int64_t i = tile.set.begin; i < last; ++i) axpy(n, 1, y_of(last), y_of(i));
  }
}

void PointwiseLayer::activate(float* y, const Tile& tile) const {
  for (int64_t i = tile.set.begin; i < tile.set.end; ++i) {
    float* sample = y + layout_.offset_of(i, out_, tile.first);
    if (layout_.channels_last) {
      leaky_relu_tile(tile.n, out_, slope_, sample, out_);
    } else {
      for (int64_t o = 0; o < out_; ++o) leaky_relu(tile.n, slope_[o], sample + o * layout_.pixels);
    }
  }
}

}  // namespace interconv

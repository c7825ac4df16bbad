#include "pointwise.h"

namespace interconv {

// One tile and some output channels: scratch memory, and the steps of both algorithms.
class PointwiseWeightGradient::TileTask {
 public:
  TileTask(const PointwiseWeightGradient& gradient, const float* g, const float* u, const Tile& tile, int64_t first,
           int64_t n, float* sums, float* scratch)
      : layout_(gradient.layout_),
        c_(gradient.c_),
        co_(gradient.co_),
        g_(g),
        u_(u),
        tile_(tile),
        first_(first),
        n_(n),
        padded_c_(round_up(c_)),
        size_(tile.set.size()),
        g_rows_(layout_.channels_last ? tile.n : n),
        g_columns_(layout_.channels_last ? n : tile.n),
        g_stride_(layout_.channels_last ? n : tile.stride()) {
    own_ = sums + first * padded_c_;
    set_ = own_ + gradient.matrix_numel();
    both_ = set_ + gradient.matrix_numel();
    bias_ = sums + 3 * gradient.matrix_numel() + first;
    const int64_t g_numel = tile.stride() * round_up(co_), u_numel = round_up(tile.max_n) * padded_c_;
    g_sum_ = scratch;
    g_packed_ = g_sum_ + g_numel;
    u_mean_ = g_packed_ + g_numel;
    u_packed_ = u_mean_ + u_numel;
    u_last_ = u_packed_ + u_numel;
    planes_ = u_last_ + u_numel;
    std::fill_n(g_sum_, g_rows_ * g_stride_, 0.0f);
    std::fill_n(u_mean_, u_numel_used(), 0.0f);
  }

  // For sets of at least two samples.
  void add_centered() const {
    for (int64_t i = tile_.set.begin; i < tile_.set.end; ++i) {
      pack_g(i), pack_u(i, u_last_);
      add_g(g_packed_, g_stride_);
      axpy(u_numel_used(), 1, u_last_, u_mean_);
    }
    divide(u_numel_used(), static_cast<float>(size_), u_mean_);
    add_product(g_sum_, g_stride_, u_mean_, both_);
    for (int64_t i = tile_.set.begin; i < tile_.set.last(); ++i) {
      pack_g(i), pack_u(i, u_packed_);
      for (int64_t r = 0; r < g_rows_; ++r) {
        axpy(g_columns_, -1 / static_cast<float>(size_), g_sum_ + r * g_stride_, g_packed_ + r * g_stride_);
      }
      axpy(u_numel_used(), -1, u_last_, u_packed_);
      add_product(g_packed_, g_stride_, u_packed_, own_);
    }
    add_bias();
  }

  // Also for one sample, whose product is that of both halves.
  void add_split() const {
    const bool packs_g = !layout_.channels_last, packs_u = !layout_.channels_last || c_ != padded_c_;
    for (int64_t i = tile_.set.begin; i < tile_.set.end; ++i) {
      if (packs_g) pack_g(i);
      if (packs_u) pack_u(i, u_packed_);
      const float *g_i = packs_g ? g_packed_ : g_of(i), *u_i = packs_u ? u_packed_ : u_of(i);
      const int64_t g_stride = packs_g ? g_stride_ : co_;
      add_product(g_i, g_stride, u_i, size_ > 1 ? own_ : both_);
      add_g(g_i, g_stride);
      if (size_ > 1) axpy(u_numel_used(), 1, u_i, u_mean_);
    }
    if (size_ > 1) {
      divide(u_numel_used(), static_cast<float>(size_), u_mean_);
      add_product(g_sum_, g_stride_, u_mean_, set_);
    }
    add_bias();
  }

 private:
  const float* g_of(int64_t i) const {
    return g_ + layout_.offset_of(i, co_, tile_.first) + first_ * (layout_.channels_last ? 1 : layout_.pixels);
  }
  const float* u_of(int64_t i) const { return u_ + layout_.offset_of(i, c_, tile_.first); }

  int64_t u_numel_used() const { return tile_.n * padded_c_; }

  void pack_g(int64_t i) const {
    copy_tile(g_rows_, g_columns_, g_of(i), layout_.channels_last ? co_ : layout_.pixels, g_packed_, g_stride_);
  }

  // Pixels [n, padded C], in either layout.
  void pack_u(int64_t i, float* to) const {
    if (layout_.channels_last) {
      copy_tile(tile_.n, c_, u_of(i), c_, to, padded_c_);
    } else {
      copy_tile(c_, tile_.n, u_of(i), layout_.pixels, planes_, tile_.stride());
      transpose_tile(c_, tile_.n, planes_, tile_.stride(), to, padded_c_);
    }
  }

  void add_g(const float* g, int64_t stride) const {
    add_tile(g_rows_, layout_.channels_last ? n_ : round_up(tile_.n), g, stride, g_sum_, g_stride_);
  }

  // sum [n, padded C] += g u^T, over the pixels of the tile.
  void add_product(const float* g, int64_t g_stride, const float* u, float* sum) const {
    const MatrixA a = layout_.channels_last ? MatrixA{g, 1, g_stride} : MatrixA{g, g_stride, 1};
    gemm(n_, padded_c_, tile_.n, a, {u, padded_c_, kNR}, {sum, padded_c_}, sum, padded_c_);
  }

  // The sum of G over the tile is made first, so that rounding grows with the number of tiles, not of pixels.
  void add_bias() const {
    float* total = g_packed_;
    std::fill_n(total, n_, 0.0f);
    if (layout_.channels_last) {
      for (int64_t p = 0; p < tile_.n; ++p) axpy(n_, 1, g_sum_ + p * n_, total);
    } else {
      for (int64_t o = 0; o < n_; ++o) {
        float lanes[kVectorWidth] = {};
        for (int64_t p = 0; p < round_up(tile_.n); p += kVectorWidth) {
          vec_at(lanes) += vec_at(g_sum_ + o * g_stride_ + p);
        }
        for (float x : lanes) total[o] += x;
      }
    }
    axpy(n_, 1, total, bias_);
  }

  const PixelLayout layout_;
  const int64_t c_, co_;
  const float *g_, *u_;
  const Tile tile_;
  const int64_t first_, n_, padded_c_, size_;
  const int64_t g_rows_, g_columns_, g_stride_;                         // of a tile of g in scratch memory
  float *own_, *set_, *both_, *bias_;                                   // sums
  float *g_sum_, *g_packed_, *u_mean_, *u_packed_, *u_last_, *planes_;  // scratch
};

int64_t PointwiseWeightGradient::scratch_numel() const {
  return (Tiles::kMaxPixels + kVectorWidth) * (2 * round_up(co_) + 4 * round_up(c_));
}

void PointwiseWeightGradient::add(const float* g, const float* u, const Tile& tile, int64_t first, int64_t n,
                                  float* sums, float* scratch) const {
  const TileTask task(*this, g, u, tile, first, n, sums, scratch);
  const int64_t size = tile.set.size();
  size > 1 && size <= max_centered_ ? task.add_centered() : task.add_split();
}

void PointwiseWeightGradient::add_chunks(float* sums, int64_t chunks) const {
  for (int64_t chunk = 1; chunk < chunks; ++chunk) axpy(sums_numel(), 1, sums + chunk * sums_numel(), sums);
}

void PointwiseWeightGradient::write_weight(const float* sums, float* grad_weight) const {
  const float *own = sums, *set = own + matrix_numel(), *both = set + matrix_numel();
  for (int64_t o = 0; o < co_; ++o, grad_weight += 2 * c_) {
    for (int64_t i = 0; i < c_; ++i) {
      const int64_t j = o * round_up(c_) + i;
      grad_weight[i] = own[j] + both[j];
      grad_weight[c_ + i] = set[j] + both[j];
    }
  }
}

void PointwiseWeightGradient::write_bias(const float* sums, float* grad_bias) const {
  std::copy_n(sums + 3 * matrix_numel(), co_, grad_bias);
}

}  // namespace interconv

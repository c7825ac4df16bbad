// The layer with a 1x1 kernel, fused, for float32 on the CPU: the set's mean, both matrix products and the sum of own
// and set term for one tile of pixels at a time, so that u is read from memory once and y written once.
//
// grad_u is the layer itself, without bias, with Wu and Ws transposed (its set term is Ws^T G / K, linear in the mean of
// g), so both are a `Map`. A tile is the same pixels of all samples of one set; its results depend on nothing else.
// channels_last: a tile is rows of pixels [n, C], and weights are the right factor; NCHW: [C, n], and weights the left.
#include <algorithm>
#include <vector>

#include "ops.h"
#include "product.h"

namespace interconv {
namespace {

constexpr int64_t kTileFloats = 64 * 1024;  // of a set's tile: with scratch, well within 1 MiB of L2
constexpr int64_t kMinTile = 64, kMaxTile = 256;  // pixels
constexpr int64_t kWorth = 8;  // measured

// --- the work: a tile of a set at a time ------------------------------------------------------------------------------

struct Tile {
  Span set;
  int64_t first, n, step;  // pixels first ... first+n-1; step: of the set's other tiles

  int64_t size() const { return set.hi - set.lo; }
  int64_t row() const { return step + kLanes; }  // of scratch [C, n]: no power of two, which would share cache lines
};

struct Tiles {  // of all sets, in order
  SetIndex sets;
  int64_t pixels;
  std::vector<int64_t> steps, starts;  // each set's pixels a tile, and its first tile

  Tiles(const SetIndex& sets, int64_t pixels, int64_t channels) : sets(sets), pixels(pixels), starts{0} {
    for (int64_t b = 0; b < sets.num_sets; ++b) {
      const Span set = sets.span(b);
      const int64_t size = std::max<int64_t>(1, set.hi - set.lo);
      steps.push_back(std::clamp(kTileFloats / (size * channels) / kPanel * kPanel, kMinTile, kMaxTile));
      starts.push_back(starts.back() + (set.hi > set.lo ? (pixels + steps.back() - 1) / steps.back() : 0));
    }
  }

  int64_t count() const { return starts.back(); }

  Tile operator[](int64_t i) const {
    const int64_t b = std::upper_bound(starts.begin(), starts.end(), i) - starts.begin() - 1;
    const int64_t first = (i - starts[b]) * steps[b];
    return {sets.span(b), first, std::min(steps[b], pixels - first), steps[b]};
  }
};

struct Layout {
  int64_t pixels;
  bool channels_last;

  int64_t offset(int64_t sample, int64_t channels, int64_t pixel) const {
    return channels_last ? (sample * pixels + pixel) * channels : sample * pixels * channels + pixel;
  }
};

// Whether a set of `size` samples is `centered` (interconv_kernels/algorithms.py) rather than `split`: it takes a product
// less, and passes over all samples more.
bool is_centered(int64_t size, int64_t in, int64_t out) { return size > 1 && in * out >= kWorth * size * (in + out); }

struct Map {  // y_i = own x_i + (set s + bias); both = own + set
  Layout layout;
  int64_t in, out;
  Buffer own, set, both, bias;

  Map(Layout layout, const float* weight, int64_t co, int64_t c, bool transposed, const float* b)
      : layout(layout), in(transposed ? co : c), out(transposed ? c : co), bias(allocate(padded(out))) {
    std::fill_n(bias.get(), padded(out), 0.0f);
    if (b) std::copy_n(b, out, bias.get());
    const int64_t to_in = transposed ? 2 * c : 1, to_out = transposed ? 1 : 2 * c;
    const int64_t numel = in * (layout.channels_last ? padded(out, kPanel) : out);
    for (Buffer* w : {&own, &set, &both}) {
      *w = allocate(numel);
      std::fill_n(w->get(), numel, 0.0f);
    }
    torch::stable::parallel_for(0, out, 16, [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) {
        for (int64_t i = 0; i < in; ++i) {
          const float* w = weight + o * to_out + i * to_in;
          const int64_t j = layout.channels_last ? (o / kPanel * in + i) * kPanel + o % kPanel : o * in + i;
          own[j] = w[0], set[j] = w[c], both[j] = w[0] + w[c];
        }
      }
    });
  }

  int64_t scratch(int64_t step) const {  // mean, set term, and the set's samples or one of them
    return (step + kLanes) * (3 * padded(in) + padded(out)) + 2 * kTileFloats;
  }

  void run(const float* x, float* y, const Tile& tile, float* s) const {
    layout.channels_last ? run_pixels(x, y, tile, s) : run_planes(x, y, tile, s);
  }

 private:
  void run_pixels(const float* x, float* y, const Tile& tile, float* s) const {
    const auto apply = [&](const Buffer& w, const float* from, Init init, float* to, int64_t n, int64_t to_row) {
      multiply(tile.n, n, in, {from, in, 1}, {w.get(), kPanel, in * kPanel}, init, to, to_row);
    };
    const int64_t wide = padded(out), numel = tile.n * in;
    float *t = s + padded(tile.step * in), *difference = t + padded(tile.step * wide);
    Init init{bias.get(), 0};
    if (tile.size() > 1) {
      std::fill_n(s, numel, 0.0f);
      for (int64_t i = tile.set.lo; i < tile.set.hi; ++i) {
        add_scaled(s, x + layout.offset(i, in, tile.first), numel, 1);
      }
      divide(s, numel, static_cast<float>(tile.size()));
      if (is_centered(tile.size(), in, out)) {
        const int64_t last = tile.set.hi - 1;
        apply(both, s, init, y + layout.offset(last, out, tile.first), out, out);
        for (int64_t i = tile.set.lo; i < last; ++i) {
          std::copy_n(x + layout.offset(i, in, tile.first), numel, difference);
          add_scaled(difference, x + layout.offset(last, in, tile.first), numel, -1);
          apply(own, difference, {nullptr, 0}, y + layout.offset(i, out, tile.first), out, out);
        }
        uncenter(y, tile, 1, tile.n * out, 0);
        return;
      }
      apply(set, s, init, t, wide, wide);
      init = {t, wide};
    }
    for (int64_t i = tile.set.lo; i < tile.set.hi; ++i) {
      apply(tile.size() > 1 ? own : both, x + layout.offset(i, in, tile.first), init,
            y + layout.offset(i, out, tile.first), out, out);
    }
  }

  void run_planes(const float* x, float* y, const Tile& tile, float* s) const {
    const int64_t row = tile.row(), wide = padded(tile.n), size = in * row;
    const auto apply = [&](const Buffer& w, const float* from, const float* init, float* to, int64_t n,
                           int64_t to_row) {
      multiply(out, n, in, {w.get(), in, 1}, {from, row, kPanel}, {init, row}, to, to_row);
    };
    float *t = s + size, *samples = t + out * row;
    for (int64_t o = 0; o < out; ++o) std::fill_n(t + o * row, wide, bias[o]);
    // The samples are packed once for sum and product where they fit: planes are far apart, often by a multiple of the
    // cache's stride, so that what was read need not be in the cache still.
    const bool keep = tile.size() * size <= 2 * kTileFloats;
    const int64_t last = tile.set.hi - 1;
    const auto sample = [&](int64_t i) { return samples + (keep ? i - tile.set.lo : i == last ? 1 : 0) * size; };
    const auto pack = [&](int64_t i) {
      copy_tile(sample(i), row, x + layout.offset(i, in, tile.first), layout.pixels, in, tile.n);
    };
    if (tile.size() > 1) {
      std::fill_n(s, size, 0.0f);
      for (int64_t i = tile.set.lo; i < tile.set.hi; ++i) {
        pack(i);
        add_tile(s, row, sample(i), row, in, wide);
      }
      divide(s, size, static_cast<float>(tile.size()));
      if (is_centered(tile.size(), in, out)) {
        apply(both, s, t, y + layout.offset(last, out, tile.first), tile.n, layout.pixels);
        for (int64_t i = tile.set.lo; i < last; ++i) {
          if (!keep) pack(i);
          for (int64_t c = 0; c < in; ++c) add_scaled(sample(i) + c * row, sample(last) + c * row, wide, -1);
          apply(own, sample(i), nullptr, y + layout.offset(i, out, tile.first), tile.n, layout.pixels);
        }
        uncenter(y, tile, out, tile.n, layout.pixels);
        return;
      }
      apply(set, s, t, t, wide, row);
    }
    for (int64_t i = tile.set.lo; i < tile.set.hi; ++i) {
      if (!keep || tile.size() == 1) pack(i);
      apply(tile.size() > 1 ? own : both, sample(i), t, y + layout.offset(i, out, tile.first), tile.n, layout.pixels);
    }
  }

  // y [rows, n] of a tile holds the mean m in the last sample's place and differences d_i from the last one in the others':
  // y_K = m - sum d / K, y_i = y_K + d_i.
  void uncenter(float* y, const Tile& tile, int64_t rows, int64_t n, int64_t row) const {
    const int64_t end = tile.set.hi - 1;
    for (int64_t r = 0; r < rows; ++r) {
      const auto at = [&](int64_t i) { return y + layout.offset(i, out, tile.first) + r * row; };
      for (int64_t i = tile.set.lo; i < end; ++i) add_scaled(at(end), at(i), n, -1 / static_cast<float>(tile.size()));
      for (int64_t i = tile.set.lo; i < end; ++i) add_scaled(at(i), at(end), n, 1);
    }
  }
};

// What a chunk of tiles adds to the gradients of weight and bias: sums of g_i u_i^T for Wu, of G s^T for Ws, and of what
// adds to both: g u^T of sets of one sample, and G s^T of centered sets, whose part of Wu is that and the sum of
// (g_i - G / K) (u_i - u_K)^T, i < K. Last, the sum of G. Chunks are fixed by shapes, not by threads, and summed in order.
struct Correlation {
  Layout layout;
  int64_t c, co;

  int64_t wide() const { return padded(c); }
  int64_t numel() const { return 3 * co * wide() + padded(co); }
  int64_t scratch(int64_t step) const { return (step + kLanes) * (2 * padded(co) + 4 * wide()); }

  // For the output channels first ... first + n - 1.
  void add(const float* g, const float* u, const Tile& tile, int64_t first, int64_t n, float* sums,
           float* scratch) const {
    const bool last = layout.channels_last;
    const int64_t row = last ? n : tile.row(), g_rows = last ? tile.n : n;  // of g's sum
    const int64_t u_numel = padded(tile.step) * wide(), part = co * wide();
    float *g_sum = scratch, *g_packed = g_sum + tile.row() * padded(co), *u_sum = g_packed + tile.row() * padded(co);
    float *u_packed = u_sum + u_numel, *u_last = u_packed + u_numel, *planes = u_last + u_numel;
    float* to = sums + first * wide();
    const int64_t end = tile.set.hi - 1;
    const auto product = [&](const float* g_tile, int64_t g_row, const float* u_tile, float* to) {
      const Left left = last ? Left{g_tile, 1, g_row} : Left{g_tile, g_row, 1};
      multiply(n, wide(), tile.n, left, {u_tile, wide(), kPanel}, {to, wide()}, to, wide());
    };
    const auto g_of = [&](int64_t i) { return g + layout.offset(i, co, tile.first) + first * (last ? 1 : layout.pixels); };
    const auto u_of = [&](int64_t i) { return u + layout.offset(i, c, tile.first); };
    const auto pack_g = [&](int64_t i) {
      copy_tile(g_packed, row, g_of(i), last ? co : layout.pixels, g_rows, last ? n : tile.n);
    };
    const auto pack_u = [&](int64_t i, float* to) {
      if (last) {
        copy_tile(to, wide(), u_of(i), c, tile.n, c);
      } else {
        copy_tile(planes, tile.row(), u_of(i), layout.pixels, c, tile.n);
        transpose(to, wide(), planes, tile.row(), c, tile.n);
      }
    };
    std::fill_n(g_sum, g_rows * row, 0.0f);
    std::fill_n(u_sum, tile.n * wide(), 0.0f);
    if (is_centered(tile.size(), c, co)) {
      for (int64_t i = tile.set.lo; i <= end; ++i) {
        pack_g(i), pack_u(i, u_last);
        add_tile(g_sum, row, g_packed, row, g_rows, last ? n : padded(tile.n));
        add_scaled(u_sum, u_last, tile.n * wide(), 1);
      }
      divide(u_sum, tile.n * wide(), static_cast<float>(tile.size()));
      product(g_sum, row, u_sum, to + 2 * part);
      for (int64_t i = tile.set.lo; i < end; ++i) {
        pack_g(i), pack_u(i, u_packed);
        for (int64_t r = 0; r < g_rows; ++r) {
          add_scaled(g_packed + r * row, g_sum + r * row, last ? n : tile.n, -1 / static_cast<float>(tile.size()));
        }
        add_scaled(u_packed, u_last, tile.n * wide(), -1);
        product(g_packed, row, u_packed, to);
      }
      add_pixels(g_sum, row, tile.n, n, sums + 3 * part + first, g_packed);
      return;
    }
    for (int64_t i = tile.set.lo; i <= end; ++i) {
      const float *g_tile = g_of(i), *u_tile = u_of(i);
      if (!last) pack_g(i), g_tile = g_packed;
      if (!last || c != wide()) pack_u(i, u_packed), u_tile = u_packed;
      const int64_t g_row = last ? co : row;
      product(g_tile, g_row, u_tile, to + (tile.size() > 1 ? 0 : 2 * part));
      add_tile(g_sum, row, g_tile, g_row, g_rows, last ? n : padded(tile.n));
      if (tile.size() > 1) add_scaled(u_sum, u_tile, tile.n * wide(), 1);
    }
    if (tile.size() > 1) {
      divide(u_sum, tile.n * wide(), static_cast<float>(tile.size()));
      product(g_sum, row, u_sum, to + part);
    }
    add_pixels(g_sum, row, tile.n, n, sums + 3 * part + first, g_packed);
  }

 private:
  // Tile by tile, so that rounding grows with the number of tiles, not of pixels.
  void add_pixels(const float* g_sum, int64_t row, int64_t pixels, int64_t n, float* sums, float* total) const {
    std::fill_n(total, n, 0.0f);
    if (layout.channels_last) {
      for (int64_t p = 0; p < pixels; ++p) add_scaled(total, g_sum + p * n, n, 1);
    } else {
      for (int64_t o = 0; o < n; ++o) {
        float lanes[kLanes] = {};
        for (int64_t p = 0; p < padded(pixels); p += kLanes) at(lanes) += at(g_sum + o * row + p);
        for (float x : lanes) total[o] += x;
      }
    }
    add_scaled(sums, total, n, 1);
  }
};

// The channels C of u and the pixels of a sample, from x [N, channels P].
Layout check_layout(const Tensor& u, const Tensor& weight, const SetIndex& sets, bool channels_last, int64_t& c) {
  STD_TORCH_CHECK(u.scalar_type() == ScalarType::Float, "dtype number ", static_cast<int>(u.scalar_type()),
                  ": expected float32");
  const int64_t columns = columns_of(weight, "weight"), m = columns_of(u, "u");
  c = columns / 2;
  STD_TORCH_CHECK(c > 0 && columns % 2 == 0 && m % c == 0, "weight is [Co, ", columns, "], u [N, ", m,
                  "]: expected [Co, 2C] and [N, C P]");
  check(weight, "weight", weight.size(0), columns, u);
  check(u, "u", sets.num_rows, m, u);
  return {m / c, channels_last};
}

void pointwise_forward(const Tensor u, const Tensor weight, const std::optional<Tensor> bias, const Tensor offsets,
                       const Tensor set_ids, bool channels_last, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, u);
  int64_t c;
  const int64_t co = weight.size(0);
  const Layout layout = check_layout(u, weight, sets, channels_last, c);
  check(out, "out", sets.num_rows, co * layout.pixels, u);
  if (bias) check(*bias, "bias", 1, co, u);
  const Tiles tiles(sets, layout.pixels, c + co);
  const Map map(layout, in<float>(weight), co, c, false, bias ? in<float>(*bias) : nullptr);
  const float* x = in<float>(u);
  float* y = result<float>(out);
  for_tasks(tiles.count(), map.scratch(kMaxTile),
            [&](int64_t i, float* scratch) { map.run(x, y, tiles[i], scratch); });
}

void pointwise_backward(const Tensor g, const Tensor u, const Tensor weight, const Tensor offsets, const Tensor set_ids,
                        bool channels_last, std::optional<Tensor> grad_u, std::optional<Tensor> grad_weight,
                        std::optional<Tensor> grad_bias) {
  const SetIndex sets = index_of(offsets, set_ids, u);
  int64_t c;
  const int64_t co = weight.size(0);
  const Layout layout = check_layout(u, weight, sets, channels_last, c);
  check(g, "g", sets.num_rows, co * layout.pixels, u);
  if (grad_u) check(*grad_u, "grad_u", sets.num_rows, c * layout.pixels, u);
  if (grad_weight) check(*grad_weight, "grad_weight", co, 2 * c, u);
  if (grad_bias) check(*grad_bias, "grad_bias", 1, co, u);

  const Tiles tiles(sets, layout.pixels, c + co);
  const float *g_in = in<float>(g), *u_in = in<float>(u);
  if (grad_u) {
    const Map map(layout, in<float>(weight), co, c, true, nullptr);
    float* out = result<float>(*grad_u);
    for_tasks(tiles.count(), map.scratch(kMaxTile),
              [&](int64_t i, float* scratch) { map.run(g_in, out, tiles[i], scratch); });
  }
  if (!grad_weight && !grad_bias) return;

  const Correlation sums{layout, c, co};
  const int64_t traffic = sets.num_rows * layout.pixels * (c + co);
  const int64_t chunks = chunks_of(tiles.count(), traffic, sums.numel());
  const Buffer total = allocate(chunks * sums.numel());
  std::fill_n(total.get(), chunks * sums.numel(), 0.0f);
  for_chunks(tiles.count(), chunks, (co + kRows - 1) / kRows, sums.scratch(kMaxTile),
             [&](int64_t i, int64_t chunk, int64_t first, int64_t end, float* scratch) {
               const int64_t channel = first * kRows, n = std::min(end * kRows, co) - channel;
               sums.add(g_in, u_in, tiles[i], channel, n, total.get() + chunk * sums.numel(), scratch);
             });
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    add_scaled(total.get(), total.get() + chunk * sums.numel(), sums.numel(), 1);
  }
  const int64_t part = co * sums.wide();
  for (int64_t o = 0; grad_weight && o < co; ++o) {
    const float* row = total.get() + o * sums.wide();
    float* to = result<float>(*grad_weight) + o * 2 * c;
    for (int64_t i = 0; i < c; ++i) {
      to[i] = row[i] + row[2 * part + i];
      to[c + i] = row[part + i] + row[2 * part + i];
    }
  }
  if (grad_bias) std::copy_n(total.get() + 3 * part, co, result<float>(*grad_bias));
}

}  // namespace
}  // namespace interconv

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CPU, m) {
  m.impl("pointwise_forward", TORCH_BOX(&interconv::pointwise_forward));
  m.impl("pointwise_backward", TORCH_BOX(&interconv::pointwise_backward));
}

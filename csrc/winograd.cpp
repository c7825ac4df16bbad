// The layer with a 3x3 kernel and stride 1, fused, for float32 on the CPU, by Winograd's F(2x2, 3x3) (Lavin and Gray,
// arXiv:1509.09308): a tile of 2x2 outputs y from its 4x4 inputs x by 16 products where the sum itself has 36,
//
//   y = A^T M A,   M = sum over channels of U * V at each of the 16 places,   U = G w G^T,   V = B^T x B.
//
// (A^T M A = b if M is b at place (1, 1) and zero elsewhere.) The form is `centered` (interconv_kernels/algorithms.py):
// the set's mean by Wu + Ws, and each sample's difference from the last by Wu. Sets of more than kKept samples, for which
// it saves little, take `split`: M_i = U_own V_i + M_s with M_s = U_set V_s made once a set.
//
// grad_u is the layer itself, without bias, on g with kernels transposed and turned (its set term is the mean's), so both
// are a `Map`. The adjoint gives the weights': dU = V^T (A g A^T), dw = G^T dU G; place (1, 1) of A g A^T is the sum of
// the tile, whose sum is grad_b.
//
// The work is cut into regions: the same tiles of all samples of one set. Its results depend on nothing else.
#include <algorithm>
#include <vector>

#include "ops.h"
#include "product.h"
#include "winograd_tiles.h"

namespace interconv {
namespace {

constexpr int64_t kKept = 8;  // samples of a set that are packed once for sum and differences

struct Region {
  Span set;
  int64_t row, column, rows, columns;  // tiles

  int64_t tiles() const { return rows * columns; }
  int64_t size() const { return set.hi - set.lo; }
};

struct Regions {  // of all sets, in order
  SetIndex sets;
  int64_t tile_rows, tile_columns, rows, columns;

  // Regions of about `tiles` tiles.
  Regions(const SetIndex& sets, const Image& out, int64_t tiles)
      : sets(sets), tile_rows((out.height + 1) / 2), tile_columns((out.width + 1) / 2) {
    const auto even = [](int64_t n, int64_t most) {  // parts of n, none above most, as equal as can be
      const int64_t parts = (n + most - 1) / most;
      return (n + parts - 1) / parts;
    };
    columns = even(tile_columns, std::max<int64_t>(tiles / 2, 1));
    rows = even(tile_rows, std::max<int64_t>(tiles / columns, 1));
  }

  int64_t across() const { return (tile_columns + columns - 1) / columns; }
  int64_t per_set() const { return (tile_rows + rows - 1) / rows * across(); }
  int64_t count() const { return sets.num_sets * per_set(); }

  Region operator[](int64_t i) const {
    const int64_t at = i % per_set(), row = at / across() * rows, column = at % across() * columns;
    return {sets.span(i / per_set()), row, column, std::min(rows, tile_rows - row),
            std::min(columns, tile_columns - column)};
  }
};

// --- weights ----------------------------------------------------------------------------------------------------------

struct Kernels {  // w(o, i, t) = p[o to_out + i to_in + t to_tap], taps row by row
  const float* p;
  int64_t to_out, to_in, to_tap;
};

// U of the kernels w, or of their sum with `added`, as right factors [16, panels, in, kPanel] of a product.
Buffer transform_weight(const Kernels& w, const Kernels* added, int64_t out, int64_t in) {
  const int64_t panels = padded(out, kPanel) / kPanel, plane = panels * in * kPanel;
  Buffer u = allocate(kPlaces * plane);
  torch::stable::parallel_for(0, panels * in, 64, [&](int64_t begin, int64_t end) {
    float x[9 * kPanel] = {};
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row / in * kPanel, i = row % in;
      for (int64_t o = 0; o < kPanel; ++o) {
        for (int64_t t = 0; t < 9; ++t) {
          const int64_t at = (first + o) * w.to_out + i * w.to_in + t * w.to_tap;
          x[t * kPanel + o] = first + o < out ? w.p[at] + (added ? added->p[at] : 0) : 0;
        }
      }
      transform_kernels(x, u.get() + row * kPanel, plane);
    }
  });
  return u;
}

// --- y and grad_u -----------------------------------------------------------------------------------------------------

bool any(const SetIndex& sets, int64_t least, int64_t most) {  // sets of so many samples
  for (int64_t b = 0; b < sets.num_sets; ++b) {
    const Span set = sets.span(b);
    if (set.hi - set.lo >= least && set.hi - set.lo <= most) return true;
  }
  return false;
}

struct Map {  // y_i = own x_i + (set s + bias)
  Image in, out;
  int64_t pad_h, pad_w;
  Buffer own, set, both, bias;  // both = own + set

  Map(Image in, Image out, int64_t pad_h, int64_t pad_w, Kernels w_own, Kernels w_set, const float* b,
      const SetIndex& sets)
      : in(in), out(out), pad_h(pad_h), pad_w(pad_w), bias(allocate(out.wide())) {
    std::fill_n(bias.get(), out.wide(), 0.0f);
    if (b) std::copy_n(b, out.channels, bias.get());
    if (any(sets, 1, kKept)) both = transform_weight(w_own, &w_set, out.channels, in.channels);
    if (any(sets, 2, sets.num_rows)) own = transform_weight(w_own, nullptr, out.channels, in.channels);
    if (any(sets, kKept + 1, sets.num_rows)) set = transform_weight(w_set, nullptr, out.channels, in.channels);
  }

  int64_t scratch(const Regions& regions) const {
    const int64_t tiles = regions.rows * regions.columns;
    return (kKept + 1) * in.patch(regions.rows, regions.columns) + kPlaces * plane_of(tiles, in.wide()) +
           2 * kPlaces * plane_of(tiles, out.wide()) + kKept * 4 * tiles * out.wide() + std::max(in.spare(), out.spare());
  }

  void run_all(const float* x, float* y, const Regions& regions) const {
    for_tasks(regions.count(), scratch(regions), [&](int64_t i, float* s) {
      if (regions[i].size() > 0) run(x, y, regions[i], s);
    });
  }

 private:
  void run(const float* x, float* y, const Region& region, float* s) const {
    const int64_t numel = in.patch(region.rows, region.columns), tiles = region.tiles(), size = region.size();
    const int64_t plane = plane_of(tiles, in.wide()), out_plane = plane_of(tiles, out.wide());
    const int64_t out_numel = 4 * tiles * out.wide(), last = size - 1;
    float *packed = s, *mean = packed + kKept * numel, *v = mean + numel, *m = v + kPlaces * plane;
    float *m_set = m + kPlaces * out_plane, *pixels = m_set + kPlaces * out_plane, *spare = pixels + kKept * out_numel;
    const auto read = [&](int64_t i, float* to) {
      pack(in, x + (region.set.lo + i) * in.numel(), 2 * region.row - pad_h, 2 * region.column - pad_w,
           2 * region.rows + 2, 2 * region.columns + 2, to, spare);
    };
    const auto write = [&](int64_t i, const float* from) {
      unpack(out, y + (region.set.lo + i) * out.numel(), 2 * region.row, 2 * region.column, 2 * region.rows,
             2 * region.columns, from, spare);
    };
    const auto apply = [&](const Buffer& w, const float* from, const auto& init, float* to) {
      const int64_t panel = in.channels * kPanel, w_plane = padded(out.channels, kPanel) / kPanel * panel;
      transform_input(from, region.rows, region.columns, in.wide(), v);
      for (int64_t p = 0; p < kPlaces; ++p) {
        multiply(tiles, out.wide(), in.channels, {v + p * plane, in.wide(), 1}, {w.get() + p * w_plane, kPanel, panel},
                 init(p), to + p * out_plane, out.wide());
      }
    };
    const auto transform = [&](float* to) { transform_output(m, region.rows, region.columns, out.wide(), to); };
    const auto zero = [](int64_t) { return Init{nullptr, 0}; };
    const auto bias_alone = [&](int64_t p) { return Init{p == kMiddle ? bias.get() : nullptr, 0}; };

    if (size > kKept) {
      std::fill_n(mean, numel, 0.0f);
      for (int64_t i = 0; i < size; ++i) {
        read(i, packed);
        add_scaled(mean, packed, numel, 1);
      }
      divide(mean, numel, static_cast<float>(size));
      apply(set, mean, bias_alone, m_set);
      for (int64_t i = 0; i < size; ++i) {
        read(i, packed);
        apply(own, packed, [&](int64_t p) { return Init{m_set + p * out_plane, out.wide()}; }, m);
        transform(pixels);
        write(i, pixels);
      }
      return;
    }
    for (int64_t i = 0; i < size; ++i) read(i, packed + i * numel);
    const float* last_patch = packed + last * numel;
    float* last_pixels = pixels + last * out_numel;
    if (last > 0) {
      std::copy_n(last_patch, numel, mean);
      for (int64_t i = 0; i < last; ++i) add_scaled(mean, packed + i * numel, numel, 1);
      divide(mean, numel, static_cast<float>(size));
    }
    apply(both, last > 0 ? mean : last_patch, bias_alone, m);
    transform(last_pixels);  // the mean output, from which the last one follows
    for (int64_t i = 0; i < last; ++i) {
      add_scaled(packed + i * numel, last_patch, numel, -1);
      apply(own, packed + i * numel, zero, m);
      transform(pixels + i * out_numel);
    }
    for (int64_t i = 0; i < last; ++i) {
      add_scaled(last_pixels, pixels + i * out_numel, out_numel, -1 / static_cast<float>(size));
    }
    for (int64_t i = 0; i < last; ++i) {
      add_scaled(pixels + i * out_numel, last_pixels, out_numel, 1);
      write(i, pixels + i * out_numel);
    }
    write(last, last_pixels);
  }
};

// --- the weights' gradients -------------------------------------------------------------------------------------------

// What a chunk of regions adds to dU: [differences, means][16, C, wide Co], and to grad_b. dU_set is the sum over means
// s and summed gradients G, and dU_own is that and the sum over u_i - u_K and g_i - G / K, i < K. Chunks are fixed by
// shapes, not by threads, and summed in order.
struct Correlation {
  Image u, g;
  int64_t pad_h, pad_w;

  int64_t part() const { return kPlaces * u.channels * g.wide(); }
  int64_t numel() const { return 2 * part() + g.wide(); }

  int64_t scratch(const Regions& regions) const {
    const int64_t tiles = regions.rows * regions.columns;
    return (kKept + 1) * (u.patch(regions.rows, regions.columns) + 4 * tiles * g.wide()) +
           kPlaces * (plane_of(tiles, u.wide()) + plane_of(tiles, g.wide())) + std::max(u.spare(), g.spare());
  }

  // For the output channels first ... first + n - 1.
  void add(const float* u_in, const float* g_in, const Region& region, int64_t first, int64_t n, float* sums,
           float* s) const {
    const int64_t u_numel = u.patch(region.rows, region.columns), tiles = region.tiles(), size = region.size();
    const int64_t g_numel = 4 * tiles * g.wide(), last = size - 1;
    const int64_t v_plane = plane_of(tiles, u.wide()), m_plane = plane_of(tiles, n);
    float *u_packed = s, *mean = u_packed + kKept * u_numel, *g_packed = mean + u_numel;
    float *g_sum = g_packed + kKept * g_numel, *v = g_sum + g_numel, *m = v + kPlaces * v_plane;
    float* spare = m + kPlaces * m_plane;
    // All samples are kept where there is room, else the last one and one other.
    const auto slot = [&](int64_t i) { return size <= kKept ? i : i == last ? 1 : 0; };
    const auto read = [&](int64_t i) {
      const int64_t sample = region.set.lo + i;
      pack(u, u_in + sample * u.numel(), 2 * region.row - pad_h, 2 * region.column - pad_w, 2 * region.rows + 2,
           2 * region.columns + 2, u_packed + slot(i) * u_numel, spare);
      pack(g, g_in + sample * g.numel(), 2 * region.row, 2 * region.column, 2 * region.rows, 2 * region.columns,
           g_packed + slot(i) * g_numel, spare);
    };
    const auto correlate = [&](const float* u_pixels, const float* g_pixels, float* to) {
      transform_input(u_pixels, region.rows, region.columns, u.wide(), v);
      transform_gradient(g_pixels + first, region.rows, region.columns, g.wide(), n, m);
      to += first;
      for (int64_t p = 0; p < kPlaces; ++p, to += u.channels * g.wide()) {
        multiply(u.channels, n, tiles, {v + p * v_plane, 1, u.wide()}, {m + p * m_plane, n, kPanel}, {to, g.wide()}, to,
                 g.wide());
      }
    };
    std::fill_n(mean, u_numel, 0.0f);
    std::fill_n(g_sum, g_numel, 0.0f);
    for (int64_t i = 0; i < size; ++i) {
      read(i);
      add_scaled(mean, u_packed + slot(i) * u_numel, u_numel, 1);
      add_scaled(g_sum, g_packed + slot(i) * g_numel, g_numel, 1);
    }
    divide(mean, u_numel, static_cast<float>(size));
    correlate(mean, g_sum, sums + part());
    for (int64_t t = 0; t < tiles; ++t) {
      add_scaled(sums + 2 * part() + first, m + kMiddle * m_plane + t * n, n, 1);
    }
    for (int64_t i = 0; i < last; ++i) {
      if (size > kKept) read(i);
      float *u_i = u_packed + slot(i) * u_numel, *g_i = g_packed + slot(i) * g_numel;
      add_scaled(u_i, u_packed + slot(last) * u_numel, u_numel, -1);
      add_scaled(g_i, g_sum, g_numel, -1 / static_cast<float>(size));
      correlate(u_i, g_i, sums);
    }
  }

  // dw = G^T dU G into grad_weight w(o, i, t), its set half C inputs on, from the sums of all chunks.
  void finish(const float* sums, int64_t chunks, const Kernels& w, float* grad) const {
    torch::stable::parallel_for(0, u.channels, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> total(2 * kPlaces * g.wide()), taps(9 * g.wide());
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t row = 0; row < 2 * kPlaces; ++row) {
          const float* from = sums + (row * u.channels + i) * g.wide();
          float* to = total.data() + row * g.wide();
          std::copy_n(from, g.wide(), to);
          for (int64_t chunk = 1; chunk < chunks; ++chunk) add_scaled(to, from + chunk * numel(), g.wide(), 1);
        }
        add_scaled(total.data(), total.data() + kPlaces * g.wide(), kPlaces * g.wide(), 1);
        for (int half = 0; half < 2; ++half) {
          gather_kernels(total.data() + half * kPlaces * g.wide(), taps.data(), g.wide());
          float* to = grad + (half * u.channels + i) * w.to_in;
          for (int64_t o = 0; o < g.channels; ++o) {
            for (int64_t t = 0; t < 9; ++t) to[o * w.to_out + t * w.to_tap] = taps[t * g.wide() + o];
          }
        }
      }
    });
  }
};

// --- the ops ----------------------------------------------------------------------------------------------------------

// A share for each thread, where the images are small and the sets few: no bit of y depends on how tiles are grouped.
int64_t shared_tiles(const SetIndex& sets, const Image& out, int64_t most) {
  const int64_t tiles = sets.num_sets * ((out.height + 1) / 2) * ((out.width + 1) / 2);
  return std::clamp<int64_t>(tiles / torch::stable::get_num_threads(), kRows, most);
}

// About as many tiles as keep a region's planes in the L2 cache, enough of them to reuse the weights.
int64_t tiles_of(int64_t in, int64_t out) {
  constexpr int64_t kFloats = 160 * 1024;
  return std::clamp<int64_t>(kFloats / (kPlaces * (padded(in) + 2 * padded(out))), 32, 128);
}

struct Layer {  // what all of a layer's ops see: images, the kernels' strides, padding
  Image u, y;
  Kernels w;
  int64_t pad_h, pad_w;

  // u [N, C H W], weight [Co, 2C 9], both in the memory order of NCHW or both of channels_last.
  Layer(const Tensor& u_rows, const Tensor& weight, const SetIndex& sets, bool channels_last, int64_t height,
        int64_t width, int64_t pad_h, int64_t pad_w)
      : pad_h(pad_h), pad_w(pad_w) {
    STD_TORCH_CHECK(u_rows.scalar_type() == ScalarType::Float, "dtype number ",
                    static_cast<int>(u_rows.scalar_type()), ": expected float32");
    STD_TORCH_CHECK(std::min(pad_h, pad_w) >= 0 && std::max(pad_h, pad_w) <= 2, "padding (", pad_h, ", ", pad_w,
                    "): expected 0, 1 or 2");
    const int64_t columns = columns_of(weight, "weight"), c = columns / 18;
    STD_TORCH_CHECK(c > 0 && columns == 18 * c, "weight is [Co, ", columns, "]: expected [Co, 2C 9]");
    u = {c, height, width, channels_last};
    y = {weight.size(0), height + 2 * pad_h - 2, width + 2 * pad_w - 2, channels_last};
    STD_TORCH_CHECK(y.height > 0 && y.width > 0, "images of ", height, " x ", width, ": too small for a 3x3 kernel");
    check(weight, "weight", weight.size(0), columns, u_rows);
    check(u_rows, "u", sets.num_rows, u.numel(), u_rows);
    w = channels_last ? Kernels{in<float>(weight), 18 * c, 1, 2 * c} : Kernels{in<float>(weight), 18 * c, 9, 1};
  }

  Kernels half(int64_t which) const { return {w.p + which * u.channels * w.to_in, w.to_out, w.to_in, w.to_tap}; }
  Kernels turned(int64_t which) const {  // transposed, the last tap first
    const Kernels k = half(which);
    return {k.p + 8 * k.to_tap, k.to_in, k.to_out, -k.to_tap};
  }
};

void winograd_forward(const Tensor u, const Tensor weight, const std::optional<Tensor> bias, const Tensor offsets,
                      const Tensor set_ids, bool channels_last, int64_t height, int64_t width, int64_t pad_h,
                      int64_t pad_w, Tensor out) {
  const SetIndex sets = index_of(offsets, set_ids, u);
  const Layer layer(u, weight, sets, channels_last, height, width, pad_h, pad_w);
  check(out, "out", sets.num_rows, layer.y.numel(), u);
  if (bias) check(*bias, "bias", 1, layer.y.channels, u);
  const Map map(layer.u, layer.y, pad_h, pad_w, layer.half(0), layer.half(1), bias ? in<float>(*bias) : nullptr, sets);
  const Regions regions(sets, layer.y, shared_tiles(sets, layer.y, tiles_of(layer.u.channels, layer.y.channels)));
  map.run_all(in<float>(u), result<float>(out), regions);
}

void winograd_backward(const Tensor g, const Tensor u, const Tensor weight, const Tensor offsets, const Tensor set_ids,
                       bool channels_last, int64_t height, int64_t width, int64_t pad_h, int64_t pad_w,
                       std::optional<Tensor> grad_u, std::optional<Tensor> grad_weight,
                       std::optional<Tensor> grad_bias) {
  const SetIndex sets = index_of(offsets, set_ids, u);
  const Layer layer(u, weight, sets, channels_last, height, width, pad_h, pad_w);
  check(g, "g", sets.num_rows, layer.y.numel(), u);
  if (grad_u) check(*grad_u, "grad_u", sets.num_rows, layer.u.numel(), u);
  if (grad_weight) check(*grad_weight, "grad_weight", weight.size(0), weight.size(1), u);
  if (grad_bias) check(*grad_bias, "grad_bias", 1, layer.y.channels, u);
  const float *g_in = in<float>(g), *u_in = in<float>(u);

  if (grad_u) {
    const Map map(layer.y, layer.u, 2 - pad_h, 2 - pad_w, layer.turned(0), layer.turned(1), nullptr, sets);
    const Regions regions(sets, layer.u, shared_tiles(sets, layer.u, tiles_of(layer.y.channels, layer.u.channels)));
    map.run_all(g_in, result<float>(*grad_u), regions);
  }
  if (!grad_weight && !grad_bias) return;

  const Correlation sums{layer.u, layer.y, pad_h, pad_w};
  const Regions regions(sets, layer.y, tiles_of(layer.u.channels, layer.y.channels));
  const int64_t traffic = sets.num_rows * (layer.u.numel() + layer.y.numel());
  const int64_t chunks = chunks_of(regions.count(), traffic, sums.numel());
  const Buffer total = allocate(chunks * sums.numel());
  std::fill_n(total.get(), chunks * sums.numel(), 0.0f);
  const int64_t panels = padded(layer.y.channels, kPanel) / kPanel;
  for_chunks(regions.count(), chunks, panels, sums.scratch(regions),
             [&](int64_t i, int64_t chunk, int64_t first, int64_t end, float* scratch) {
               if (regions[i].size() == 0) return;
               const int64_t channel = first * kPanel, n = std::min(end * kPanel, layer.y.wide()) - channel;
               sums.add(u_in, g_in, regions[i], channel, n, total.get() + chunk * sums.numel(), scratch);
             });
  if (grad_weight) sums.finish(total.get(), chunks, layer.w, result<float>(*grad_weight));
  if (grad_bias) {
    float* to = result<float>(*grad_bias);
    std::fill_n(to, layer.y.channels, 0.0f);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      add_scaled(to, total.get() + chunk * sums.numel() + 2 * sums.part(), layer.y.channels, 1);
    }
  }
}

}  // namespace
}  // namespace interconv

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CPU, m) {
  m.impl("winograd_forward", TORCH_BOX(&interconv::winograd_forward));
  m.impl("winograd_backward", TORCH_BOX(&interconv::winograd_backward));
}

// What the layer's kernels share: the order of work, inputs to shared memory, sums from and to memory.
#pragma once
#include "arguments.h"
#include "configs.h"

namespace interconv::halo {

struct Warps {  // first ... first + count - 1
  int first, count;
};

template <class T, auto X>
struct LayerBase {
  static constexpr int MT = X.mt, NT = X.nt(), K = X.kernel, S = X.stride;
  static constexpr int kTileH = X.tile_h(), kTileW = X.tile_w(), kHaloH = X.halo_h(), kHaloW = X.halo_w();
  static constexpr int kPlanes = X.planes(), kPlane = X.plane(), kWeights = X.weights_bytes();
  static constexpr int kStaging = X.staging(), kRowBytes = X.staging_row();
  static constexpr int kVector = 16 / sizeof(T);                    // values of a plane
  static constexpr bool kChunks = X.weights == Weights::kStreamed;  // else all channels are there at once

  Arguments<T> a;

  // A chunk of the mean, or of sample i, of the set lo ... hi-1 on a tile. An item, a tile and a part of the samples,
  // has one step after the other: for each of its sets the mean of all samples, then its samples that are in the part.
  struct Step {
    int item, i, lo, hi, h0, w0, chunk;
    bool mean;
  };

  IK_DEVICE int chunks() const { return kChunks ? (a.channels + X.channels - 1) / X.channels : 1; }
  IK_DEVICE int column_tiles() const { return (a.out_channels + X.columns - 1) / X.columns; }
  IK_DEVICE int tiles_w() const { return (a.out_w + kTileW - 1) / kTileW; }
  IK_DEVICE int tiles() const { return (a.out_h + kTileH - 1) / kTileH * tiles_w(); }
  // The parts of a tile come one after the other: programs that make the mean of one set do so at the same time.
  IK_DEVICE int items() const { return tiles() * a.parts; }
  IK_DEVICE int first_sample(int part) const {  // the first parts have one more
    const int more = a.samples % a.parts;
    return a.samples / a.parts * part + (part < more ? part : more);
  }

  IK_DEVICE Step first(Block& block, int item) const {
    Step s{item, 0, 0, 0, 0, 0, 0, false};
    if (item >= items()) return s;
    const int part = item % a.parts, tile = item / a.parts;
    s.i = first_sample(part);
    s.h0 = tile / tiles_w() * kTileH, s.w0 = tile % tiles_w() * kTileW;
    start_set(block, s);
    return s;
  }
  IK_DEVICE void start_set(Block& block, Step& s) const {
    if (a.single) {
      s.hi = a.samples;
    } else {
      const int b = block.template read<int32_t>(a.set_ids + s.i);
      s.lo = block.template read<int32_t>(a.offsets + b), s.hi = block.template read<int32_t>(a.offsets + b + 1);
      s.mean = true;
    }
  }
  IK_DEVICE Step next(Block& block, Step s, int stride) const {
    if (kChunks && ++s.chunk < chunks()) return s;
    s.chunk = 0;
    if (s.mean) {
      s.mean = false;
    } else if (++s.i == first_sample(s.item % a.parts + 1)) {
      return first(block, s.item + stride);
    } else if (s.i == s.hi) {
      start_set(block, s);
    }
    return s;
  }

  // f(offset in the tile, offset in an image, first channel, whether there is such a pixel) for each 16 bytes.
  template <class F>
  IK_DEVICE void each_vector(Block& block, Warps by, const Step& s, F f) const {
    block.for_each(by.first, by.count, kHaloH * kHaloW * kPlanes, [&](int v) {
      const int plane = v % kPlanes, pixel = v / kPlanes, c = s.chunk * X.channels + plane * kVector;
      const int column = pixel % kHaloW % (kHaloW / S) * S + pixel % kHaloW / (kHaloW / S);
      const int h = S * s.h0 - a.pad_h + pixel / kHaloW, w = S * s.w0 - a.pad_w + column;
      const int64_t at = int64_t(h) * a.w + w;
      const bool inside = unsigned(h) < unsigned(a.h) && unsigned(w) < unsigned(a.w) && at < a.pixels;
      f(plane * kPlane + pixel * 16, at * a.channels + c, c, inside);
    });
  }

  IK_DEVICE const T* sample(int i) const { return a.u + int64_t(i) * a.pixels * a.channels; }

  template <int V>
  IK_DEVICE void copy_tile(Block& block, Warps by, const Step& s, int to) const {
    const T* u = sample(s.i);
    each_vector(block, by, s, [&](int offset, int64_t at, int c, bool inside) {
      IK_UNROLL for (int j = 0; j < kVector; j += V) {
        const bool there = inside && c + j < a.channels;
        block.template copy<V * sizeof(T)>(to + offset + j * sizeof(T), there ? u + at + j : a.u, there);
      }
    });
  }

  // The mean of the samples begin ... end-1 on the tile, summed in float32 and rounded once.
  template <int V>
  IK_DEVICE void make_mean(Block& block, Warps by, const Step& s, int begin, int end, int to) const {
    const int64_t image = int64_t(a.pixels) * a.channels;
    each_vector(block, by, s, [&](int offset, int64_t at, int c, bool inside) {
      float sum[kVector] = {};
      if (inside) {
        const T* p = sample(begin) + at;
        IK_UNROLL_BY(V / 2 + 1) for (int i = begin; i < end; ++i, p += image) {
          IK_UNROLL for (int j = 0; j < kVector; j += V) {
            if (c + j >= a.channels) continue;
            const auto values = block.template read<Vector<T, V>>(p + j);
            T x[V];
            memcpy(x, &values, sizeof(x));
            IK_UNROLL for (int k = 0; k < V; ++k) sum[j + k] += to_float(x[k]);
          }
        }
      }
      const float scale = 1.0f / float(end - begin);
      IK_UNROLL for (int j = 0; j < kVector; j += 2) {
        const auto two = pack<T>(sum[j] * scale, sum[j + 1] * scale);
        memcpy(reinterpret_cast<char*>(sum) + j * sizeof(T), &two, sizeof(two));
      }
      uint4 values;
      memcpy(&values, sum, sizeof(values));
      block.put(to + offset, values);
    });
  }

  // Packed [half][column tile][chunk][kWeights bytes].
  IK_DEVICE void copy_weights(Block& block, Warps by, bool set_half, int column_tile, int chunk, int to) const {
    const int index = ((set_half ? 1 : 0) * column_tiles() + column_tile) * chunks() + chunk;
    const T* from = a.weights + int64_t(index) * (kWeights / sizeof(T));
    block.for_each(by.first, by.count, kWeights / 16,
                   [&](int v) { block.template copy<16>(to + v * 16, from + v * kVector, true); });
  }

  struct Place {  // of a warp in the tile
    int row, col, column;
  };
  struct Sums {
    FragC c[MT][NT];
  };

  IK_DEVICE float of_channel(Block& block, const T* values, int co) const {
    return values && co < a.out_channels ? to_float(T{block.template read<Vector<T, 1>>(values + co)}) : 0.0f;
  }

  IK_DEVICE void start_from_bias(Block& block, int first_column, Sums& sums) const {
    IK_UNROLL for (int n = 0; n < NT; ++n) {
      IK_UNROLL for (int m = 0; m < MT; ++m) {
        IK_UNROLL for (int half = 0; half < 2; ++half) {
          block.pairs(sums.c[m][n], half, [&](int, int column, float& x, float& next) {
            const int co = first_column + n * 8 + column;
            x = of_channel(block, a.bias, co), next = of_channel(block, a.bias, co + 1);
          });
        }
      }
    }
  }

  // act(sums), 8 pixels at a time through this warp's own shared memory, so that neighbouring threads write
  // neighbouring values. The rows of sums are kDistance apart. They move up, so that the loop is short code.
  template <int kDistance>
  IK_DEVICE void store(Block& block, const Step& s, const Place& place, int first_column, Sums& sums) const {
    const int mine = kStaging + block.warp * 8 * kRowBytes, w0 = s.w0 + place.col;
    T* y = a.y + int64_t(s.i) * a.out_pixels * a.out_channels;
    IK_NO_UNROLL for (int m = 0; m < MT; ++m) {
      IK_UNROLL for (int half = 0; half < 2; ++half) {
        const int h = s.h0 + place.row + kDistance * m + half;
        IK_UNROLL for (int n = 0; n < NT; ++n) {
          block.pairs(sums.c[0][n], half, [&](int pixel, int column, float x, float next) {
            if (a.slope) {
              const int co = first_column + n * 8 + column;
              x = x >= 0 ? x : x * of_channel(block, a.slope, co);
              next = next >= 0 ? next : next * of_channel(block, a.slope, co + 1);
            }
            block.put(mine + pixel * kRowBytes + (n * 8 + column) * sizeof(T), pack<T>(x, next));
          });
        }
        block.sync_warp();
        if (h < a.out_h) {
          const int64_t first_pixel = int64_t(h) * a.out_w + w0;
          T* row = y + first_pixel * a.out_channels;
          with_width<T>(a.y_width, [&](auto width) {
            constexpr int V = decltype(width)::value;
            block.lanes(8 * NT * 8 / V, [&](int v) {
              const int pixel = v / (NT * 8 / V), column = v % (NT * 8 / V) * V, co = first_column + column;
              if (w0 + pixel >= a.out_w || co >= a.out_channels) return;
              if (K == 1 && first_pixel + pixel >= a.out_pixels) return;
              const auto values = block.template get<Vector<T, V>>(mine + pixel * kRowBytes + column * sizeof(T));
              block.write(row + pixel * a.out_channels + co, values);
            });
          });
        }
        block.sync_warp();
      }
      IK_UNROLL for (int j = 0; j + 1 < MT; ++j) {
        IK_UNROLL for (int n = 0; n < NT; ++n) sums.c[j][n] = sums.c[j + 1][n];
      }
    }
  }
};

}  // namespace interconv::halo

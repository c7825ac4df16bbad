// The gradient of the weight of a 3x3 or 1x1 convolution, stride 1: dW[co,c,r,q] = sum over samples and pixels p of
// g[p,co] u[p + (r,q) - pad,c].
//
// A program has a tile of u's channels and one of g's, and a share of the tiles of pixels of all samples. It copies u's
// pixels, with their halo, and g's to shared memory once and multiplies them from there: for each tap a product over
// the pixels, added to sums in registers. At the end it writes its sums, and AddPartials adds those of all programs.
// Both go in a fixed order, so that the result has the same bits every time.
//
// Pixels lie in shared memory as planes of 16 bytes (tile.h), so that ldmatrix transposes 8 pixels x 8 channels without
// bank conflicts at any tap's shift. The depth of a product is 16 pixels of a row. A row of u is loaded for each of the
// three shifts along it and multiplied with the three rows of g that it meets.
//
// The set half's gradient is the same for the means of u and the sums of g of the sets: dWs = sum_b dW(s_b, G_b). The
// kernel for the own half can write both on its way: with each sample's tile it computes a share of its set's, from
// samples that it brings into the L2 cache by that, or that are there already.
#pragma once
#include "tile.h"
#include "weight_gradient_configs.h"

namespace interconv::halo {

// An image has less than 2^31 values.
template <class T>
struct WeightGradientArguments {
  Images<T> u, g;     // [N,H,W,C], [N,out_h,out_w,Co]
  float* partials;    // [programs][kPartial]
  T *means, *totals;  // the sets' means of u and sums of g, or null
  // With `means`: the sets. Without: null, or the sets that u and g are the means and totals of: empty ones are
  // skipped.
  const int32_t *offsets, *set_ids;
  int samples, pad_h, pad_w;
  bool bias;  // whether g's sum over samples and pixels follows the sums
};

template <class T, WeightGradientConfig X>
struct WeightGradient {
  static constexpr int K = X.kernel, kTaps = K * K, kHalo = K - 1, kDepth = 16, NT = 2;
  static constexpr int kWarps = X.warps(), kTileH = X.tile_h(), kTileW = X.tile_w();
  using TileU = Tile<T, X.channels, kTileH + kHalo, kTileW + kHalo>;
  using TileG = Tile<T, X.columns, kTileH, kTileW>;
  static constexpr int kStage = TileU::kBytes + TileG::kBytes;
  static constexpr int kSums = kTaps * X.channels * X.columns;
  static constexpr int kPartial = (kSums + X.columns + 31) / 32 * 32;
  static constexpr int kBiasSums = X.split * kSums * 4;  // at the end: where the warps' sums of g are
  static constexpr int kAtEnd = kBiasSums + kWarps * 512;
  static constexpr int kShared = X.stages * kStage > kAtEnd ? X.stages* kStage : kAtEnd;
  static constexpr int kSharing = kWarps / TileG::kPlanes;  // warps that sum the same plane of g
  static constexpr int kReads = X.programs > 2 ? 2 : 3;     // of a thread at once, as far as there are registers
  static_assert(X.channels % 16 == 0 && X.columns % 16 == 0 && kSharing >= 1 && X.stages >= 2);

  WeightGradientArguments<T> a;

  struct Step {  // a tile of sample i of set b, which is one of `size`
    int i, b, lo, size, tile;
  };
  struct Place {  // of a warp in the channels of u and g, and which share of the pixels is its own
    int plane_u, plane_g, share;

    IK_DEVICE explicit Place(int warp)
        : plane_u(warp / X.split / (X.columns / 16) * 2),
          plane_g(warp / X.split % (X.columns / 16) * NT),
          share(warp % X.split) {}
  };
  struct Sums {
    FragC c[kTaps][NT], bias;
  };

  IK_DEVICE int channel_tiles() const { return (a.u.channels + X.channels - 1) / X.channels; }
  IK_DEVICE int column_tiles() const { return (a.g.channels + X.columns - 1) / X.columns; }
  IK_DEVICE int pairs() const { return channel_tiles() * column_tiles(); }
  IK_DEVICE int tiles_w() const { return (a.g.w + kTileW - 1) / kTileW; }
  IK_DEVICE int tiles() const { return (a.g.h + kTileH - 1) / kTileH * tiles_w(); }

  // Set by set; in a set tile by tile, all its samples of each.
  IK_DEVICE Step step(Block& block, int n) const {
    Step s{n / tiles(), 0, 0, 1, n % tiles()};
    if (a.means) {
      s.b = block.template read<int32_t>(a.set_ids + s.i);
      s.lo = block.template read<int32_t>(a.offsets + s.b);
      s.size = block.template read<int32_t>(a.offsets + s.b + 1) - s.lo;
      const int rest = n - s.lo * tiles();
      s.tile = rest / s.size, s.i = s.lo + rest % s.size;
    } else if (a.offsets) {
      s.size = block.template read<int32_t>(a.offsets + s.i + 1) - block.template read<int32_t>(a.offsets + s.i);
    }
    return s;
  }

  IK_DEVICE int first_row(const Step& s) const { return s.tile / tiles_w() * kTileH; }
  IK_DEVICE int first_column(const Step& s) const { return s.tile % tiles_w() * kTileW; }

  // The tiles of step n, as one group of copies.
  IK_DEVICE void fetch(Block& block, int n, int end, int pair, int stage) const {
    if (n < end) {
      const Step s = step(block, n);
      const int h = first_row(s), w = first_column(s), to = stage * kStage;
      const int i = s.size == 0 ? -1 : s.i;
      TileU::copy(block, kWarps, a.u, i, h - a.pad_h, w - a.pad_w, pair % channel_tiles() * X.channels, to);
      TileG::copy(block, kWarps, a.g, i, h, w, pair / channel_tiles() * X.columns, to + TileU::kBytes);
    }
    block.commit();
  }

  // The image has so many rows and columns from the tile's first ones on. What is all outside of it is left out.
  IK_DEVICE void multiply(Block& block, const Place& place, int u, int rows, int columns, Sums& sums) const {
    const int g = u + TileU::kBytes;
    IK_NO_UNROLL for (int part = place.share; part < X.blocks * X.strips; part += X.split) {
      const int h = part / X.strips * X.rows, w = part % X.strips * kDepth;
      if (w >= columns) continue;
      Frag<T> y[X.rows][NT];
      IK_UNROLL for (int j = 0; j < X.rows + kHalo; ++j) {  // row j of u meets row j - r of g at tap r
        if (h + j >= rows + kHalo) break;
        if (j < X.rows) {
          block.load_transposed(y[j][0], y[j][1], [&](int k, int half) {
            return g + TileG::offset(place.plane_g + half, (h + j) * kTileW + w + k);
          });
        }
        IK_UNROLL for (int q = 0; q < K; ++q) {
          Frag<T> top, bottom;
          block.load_pair_transposed(top, bottom, [&](int k, int half) {
            return u + TileU::offset(place.plane_u + half, (h + j) * (kTileW + kHalo) + w + q + k);
          });
          IK_UNROLL for (int r = 0; r < K; ++r) {
            if (j - r < 0 || j - r >= X.rows) continue;
            IK_UNROLL for (int n = 0; n < NT; ++n) block.multiply(sums.c[r * K + q][n], top, bottom, y[j - r][n]);
          }
        }
      }
    }
  }

  // Sums of g over pixels: those of one plane, in 16 rows that are added at the end.
  IK_DEVICE void sum_pixels(Block& block, int g, FragC& sum) const {
    const int plane = block.warp % TileG::kPlanes, first = block.warp / TileG::kPlanes;
    if (first >= kSharing) return;
    for (int pixel = first * 16; pixel < kTileH * kTileW; pixel += kSharing * 16) {
      IK_UNROLL for (int half = 0; half < 2; ++half) {
        block.pairs(sum, half, [&](int row, int column, float& x, float& next) {
          T values[2];
          const auto bits = block.template get<uint32_t>(g + TileG::offset(plane, pixel + half * 8 + row) + column * 2);
          memcpy(values, &bits, sizeof(bits));
          x += to_float(values[0]), next += to_float(values[1]);
        });
      }
    }
  }

  // One of `shares` parts of scale * (the sum of images lo ... lo + size - 1) -> the image `out`.
  IK_DEVICE void reduce(Block& block, const Images<T>& x, const Step& s, int share, int shares, float scale,
                        T* out) const {
    const int numel = x.h * x.w * x.channels;
    with_width<T>(x.width, [&](auto width) {
      constexpr int V = decltype(width)::value;
      const int vectors = numel / V, part = (vectors + shares - 1) / shares, begin = share * part;
      const T* images = x.data + int64_t(s.lo) * numel;
      out += int64_t(s.b) * numel;
      block.for_each(0, kWarps, part < vectors - begin ? part : vectors - begin, [&](int v) {
        const T* from = images + (begin + v) * V;
        float sum[V] = {};
        IK_UNROLL_BY(kReads) for (int i = 0; i < s.size; ++i, from += numel) add_values(block, from, sum);
        T bits[V];
        IK_UNROLL for (int j = 0; j < V; ++j) bits[j] = {uint16_t(pack<T>(sum[j] * scale, 0))};
        Vector<T, V> values;
        memcpy(&values, bits, sizeof(bits));
        block.write(out + (begin + v) * V, values);
      });
    });
  }

  IK_DEVICE void finish(Block& block, const Place& place, int pair, Sums& sums) const {
    block.template wait<0>();
    block.sync();  // every warp has read the last tile
    IK_UNROLL for (int half = 0; half < 2; ++half) {
      IK_UNROLL for (int j = 0; j < kTaps * NT; ++j) {
        const int row = ((j / NT * X.channels / 16 + place.plane_u / 2) * TileG::kPlanes + place.plane_g + j % NT) * 16;
        put_pairs(block, sums.c[j / NT][j % NT], half, (place.share * kSums + row * 8) * 4);
      }
      put_pairs(block, sums.bias, half, kBiasSums + block.warp * 512);
    }
    block.sync();
    float* out = a.partials + int64_t(block.program) * kPartial;
    block.for_each(0, kWarps, kSums, [&](int i) {
      float sum = 0;
      IK_UNROLL for (int j = 0; j < X.split; ++j) sum += block.template get<float>((j * kSums + i) * 4);
      block.write(out + i, sum);
    });
    if (!a.bias || pair % channel_tiles() != 0) return;
    block.for_each(0, kWarps, X.columns, [&](int co) {
      float sum = 0;
      for (int j = 0; j < kSharing; ++j) {
        const int from = kBiasSums + (j * TileG::kPlanes + co / 8) * 512 + co % 8 * 4;
        IK_UNROLL for (int row = 0; row < 16; ++row) sum += block.template get<float>(from + row * 32);
      }
      block.write(out + kSums + co, sum);
    });
  }

  IK_DEVICE static void put_pairs(Block& block, FragC& c, int half, int to) {
    block.pairs(c, half, [&](int row, int column, float x, float next) {
      uint2 bits;
      memcpy(&bits.x, &x, 4), memcpy(&bits.y, &next, 4);
      block.put(to + ((half * 8 + row) * 8 + column) * 4, bits);
    });
  }

  IK_DEVICE void run(Block& block) const {
    const int pair = block.program % pairs(), slice = block.program / pairs(), slices = block.num_programs / pairs();
    const int steps = a.samples * tiles();
    const int each = steps / slices, more = steps % slices;  // the first `more` programs have one step more
    const int begin = slice * each + (slice < more ? slice : more), end = begin + each + (slice < more ? 1 : 0);
    const Place place(block.warp);
    const bool has_channels = pair % channel_tiles() * X.channels + place.plane_u * 8 < a.u.channels &&
                              pair / channel_tiles() * X.columns + place.plane_g * 8 < a.g.channels;
    Sums sums{};
    IK_NO_UNROLL for (int n = begin + 1 - X.stages; n < end; ++n) {
      const bool copied = n >= begin;  // the first stages are filled before anything is computed
      if (copied) {
        block.template wait<X.stages - 2>();
        block.sync();  // the tiles of this step are there, and every warp has read the stage that is filled next
      }
      fetch(block, n + X.stages - 1, end, pair, (n - begin + 2 * X.stages - 1) % X.stages);
      if (!copied) continue;
      const Step s = step(block, n);
      if (a.means) {
        const int shares = tiles() * s.size * pairs(), share = (s.tile * s.size + s.i - s.lo) * pairs() + pair;
        reduce(block, a.u, s, share, shares, 1.0f / float(s.size), a.means);
        reduce(block, a.g, s, share, shares, 1.0f, a.totals);
      }
      const int stage = (n - begin) % X.stages * kStage;
      if (a.bias && pair % channel_tiles() == 0) sum_pixels(block, stage + TileU::kBytes, sums.bias);
      if (has_channels) multiply(block, place, stage, a.g.h - first_row(s), a.g.w - first_column(s), sums);
    }
    finish(block, place, pair, sums);
  }
};

// The partial sums of all programs, added in a fixed order -> grad_weight [Co,2C,k,k], any strides, and grad_bias.
template <class T>
struct AddPartials {
  static constexpr int kWarps = 8, kOutputs = 32, kShared = kWarps * kOutputs * 4;

  const float *own, *from_set;  // [slices][pairs][partial]; from_set null: the set half is as the own half
  T *weight, *bias;             // bias or null
  int kernel;
  int64_t stride_out, stride_in, stride_h, stride_w;
  int channels, out_channels, tile_channels, tile_columns, partial, own_slices, set_slices;

  IK_DEVICE int channel_tiles() const { return (channels + tile_channels - 1) / tile_channels; }
  IK_DEVICE int pairs() const { return channel_tiles() * ((out_channels + tile_columns - 1) / tile_columns); }
  IK_DEVICE int groups() const { return (from_set ? 2 : 1) * pairs() * (partial / kOutputs); }

  IK_DEVICE void write(Block& block, int pair, int index, bool set_half, float sum) const {
    const T value{uint16_t(pack<T>(sum, 0))};
    const int sums = kernel * kernel * tile_channels * tile_columns, fragment = index / 128,
              first = pair / channel_tiles() * tile_columns;
    if (index >= sums) {
      const int co = first + index - sums;
      if (bias && !set_half && pair % channel_tiles() == 0 && index - sums < tile_columns && co < out_channels) {
        block.write(bias + co, value.bits);
      }
      return;
    }
    const int planes = tile_columns / 8, tap = fragment / planes / (tile_channels / 16);
    const int co = first + fragment % planes * 8 + index % 8;
    const int c =
        pair % channel_tiles() * tile_channels + fragment / planes % (tile_channels / 16) * 16 + index / 8 % 16;
    if (c >= channels || co >= out_channels) return;
    T* to = weight + co * stride_out + c * stride_in + tap / kernel * stride_h + tap % kernel * stride_w;
    if (!set_half) block.write(to, value.bits);
    if (set_half || !from_set) block.write(to + channels * stride_in, value.bits);
  }

  // A group of outputs: eight threads add a part of the slices of each.
  IK_DEVICE void run(Block& block) const {
    for (int group = block.program; group < groups(); group += block.num_programs) {
      const int per_half = groups() / (from_set ? 2 : 1), at = group % per_half;
      const bool set_half = group >= per_half;
      const float* from = (set_half ? from_set : own) + int64_t(at) * kOutputs;
      const int slices = set_half ? set_slices : own_slices;
      block.for_each(0, kWarps, kWarps * kOutputs, [&](int i) {
        const int part = i / kOutputs, end = slices * (part + 1) / kWarps;
        float sum = 0;
        IK_UNROLL_BY(8) for (int j = slices * part / kWarps; j < end; ++j) {
          sum += block.template read<float>(from + int64_t(j) * pairs() * partial + i % kOutputs);
        }
        block.put(i * 4, sum);
      });
      block.sync();
      block.for_each(0, kWarps, kOutputs, [&](int i) {
        float sum = 0;
        IK_UNROLL for (int part = 0; part < kWarps; ++part) {
          sum += block.template get<float>((part * kOutputs + i) * 4);
        }
        const int index = at * kOutputs + i;
        write(block, index / partial, index % partial, set_half, sum);
      });
      block.sync();
    }
  }
};

}  // namespace interconv::halo

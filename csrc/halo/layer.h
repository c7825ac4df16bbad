// The layer y_i = act(conv3x3(u_i; Wu) + conv3x3(s; Ws) + b) in one launch, stride 1.
//
// A program takes tiles of a set. For each it makes the set's mean s on the tile, then the term t = conv(s; Ws) + b,
// which it keeps, then for each sample of the set t + conv(u_i; Wu). The mean reads the samples from global memory,
// after which they are in the L2 cache. A sample's tile is copied to shared memory once, with its halo, and serves all
// nine taps from there. If every set has one sample, s = u: weights Wu + Ws and no mean.
//
// Pixels lie in shared memory as planes of 16 bytes: [channels / 8][pixels][8]. So 8 neighbours in a row, at any tap's
// shift, are 128 bytes: ldmatrix reads them without bank conflicts. A product takes two such rows, so a warp that
// computes 2 MT rows loads 2 MT + 2 and uses them for the three taps above each other. Weights likewise:
// [9][channels / 8][columns][8].
#pragma once
#include "configs.h"
#include "warp.h"

namespace interconv::halo {

// Channels_last tensors: u [N,H,W,C], y [N,out_h,out_w,Co]. `weights` is made by PackWeights (weights.h).
template <class T>
struct Arguments {
  const T *u, *weights, *bias, *slope;  // bias and slope [Co] or null
  const int32_t* offsets;               // [num_sets + 1]
  T* y;
  float* scratch;  // HaloLayer::kScratch values a program
  int num_sets, h, w, out_h, out_w, pad_h, pad_w, channels, out_channels;
  int parts;    // a set's samples are shared by this many programs, each of which makes the term
  bool single;  // every set has one sample
};

// The widest access, 8, 4, 2 or 1 values, that fits all pixels of an image with so many channels.
IK_DEVICE int access_width(int channels) {
  return channels % 8 == 0 ? 8 : channels % 4 == 0 ? 4 : channels % 2 == 0 ? 2 : 1;
}

template <int V>
struct Vector;  // V values of 2 bytes
template <>
struct Vector<8> {
  using type = uint4;
};
template <>
struct Vector<4> {
  using type = uint2;
};
template <>
struct Vector<2> {
  using type = uint32_t;
};
template <>
struct Vector<1> {
  using type = uint16_t;
};

// f(Width<V>()) for the V that is only known at run time.
template <int V>
struct Width {
  static constexpr int value = V;
};
template <class F>
IK_DEVICE void with_width(int width, F f) {
  if (width == 8) {
    f(Width<8>());
  } else if (width == 4) {
    f(Width<4>());
  } else if (width == 2) {
    f(Width<2>());
  } else {
    f(Width<1>());
  }
}

template <class T, Config X>
struct HaloLayer {
  static constexpr int kTaps = 9, kHalo = 2;
  static constexpr int kWarps = X.warps(), kRows = 2 * X.mt + kHalo, NT = X.columns / X.split / 8, MT = X.mt;
  static constexpr int kTileH = X.tile_h(), kTileW = X.tile_w(), kHaloH = kTileH + kHalo, kHaloW = kTileW + kHalo;
  static constexpr int kPlanes = X.channels / 8;
  // The planes of one pixel, which neighbouring threads fill, start in different banks.
  static constexpr int kSkew = kPlanes >= 8 ? 1 : 8 / kPlanes;
  static constexpr int kPlane = ((kHaloH * kHaloW + 7 - kSkew) / 8 * 8 + kSkew) * 16;
  static constexpr int kWeights = kTaps * X.channels * X.columns * 2;
  static constexpr int kTile = (kPlanes * kPlane + 127) / 128 * 128;
  static constexpr int kStage = kTile + (X.weights == Weights::kStreamed ? kWeights : 0);
  static constexpr int kRowBytes = NT * 16 + 16;  // of a pixel on its way to y; 16 bytes more against bank conflicts
  static constexpr int kStages = X.weights == Weights::kResident  ? 2 * kWeights
                                 : X.weights == Weights::kByTurns ? kWeights
                                                                  : 0;
  static constexpr int kStaging = kStages + X.stages * kStage;
  static constexpr int kShared = kStaging + kWarps * 8 * kRowBytes;
  static constexpr bool kTermInRegisters = X.term == Term::kRegisters;
  static constexpr int kScratch = kTermInRegisters ? 0 : kWarps * MT * NT * 128;
  static_assert(X.channels % 16 == 0 && NT % 2 == 0 && NT * 8 * X.split == X.columns && X.stages >= 2);

  Arguments<T> a;

  struct Step {  // a chunk of the mean, or of sample i, of the set lo ... hi-1; the program's share of it ends at `end`
    int item, i, end, lo, hi, h0, w0, chunk;
    bool mean;
  };

  IK_DEVICE int chunks() const { return (a.channels + X.channels - 1) / X.channels; }
  IK_DEVICE int column_tiles() const { return (a.out_channels + X.columns - 1) / X.columns; }
  IK_DEVICE int tiles_w() const { return (a.out_w + kTileW - 1) / kTileW; }
  IK_DEVICE int tiles() const { return (a.out_h + kTileH - 1) / kTileH * tiles_w(); }
  IK_DEVICE int items() const { return a.num_sets * tiles() * a.parts; }

  IK_DEVICE Step first(Block& block, int item, int stride) const {
    for (; item < items(); item += stride) {
      const int part = item % a.parts, tile = item / a.parts % tiles(), b = item / a.parts / tiles();
      const int lo = block.template read<int32_t>(a.offsets + b), hi = block.template read<int32_t>(a.offsets + b + 1);
      const int begin = lo + int(int64_t(hi - lo) * part / a.parts);
      const int end = lo + int(int64_t(hi - lo) * (part + 1) / a.parts);
      if (begin < end) {
        return {item, begin, end, lo, hi, tile / tiles_w() * kTileH, tile % tiles_w() * kTileW, 0, !a.single};
      }
    }
    return {item, 0, 0, 0, 0, 0, 0, 0, false};
  }
  IK_DEVICE Step next(Block& block, Step s, int stride) const {
    if (++s.chunk < chunks()) return s;
    s.chunk = 0;
    if (s.mean) {
      s.mean = false;
    } else if (++s.i == s.end) {
      return first(block, s.item + stride, stride);
    }
    return s;
  }

  // f(offset in the tile, offset in an image, first channel, whether there is such a pixel) for each 16 bytes.
  template <class F>
  IK_DEVICE void each_vector(Block& block, const Step& s, F f) const {
    block.for_each(0, kWarps, kHaloH * kHaloW * kPlanes, [&](int v) {
      const int plane = v % kPlanes, pixel = v / kPlanes, c = s.chunk * X.channels + plane * 8;
      const int h = s.h0 - a.pad_h + pixel / kHaloW, w = s.w0 - a.pad_w + pixel % kHaloW;
      const bool inside = unsigned(h) < unsigned(a.h) && unsigned(w) < unsigned(a.w);
      f(plane * kPlane + pixel * 16, (int64_t(h) * a.w + w) * a.channels + c, c, inside);
    });
  }

  IK_DEVICE const T* sample(int i) const { return a.u + int64_t(i) * a.h * a.w * a.channels; }

  template <int V>
  IK_DEVICE void copy_tile(Block& block, const Step& s, int to) const {
    const T* u = sample(s.i);
    each_vector(block, s, [&](int offset, int64_t at, int c, bool inside) {
      IK_UNROLL for (int j = 0; j < 8; j += V) {
        const bool there = inside && c + j < a.channels;
        block.template copy<2 * V>(to + offset + 2 * j, there ? u + at + j : a.u, there);
      }
    });
  }

  // The mean of the samples begin ... end-1 on the tile, summed in float32 and rounded once.
  template <int V>
  IK_DEVICE void make_mean(Block& block, const Step& s, int begin, int end, int to) const {
    using Values = typename Vector<V>::type;
    const int64_t image = int64_t(a.h) * a.w * a.channels;
    each_vector(block, s, [&](int offset, int64_t at, int c, bool inside) {
      float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
      if (inside) {
        const T* p = sample(begin) + at;
        IK_UNROLL_BY(V / 2 + 1) for (int i = begin; i < end; ++i, p += image) {
          IK_UNROLL for (int j = 0; j < 8; j += V) {
            if (c + j >= a.channels) continue;
            const Values values = block.template read<Values>(p + j);
            T x[V];
            memcpy(x, &values, sizeof(x));
            IK_UNROLL for (int k = 0; k < V; ++k) sum[j + k] += to_float(x[k]);
          }
        }
      }
      const float scale = 1.0f / float(end - begin);
      uint32_t x[4];
      IK_UNROLL for (int j = 0; j < 4; ++j) x[j] = pack<T>(sum[2 * j] * scale, sum[2 * j + 1] * scale);
      block.put(to + offset, uint4{x[0], x[1], x[2], x[3]});
    });
  }

  // Packed [half][column tile][chunk][kWeights bytes].
  IK_DEVICE void copy_weights(Block& block, bool set_half, int column_tile, int chunk, int to) const {
    const int index = ((set_half ? 1 : 0) * column_tiles() + column_tile) * chunks() + chunk;
    const T* from = a.weights + int64_t(index) * (kWeights / 2);
    block.for_each(0, kWarps, kWeights / 16, [&](int v) { block.template copy<16>(to + v * 16, from + v * 8, true); });
  }

  // The inputs of a step, as one group of copies.
  IK_DEVICE void fetch(Block& block, const Step& s, int column_tile, int stage) const {
    if (s.item < items()) {
      const int to = kStages + stage * kStage;
      if (X.weights == Weights::kStreamed) copy_weights(block, s.mean, column_tile, s.chunk, to + kTile);
      with_width(access_width(a.channels), [&](auto width) {
        constexpr int V = decltype(width)::value;
        if (s.mean) {
          make_mean<V>(block, s, s.lo, s.hi, to);
        } else if constexpr (V > 1) {
          copy_tile<V>(block, s, to);
        } else {  // there are no asynchronous copies of 2 bytes
          make_mean<V>(block, s, s.i, s.i + 1, to);
        }
      });
    }
    block.commit();
  }

  struct Place {  // of a warp in the tile
    int row, col, column;

    IK_DEVICE explicit Place(int warp)
        : row(warp / X.split / X.cols * 2 * MT), col(warp / X.split % X.cols * 8), column(warp % X.split * NT * 8) {}
  };
  struct Sums {
    FragC c[MT][NT];
  };

  IK_DEVICE void convolve(Block& block, const Place& place, int tile, int weights, Sums& sums) const {
    IK_NO_UNROLL for (int k = 0; k < kPlanes; k += 2) {
      IK_UNROLL for (int q = 0; q < 3; ++q) {
        Frag<T> x[kRows];  // 8 pixels of a row each
        IK_UNROLL for (int j = 0; j < kRows; j += 2) {
          block.load(x[j], x[j + 1], [&](int row, int half) {
            const int pixel = (place.row + j + row / 8) * kHaloW + place.col + q + row % 8;
            return tile + (k + half) * kPlane + pixel * 16;
          });
        }
        IK_UNROLL for (int r = 0; r < 3; ++r) {
          IK_UNROLL for (int n = 0; n < NT; n += 2) {
            Frag<T> w0, w1;
            block.load(w0, w1, [&](int column, int half) {
              return weights + (((r * 3 + q) * kPlanes + k + half) * X.columns + place.column + n * 8 + column) * 16;
            });
            IK_UNROLL for (int m = 0; m < MT; ++m) {
              block.multiply(sums.c[m][n], x[2 * m + r], x[2 * m + r + 1], w0);
              block.multiply(sums.c[m][n + 1], x[2 * m + r], x[2 * m + r + 1], w1);
            }
          }
        }
      }
    }
  }

  IK_DEVICE float of_channel(Block& block, const T* values, int co) const {
    return values && co < a.out_channels ? to_float(T{block.template read<uint16_t>(values + co)}) : 0.0f;
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

  // Row by row through this warp's own shared memory, so that neighbouring threads write neighbouring values.
  IK_DEVICE void store(Block& block, const Step& s, const Place& place, int first_column, Sums& sums) const {
    const int mine = kStaging + block.warp * 8 * kRowBytes, w0 = s.w0 + place.col;
    T* y = a.y + int64_t(s.i) * a.out_h * a.out_w * a.out_channels;
    IK_UNROLL for (int m = 0; m < MT; ++m) {
      IK_UNROLL for (int half = 0; half < 2; ++half) {
        const int h = s.h0 + place.row + 2 * m + half;
        IK_UNROLL for (int n = 0; n < NT; ++n) {
          block.pairs(sums.c[m][n], half, [&](int pixel, int column, float x, float next) {
            if (a.slope) {
              const int co = first_column + n * 8 + column;
              x = x >= 0 ? x : x * of_channel(block, a.slope, co);
              next = next >= 0 ? next : next * of_channel(block, a.slope, co + 1);
            }
            block.put(mine + pixel * kRowBytes + (n * 8 + column) * 2, pack<T>(x, next));
          });
        }
        block.sync_warp();
        with_width(access_width(a.out_channels), [&](auto width) {
          constexpr int V = decltype(width)::value;
          block.lanes(8 * NT * 8 / V, [&](int v) {
            const int pixel = v / (NT * 8 / V), column = v % (NT * 8 / V) * V, w = w0 + pixel,
                      co = first_column + column;
            if (h >= a.out_h || w >= a.out_w || co >= a.out_channels) return;
            const auto values = block.template get<typename Vector<V>::type>(mine + pixel * kRowBytes + column * 2);
            block.write(y + (int64_t(h) * a.out_w + w) * a.out_channels + co, values);
          });
        });
        block.sync_warp();
      }
    }
  }

  IK_DEVICE void run(Block& block) const {
    const int column_tile = block.program % column_tiles(), stride = block.num_programs / column_tiles();
    const Place place(block.warp);
    const int first_column = column_tile * X.columns + place.column;
    float* scratch = a.scratch + (int64_t(block.program) * kWarps + block.warp) * (MT * NT * 128);
    if (X.weights == Weights::kResident) {
      copy_weights(block, false, column_tile, 0, 0);
      copy_weights(block, true, column_tile, 0, kWeights);
    }
    Step s = first(block, block.program / column_tiles(), stride), ahead = s;
    for (int i = 0; i < X.stages - 1; ++i) {
      fetch(block, ahead, column_tile, i);
      if (ahead.item < items()) ahead = next(block, ahead, stride);
    }
    int stage = 0, loaded = -1;  // loaded: which half of the weights, if by turns
    Sums sums, term;             // term: only if it is kept in registers
    for (; s.item < items(); s = next(block, s, stride)) {
      block.template wait<X.stages - 2>();
      block.sync();  // the inputs of this step are there, and every warp has read the stage that is filled next
      const bool turn = X.weights == Weights::kByTurns && loaded != int(s.mean);
      if (turn) {
        copy_weights(block, s.mean, column_tile, 0, 0);
        block.commit();
        loaded = s.mean;
      }
      fetch(block, ahead, column_tile, (stage + X.stages - 1) % X.stages);
      if (ahead.item < items()) ahead = next(block, ahead, stride);
      if (turn) {
        block.template wait<1>();
        block.sync();
      }
      const int tile = kStages + stage * kStage;
      const int weights = X.weights == Weights::kResident  ? s.mean * kWeights
                          : X.weights == Weights::kByTurns ? 0
                                                           : tile + kTile;
      if (s.chunk == 0) {
        if (s.mean || a.single) {
          start_from_bias(block, first_column, sums);
        } else if constexpr (kTermInRegisters) {
          sums = term;
        } else {
          IK_UNROLL for (int j = 0; j < MT * NT; ++j) block.recall(scratch + j * 128, sums.c[j / NT][j % NT]);
        }
      }
      convolve(block, place, tile, weights, sums);
      if (s.chunk + 1 == chunks()) {
        if (!s.mean) {
          store(block, s, place, first_column, sums);
        } else if constexpr (kTermInRegisters) {
          term = sums;
        } else {
          IK_UNROLL for (int j = 0; j < MT * NT; ++j) block.keep(scratch + j * 128, sums.c[j / NT][j % NT]);
        }
      }
      stage = (stage + 1) % X.stages;
    }
    block.template wait<0>();
  }
};

}  // namespace interconv::halo

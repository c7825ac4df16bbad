// The layer y_i = act(conv(u_i; Wu) + conv(s; Ws) + b) in one launch, for 3x3 and 1x1 kernels.
//
// A program takes tiles of a set. For each it makes the set's mean s on the tile, then the term t = conv(s; Ws) + b,
// which it keeps, then for each sample of the set t + conv(u_i; Wu). The mean reads the samples from global memory,
// after which they are in the L2 cache. A sample's tile is copied to shared memory once, with its halo, and serves all
// nine taps from there. If every set has one sample, s = u: weights Wu + Ws and no mean.
//
// Pixels lie in shared memory as planes of 16 bytes: [channels / 8][pixels][8]. So 8 neighbours in a row, at any tap's
// shift, are 128 bytes: ldmatrix reads them without bank conflicts. With stride 2, the even pixels of a row come before
// the odd ones, so that the same holds. A product takes two rows of 8 pixels, and with stride 1 a warp that computes 2
// MT rows loads 2 MT + 2 for the three taps above each other. Weights likewise: [kernel^2][channels / 8][columns][8].
//
// For a 1x1 kernel an image is any line of pixels: the caller sets w = out_w to the tile's width.
#pragma once
#include "arguments.h"
#include "configs.h"

namespace interconv::halo {

template <class T, Config X>
struct HaloLayer {
  static constexpr int kWarps = X.warps(), MT = X.mt, NT = X.nt(), K = X.kernel, S = X.stride;
  static constexpr int kTileH = X.tile_h(), kTileW = X.tile_w(), kHaloH = X.halo_h(), kHaloW = X.halo_w();
  static constexpr int kRows = 2 * MT + K - 1;  // of 8 pixels that a warp loads, with stride 1
  static constexpr int kPlanes = X.planes(), kPlane = X.plane(), kTile = X.tile(), kWeights = X.weights_bytes();
  static constexpr int kFirstStage = X.first_stage(), kStage = X.stage(), kStaging = X.staging();
  static constexpr int kRowBytes = X.staging_row();
  static constexpr bool kChunks = X.weights == Weights::kStreamed;  // else all channels are there at once
  static constexpr bool kTermInRegisters = X.term == Term::kRegisters;
  static_assert(X.channels % 16 == 0 && NT % 2 == 0 && NT * 8 * X.split == X.columns);

  Arguments<T> a;

  struct Step {  // a chunk of the mean, or of sample i, of the set lo ... hi-1; the program's share of it ends at `end`
    int item, i, end, lo, hi, h0, w0, chunk;
    bool mean;
  };

  IK_DEVICE int chunks() const { return kChunks ? (a.channels + X.channels - 1) / X.channels : 1; }
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
    if (kChunks && ++s.chunk < chunks()) return s;
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
      const int column = pixel % kHaloW % (kHaloW / S) * S + pixel % kHaloW / (kHaloW / S);
      const int h = S * s.h0 - a.pad_h + pixel / kHaloW, w = S * s.w0 - a.pad_w + column;
      const int64_t at = int64_t(h) * a.w + w;
      const bool inside = unsigned(h) < unsigned(a.h) && unsigned(w) < unsigned(a.w) && at < a.pixels;
      f(plane * kPlane + pixel * 16, at * a.channels + c, c, inside);
    });
  }

  IK_DEVICE const T* sample(int i) const { return a.u + int64_t(i) * a.pixels * a.channels; }

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
    const int64_t image = int64_t(a.pixels) * a.channels;
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
      const int to = kFirstStage + stage * kStage;
      if (X.weights == Weights::kStreamed) copy_weights(block, s.mean, column_tile, s.chunk, to + kTile);
      with_width(a.u_width, [&](auto width) {
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
      IK_UNROLL for (int q = 0; q < K; ++q) {
        const auto load_rows = [&](int first, int distance, Frag<T>& top, Frag<T>& bottom) {
          block.load_pair(top, bottom, [&](int row, int half) {
            const int column = q % S * (kHaloW / S) + place.col + q / S + row % 8;
            const int pixel = (S * place.row + first + row / 8 * distance) * kHaloW + column;
            return tile + (k + half) * kPlane + pixel * 16;
          });
        };
        Frag<T> x[kRows];
        if (S == 1) {
          IK_UNROLL for (int j = 0; j < kRows; j += 2) load_rows(j, 1, x[j], x[j + 1]);
        }
        IK_UNROLL for (int r = 0; r < K; ++r) {
          Frag<T> top[MT], bottom[MT];
          IK_UNROLL for (int m = 0; m < MT; ++m) {
            if (S == 1) {  // all rows serve the taps above each other
              top[m] = x[2 * m + r], bottom[m] = x[2 * m + r + 1];
              if (r % 2 == 1) block.bring_together(top[m], bottom[m]);
            } else {
              load_rows(S * 2 * m + r, S, top[m], bottom[m]);
            }
          }
          IK_UNROLL for (int n = 0; n < NT; n += 2) {
            Frag<T> w0, w1;
            block.load(w0, w1, [&](int column, int half) {
              return weights + (((r * K + q) * kPlanes + k + half) * X.columns + place.column + n * 8 + column) * 16;
            });
            IK_UNROLL for (int m = 0; m < MT; ++m) {
              block.multiply(sums.c[m][n], top[m], bottom[m], w0);
              block.multiply(sums.c[m][n + 1], top[m], bottom[m], w1);
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

  // act(sums), 8 pixels at a time through this warp's own shared memory, so that neighbouring threads write
  // neighbouring values. The sums move up, so that the loop is short code.
  IK_DEVICE void store(Block& block, const Step& s, const Place& place, int first_column, Sums& sums) const {
    const int mine = kStaging + block.warp * 8 * kRowBytes, w0 = s.w0 + place.col;
    T* y = a.y + int64_t(s.i) * a.out_pixels * a.out_channels;
    IK_NO_UNROLL for (int m = 0; m < MT; ++m) {
      IK_UNROLL for (int half = 0; half < 2; ++half) {
        const int h = s.h0 + place.row + 2 * m + half;
        IK_UNROLL for (int n = 0; n < NT; ++n) {
          block.pairs(sums.c[0][n], half, [&](int pixel, int column, float x, float next) {
            if (a.slope) {
              const int co = first_column + n * 8 + column;
              x = x >= 0 ? x : x * of_channel(block, a.slope, co);
              next = next >= 0 ? next : next * of_channel(block, a.slope, co + 1);
            }
            block.put(mine + pixel * kRowBytes + (n * 8 + column) * 2, pack<T>(x, next));
          });
        }
        block.sync_warp();
        if (h < a.out_h) {
          const int64_t first_pixel = int64_t(h) * a.out_w + w0;
          T* row = y + first_pixel * a.out_channels;
          with_width(a.y_width, [&](auto width) {
            constexpr int V = decltype(width)::value;
            block.lanes(8 * NT * 8 / V, [&](int v) {
              const int pixel = v / (NT * 8 / V), column = v % (NT * 8 / V) * V, co = first_column + column;
              if (w0 + pixel >= a.out_w || co >= a.out_channels) return;
              if (K == 1 && first_pixel + pixel >= a.out_pixels) return;
              const auto values = block.template get<typename Vector<V>::type>(mine + pixel * kRowBytes + column * 2);
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

  IK_DEVICE void run(Block& block) const {
    const int column_tile = block.program % column_tiles(), stride = block.num_programs / column_tiles();
    const Place place(block.warp);
    const int first_column = column_tile * X.columns + place.column;
    float* scratch = a.scratch + (int64_t(block.program) * kWarps + block.warp) * (MT * NT * 128);
    if (X.weights == Weights::kResident) {
      copy_weights(block, false, column_tile, 0, 0);
      copy_weights(block, true, column_tile, 0, kWeights);
    }
    Step s = first(block, block.program / column_tiles(), stride);
    int stage = 0, loaded = -1;  // loaded: which half of the weights, if by turns
    bool started = false;        // whether the inputs of the first step are on their way
    Sums sums, term;             // term: only if it is kept in registers
    IK_NO_UNROLL while (s.item < items()) {
      if (started) {
        block.template wait<0>();
        block.sync();  // the inputs of this step are there, and every warp has read the stage that is filled next
      }
      const bool turn = X.weights == Weights::kByTurns && started && loaded != int(s.mean);
      if (turn) {
        copy_weights(block, s.mean, column_tile, 0, 0);
        block.commit();
        loaded = s.mean;
      }
      fetch(block, started ? next(block, s, stride) : s, column_tile, started ? stage ^ 1 : stage);
      if (!started) {
        started = true;
        continue;
      }
      if (turn) {
        block.template wait<1>();
        block.sync();
      }
      const int tile = kFirstStage + stage * kStage;
      const int weights = X.weights == Weights::kResident  ? s.mean * kWeights
                          : X.weights == Weights::kByTurns ? 0
                                                           : tile + kTile;
      if (!kChunks || s.chunk == 0) {
        if (s.mean || a.single) {
          start_from_bias(block, first_column, sums);
        } else if constexpr (kTermInRegisters) {
          sums = term;
        } else {
          IK_UNROLL for (int j = 0; j < MT * NT; ++j) block.recall(scratch + j * 128, sums.c[j / NT][j % NT]);
        }
      }
      convolve(block, place, tile, weights, sums);
      if (!kChunks || s.chunk + 1 == chunks()) {
        if (!s.mean) {
          store(block, s, place, first_column, sums);
        } else if constexpr (kTermInRegisters) {
          term = sums;
        } else {
          IK_UNROLL for (int j = 0; j < MT * NT; ++j) block.keep(scratch + j * 128, sums.c[j / NT][j % NT]);
        }
      }
      stage ^= 1;
      s = next(block, s, stride);
    }
    block.template wait<0>();
  }
};

}  // namespace interconv::halo

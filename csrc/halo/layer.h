// The layer y_i = act(conv(u_i; Wu) + conv(s; Ws) + b) in one launch, for 3x3 and 1x1 kernels.
//
// A program takes a tile and a part of the batch's samples. For each of their sets it makes the set's mean s on the
// tile, then the term t = conv(s; Ws) + b, which it keeps, then for each sample t + conv(u_i; Wu). The mean reads the
// samples from global memory, after which they are in the L2 cache. Where a set is cut, both programs make its mean. A
// sample's tile is copied to shared memory once, with its halo, and serves all nine taps from there. If every set has
// one sample, s = u: weights Wu + Ws and no mean.
//
// Pixels lie in shared memory as planes of 16 bytes: [channels / 8][pixels][8], or 4 values in float32. So 8 neighbours
// in a row, at any tap's shift, are 128 bytes: ldmatrix reads them without bank conflicts. With stride 2, the even
// pixels of a row come before the odd ones, so that the same holds. A product takes two rows of 8 pixels, and with
// stride 1 a warp that computes 2 MT rows loads 2 MT + 2 for the three taps above each other. Weights likewise:
// [kernel^2][channels / 8][columns][8].
//
// For a 1x1 kernel an image is any line of pixels: the caller sets w = out_w to the tile's width.
#pragma once
#include "layer_base.h"

namespace interconv::halo {

template <class T, Config X>
struct HaloLayer : LayerBase<T, X> {
  using Base = LayerBase<T, X>;
  using Base::a, Base::first, Base::next, Base::items, Base::chunks, Base::column_tiles;
  using Base::kHaloW, Base::kPlanes, Base::kPlane, Base::kWeights;
  using Base::MT, Base::NT, Base::K, Base::S, Base::kChunks;
  using typename Base::Place, typename Base::Step, typename Base::Sums;
  static constexpr int kWarps = X.warps(), kTile = X.tile(), kFirstStage = X.first_stage(), kStage = X.stage();
  static constexpr int kRows = 2 * MT + K - 1;  // of 8 pixels that a warp loads, with stride 1
  static constexpr Warps kAll{0, kWarps};
  static constexpr bool kTermInRegisters = X.term == Term::kRegisters;
  static_assert(X.bytes == sizeof(T) && kPlanes % 2 == 0 && NT % 2 == 0 && NT * 8 * X.split == X.columns);

  // The inputs of a step, as one group of copies.
  IK_DEVICE void fetch(Block& block, const Step& s, int column_tile, int stage) const {
    if (s.item < items()) {
      const int to = kFirstStage + stage * kStage;
      if (X.weights == Weights::kStreamed) this->copy_weights(block, kAll, s.mean, column_tile, s.chunk, to + kTile);
      with_width<T>(a.u_width, [&](auto width) {
        constexpr int V = decltype(width)::value;
        if (s.mean) {
          this->template make_mean<V>(block, kAll, s, s.lo, s.hi, to);
        } else if constexpr (V * sizeof(T) > 2) {
          this->template copy_tile<V>(block, kAll, s, to);
        } else {  // there are no asynchronous copies of 2 bytes
          this->template make_mean<V>(block, kAll, s, s.i, s.i + 1, to);
        }
      });
    }
    block.commit();
  }

  IK_DEVICE static Place place_of(int warp) {
    return {warp / X.split / X.cols * 2 * MT, warp / X.split % X.cols * 8, warp % X.split * NT * 8};
  }

  IK_DEVICE void convolve(Block& block, const Place& place, int tile, int weights, Sums& sums) const {
    IK_NO_UNROLL for (int k = 0; k < kPlanes; k += 2) {
      IK_UNROLL for (int q = 0; q < K; ++q) {
        const auto load_rows = [&](int first, int distance, Frag<T>& top, Frag<T>& bottom) {
          block.load_pair(top, bottom, [&](int row, int half) {
            const int column = q % S * (kHaloW / S) + place.col + q / S + row % 8;
            const int pixel = (S * place.row + first + row / 8 * distance) * kHaloW + column;
            return tile + (k + half) * kPlane + pixel * 16;
          });
          block.round(top, bottom);
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

  IK_DEVICE void run(Block& block) const {
    const int column_tile = block.program % column_tiles(), stride = block.num_programs / column_tiles();
    const Place place = place_of(block.warp);
    const int first_column = column_tile * X.columns + place.column;
    float* scratch = a.scratch + (int64_t(block.program) * kWarps + block.warp) * (MT * NT * 128);
    if (X.weights == Weights::kResident) {
      this->copy_weights(block, kAll, false, column_tile, 0, 0);
      this->copy_weights(block, kAll, true, column_tile, 0, kWeights);
    } else if (X.weights == Weights::kAlternating) {
      this->copy_weights(block, kAll, !a.single, column_tile, 0, 0);
    }
    Step s = first(block, block.program / column_tiles());
    int stage = 0;
    bool loaded = !a.single;  // which half of the weights, if they alternate
    bool started = false;     // whether the inputs of the first step are on their way
    Sums sums, term;          // term: only if it is kept in registers
    IK_NO_UNROLL do {         // every program has an item
      if (started) {
        block.template wait<0>();
        block.sync();  // the inputs of this step are there, and every warp has read the stage that is filled next
      }
      const bool turn = X.weights == Weights::kAlternating && loaded != s.mean;
      if (turn) {
        this->copy_weights(block, kAll, s.mean, column_tile, 0, 0);
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
      const int weights = X.weights == Weights::kResident      ? s.mean * kWeights
                          : X.weights == Weights::kAlternating ? 0
                                                               : tile + kTile;
      if (!kChunks || s.chunk == 0) {
        if (s.mean || a.single) {
          this->start_from_bias(block, first_column, sums);
        } else if constexpr (kTermInRegisters) {
          sums = term;
        } else {
          IK_UNROLL for (int j = 0; j < MT * NT; ++j) block.recall(scratch + j * 128, sums.c[j / NT][j % NT]);
        }
      }
      convolve(block, place, tile, weights, sums);
      if (!kChunks || s.chunk + 1 == chunks()) {
        if (!s.mean) {
          this->template store<2>(block, s, place, first_column, sums);
        } else if constexpr (kTermInRegisters) {
          term = sums;
        } else {
          IK_UNROLL for (int j = 0; j < MT * NT; ++j) block.keep(scratch + j * 128, sums.c[j / NT][j % NT]);
        }
      }
      stage ^= 1;
      s = next(block, s, stride);
    }
    while (s.item < items());
    block.template wait<0>();
  }
};

}  // namespace interconv::halo

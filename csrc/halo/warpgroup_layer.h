// The layer of layer.h, for 3x3 kernels of stride 1, with the products of warpgroups (sm_90a): both operands come from
// shared memory, where a tile at any tap's shift is again rows of 8 pixels, HALO_W pixels apart.
//
// Warps have different tasks, so that nothing waits for what it does not need. The mean of the next tile is read from
// memory while the samples of this one, which are in the L2 cache since their own mean was made, are computed:
//
//   mean warps      wait for a free buffer, make a mean, hand it over, for one tile after the other
//   copy warps      wait for a free stage, copy a sample's tile (and streamed weights), hand it over when it is there
//   warpgroups      wait for a mean or a sample, compute, give the buffer back, write the results
//
// Each buffer has two barriers in shared memory: "full" and "free". All roles go through the same steps.
#pragma once
#include "layer_base.h"
#include "warpgroup.h"
#include "warpgroup_configs.h"

namespace interconv::halo {

template <class T, WarpgroupConfig X>
struct WarpgroupLayer : LayerBase<T, X> {
  using Base = LayerBase<T, X>;
  using Base::a, Base::first, Base::next, Base::items, Base::chunks, Base::column_tiles;
  using Base::MT, Base::NT, Base::kHaloW, Base::kPlanes, Base::kPlane, Base::kWeights;
  using typename Base::Place, typename Base::Step, typename Base::Sums;
  static constexpr int kWarps = X.warps(), kComputeWarps = X.compute_warps();
  static constexpr int kTile = X.tile(), kStage = X.stage(), kFirstStage = X.first_stage(), kFirstMean = X.first_mean();
  static constexpr int kStages = X.stages, kMeans = X.means, kBarriers = X.barriers();
  static constexpr bool kStreamed = X.weights == Weights::kStreamed;
  static constexpr Warps kAll{0, kWarps}, kMean{kComputeWarps, X.mean_warps},
      kCopy{kComputeWarps + X.mean_warps, X.copy_warps};
  static_assert(X.channels % 16 == 0 && kStages >= 2 && kWarps <= 16);

  struct Ring {  // of buffers: the one in use, and whether it is used for the 1st, 3rd, ... (0) or 2nd, ... time (1)
    int index = 0, parity = 0;

    IK_DEVICE void move(int size) {
      if (++index == size) index = 0, parity ^= 1;
    }
  };
  IK_DEVICE static int full_stage(int i) { return kBarriers + 16 * i; }
  IK_DEVICE static int free_stage(int i) { return full_stage(i) + 8; }
  IK_DEVICE static int full_mean(int i) { return full_stage(kStages + i); }
  IK_DEVICE static int free_mean(int i) { return free_stage(kStages + i); }
  // Whether a step takes something from a stage: a sample or streamed weights.
  IK_DEVICE static bool takes_stage(const Step& s) { return kStreamed || !s.mean; }

  IK_DEVICE void make_means(WarpgroupBlock& block, Step s, int stride) const {
    Ring means;
    for (; s.item < items(); s = next(block, s, stride)) {
      if (!s.mean) continue;
      block.wait_at(free_mean(means.index), means.parity ^ 1);
      with_width<T>(a.u_width, [&](auto width) {
        constexpr int V = decltype(width)::value;
        this->template make_mean<V>(block, kMean, s, s.lo, s.hi, kFirstMean + means.index * kTile);
      });
      block.fence_async();
      block.arrive_at(full_mean(means.index));
      means.move(kMeans);
    }
  }

  // The copies of a step are handed over kStages - 2 steps later, when those after them have been started.
  IK_DEVICE void copy_samples(WarpgroupBlock& block, Step s, int stride, int column_tile) const {
    constexpr int kLag = kStages - 2;
    Ring stages, landed;
    int started = 0;
    for (; s.item < items(); s = next(block, s, stride)) {
      if (!takes_stage(s)) continue;
      block.wait_at(free_stage(stages.index), stages.parity ^ 1);
      const int to = kFirstStage + stages.index * kStage;
      if (kStreamed) this->copy_weights(block, kCopy, s.mean, column_tile, s.chunk, to + kTile);
      if (!s.mean) {
        with_width<T>(a.u_width, [&](auto width) {
          constexpr int V = decltype(width)::value;
          if constexpr (V > 1) {
            this->template copy_tile<V>(block, kCopy, s, to);
          } else {  // there are no asynchronous copies of 2 bytes
            this->template make_mean<V>(block, kCopy, s, s.i, s.i + 1, to);
          }
        });
      }
      block.commit();
      stages.move(kStages);
      if (++started <= kLag) continue;
      block.template wait<kLag>();
      hand_over(block, landed);
    }
    block.template wait<0>();
    for (int i = started < kLag ? started : kLag; i > 0; --i) hand_over(block, landed);
  }
  IK_DEVICE void hand_over(WarpgroupBlock& block, Ring& landed) const {
    block.fence_async();
    block.arrive_at(full_stage(landed.index));
    landed.move(kStages);
  }

  IK_DEVICE void convolve(WarpgroupBlock& block, const Place& place, int tile, int weights, Sums& sums) const {
    block.fence_products(sums.c);
    IK_UNROLL for (int tap = 0; tap < 9; ++tap) {
      IK_UNROLL for (int k = 0; k < kPlanes; k += 2) {
        const Operand w{weights + (tap * kPlanes + k) * X.columns * 16, X.columns * 16, 128};
        IK_UNROLL for (int m = 0; m < MT; ++m) {
          const int pixel = (place.row + 8 * m + tap / 3) * kHaloW + place.col + tap % 3;
          const Operand x{tile + k * kPlane + pixel * 16, kPlane, kHaloW * 16};
          block.template multiply64<T>(sums.c[m], x, w);
        }
      }
    }
    block.commit_products();
    block.template wait_products<0>(sums.c);
  }

  IK_DEVICE void compute(WarpgroupBlock& block, Step s, int stride, int column_tile) const {
    const int group = block.warp / 4, row = group / X.cols * 8 * MT, col = group % X.cols * 8;
    const Place of_group{row, col, 0}, of_warp{row + block.warp % 4 * 2, col, 0};
    const int first_column = column_tile * X.columns;
    float* scratch = a.scratch + (int64_t(block.program) * kComputeWarps + block.warp) * (MT * NT * 128);
    Ring stages, means;
    Sums sums, term;  // term: only if it is kept in registers
    IK_NO_UNROLL for (; s.item < items(); s = next(block, s, stride)) {
      if (s.chunk == 0) {
        if (s.mean || a.single) {
          this->start_from_bias(block, first_column, sums);
        } else if constexpr (X.term == Term::kRegisters) {
          sums = term;
        } else {
          IK_UNROLL for (int j = 0; j < MT * NT; ++j) block.recall(scratch + j * 128, sums.c[j / NT][j % NT]);
        }
      }
      const int stage = kFirstStage + stages.index * kStage;
      if (takes_stage(s)) {
        block.wait_at(full_stage(stages.index), stages.parity);
        if (s.mean) block.wait_at(full_mean(means.index), means.parity);
      } else {
        block.wait_at(full_mean(means.index), means.parity);
      }
      const int tile = s.mean ? kFirstMean + means.index * kTile : stage;
      convolve(block, of_group, tile, kStreamed ? stage + kTile : s.mean * kWeights, sums);
      if (takes_stage(s)) {
        block.arrive_at(free_stage(stages.index));
        stages.move(kStages);
      }
      if (s.mean) {
        block.arrive_at(free_mean(means.index));
        means.move(kMeans);
      }
      if (s.chunk + 1 < chunks()) continue;
      if (!s.mean) {
        this->template store<8>(block, s, of_warp, first_column, sums);
        block.fence_async();  // no product reads what store wrote; but so no path from a write to a product lacks a
                              // fence
      } else if constexpr (X.term == Term::kRegisters) {
        term = sums;
      } else {
        IK_UNROLL for (int j = 0; j < MT * NT; ++j) block.keep(scratch + j * 128, sums.c[j / NT][j % NT]);
      }
    }
  }

  IK_DEVICE void run(WarpgroupBlock& block) const {
    const int column_tile = block.program % column_tiles(), stride = block.num_programs / column_tiles();
    if (block.warp == 0) {
      for (int i = 0; i < kStages + kMeans; ++i) {
        block.init_barrier(full_stage(i), i < kStages ? X.copy_warps : X.mean_warps);
        block.init_barrier(free_stage(i), kComputeWarps);
      }
    }
    if (!kStreamed) {
      this->copy_weights(block, kAll, false, column_tile, 0, 0);
      this->copy_weights(block, kAll, true, column_tile, 0, kWeights);
      block.commit();
      block.template wait<0>();
    }
    block.fence_async();
    block.sync();
    const Step s = first(block, block.program / column_tiles());
    if (block.warp < kMean.first) {
      if constexpr (X.registers > 0) block.template set_registers<X.registers>();
      compute(block, s, stride, column_tile);
    } else {
      if constexpr (X.registers > 0) block.template set_registers<256 - X.registers>();
      if (block.warp < kCopy.first) {
        make_means(block, s, stride);
      } else {
        copy_samples(block, s, stride, column_tile);
      }
    }
  }
};

}  // namespace interconv::halo

// The configurations of the weight gradient's kernels: a table with reasons. A kernel is compiled for each of them and
// each dtype.
#pragma once
#include <cstdint>

namespace interconv::halo {

// A program sums the products of `channels` channels of u and `columns` channels of g over tiles of pixels. A warp has
// 16 of the channels and 16 of the columns, for all taps: with nine 72 of a thread's registers.
struct WeightGradientConfig {
  int channels, columns;
  int split;           // warps that have the same channels and columns, and share the pixels of a tile
  int rows;            // a warp's rows at a time: more of them share u's halo, and make longer code
  int blocks, strips;  // a tile has `blocks` x `rows` rows of `strips` x 16 pixels
  int stages;          // tiles in shared memory: one is computed, the next ones are copied
  int programs;        // of a multiprocessor, that share its registers: one's copies overlap the other's products
  int kernel = 3;      // 3 or 1: 3x3 or 1x1

  constexpr int tile_h() const { return blocks * rows; }
  constexpr int tile_w() const { return strips * 16; }
  constexpr int warps() const { return channels / 16 * (columns / 16) * split; }
};

struct WeightGradientRow {
  WeightGradientConfig config;
  const char* reason;
};

// 11 rows of 16 pixels are the most that leave room for two programs with 164 KB of shared memory (sm_80) and for one
// with 100 KB (sm_86, sm_89, sm_120). u's halo makes 1.33 times the pixels of them.
inline constexpr WeightGradientRow kWeightGradientConfigs[] = {
    {{16, 16, 4, 4, 2, 2, 2, 4}, "up to 16 channels: memory limits, so small tiles and many programs"},
    {{32, 32, 1, 11, 1, 1, 2, 4}, "up to 32 channels"},
    {{32, 64, 1, 11, 1, 1, 2, 2}, "more: the most products a byte that two programs have registers for"},
    {{32, 32, 2, 1, 1, 16, 2, 2, 1}, "1x1, up to 32 channels: lines of 256 pixels"},
    {{64, 64, 1, 1, 1, 8, 3, 1, 1},
     "1x1: the most channels of 16 warps, so that u and g are copied as rarely as possible"},
};
inline constexpr int kNumWeightGradientConfigs = sizeof(kWeightGradientConfigs) / sizeof(WeightGradientRow);

// Of the rows for the kernel, the first whose program holds all channels, or the last one.
constexpr int pick_weight_gradient(int kernel, int64_t channels, int64_t out_channels) {
  int last = 0;
  for (int i = 0; i < kNumWeightGradientConfigs; ++i) {
    const WeightGradientConfig& config = kWeightGradientConfigs[i].config;
    if (config.kernel != kernel) continue;
    last = i;
    if (channels <= config.channels && out_channels <= config.columns) break;
  }
  return last;
}

}  // namespace interconv::halo

// The configurations of the kernels for warpgroups (sm_90a): as configs.h, whose rows they follow in the table that
// Python reads.
#pragma once
#include "configs.h"

namespace interconv::halo {

// A program has `groups` warpgroups that compute, each 8 mt rows of 8 pixels and all columns, `cols` of them side by
// side; then warps that make the means of the tiles to come, and warps that copy samples and streamed weights.
struct WarpgroupConfig {
  int channels;  // a chunk of input channels in shared memory
  int columns;   // output channels of a program
  int mt, groups, cols;
  int mean_warps, copy_warps;
  int stages, means;  // chunks of samples and of means in shared memory
  int registers;      // of a thread that computes; 0: all threads have the same
  Weights weights;    // resident or streamed
  Term term;
  int kernel = 3, stride = 1, bytes = 2;

  constexpr int tile_h() const { return 8 * mt * groups / cols; }
  constexpr int tile_w() const { return 8 * cols; }
  constexpr int nt() const { return columns / 8; }
  constexpr int compute_warps() const { return 4 * groups; }
  constexpr int warps() const { return compute_warps() + mean_warps + copy_warps; }
  constexpr int halo_h() const { return tile_h() + 2; }
  constexpr int halo_w() const { return tile_w() + 2; }

  // --- shared memory: weights, stages (tile, streamed weights), means, staging of results, barriers ------------------

  constexpr int planes() const { return channels / 8; }
  // Bytes of a plane. The planes of one pixel, which neighbouring threads fill, start in different banks.
  constexpr int plane() const {
    const int skew = planes() >= 8 ? 1 : 8 / planes();
    return ((halo_h() * halo_w() + 7 - skew) / 8 * 8 + skew) * 16;
  }
  constexpr int tile() const { return (planes() * plane() + 127) / 128 * 128; }
  constexpr int weights_bytes() const { return 9 * channels * columns * 2; }
  constexpr int stage() const { return tile() + (weights == Weights::kStreamed ? weights_bytes() : 0); }
  constexpr int first_stage() const { return weights == Weights::kStreamed ? 0 : 2 * weights_bytes(); }
  constexpr int first_mean() const { return first_stage() + stages * stage(); }
  constexpr int staging() const { return first_mean() + means * tile(); }
  constexpr int staging_row() const { return columns * 2 + 16; }  // of a pixel; 16 bytes more against bank conflicts
  constexpr int barriers() const { return staging() + compute_warps() * 8 * staging_row(); }
  constexpr int shared() const { return barriers() + 16 * (stages + means); }

  // float32 values of global memory for the term, for each program
  constexpr int scratch() const { return term == Term::kMemory ? compute_warps() * mt * nt() * 128 : 0; }
};

struct WarpgroupRow {
  WarpgroupConfig config;
  const char* reason;
};

inline constexpr WarpgroupRow kWarpgroupConfigs[] = {
    {{16, 16, 2, 2, 2, 6, 2, 3, 1, 0, Weights::kResident, Term::kRegisters}, "up to 16 channels: bound by memory"},
    {{32, 32, 2, 2, 2, 6, 2, 3, 1, 0, Weights::kResident, Term::kRegisters}, "up to 32 channels: bound by memory"},
    {{48, 48, 2, 2, 2, 6, 2, 2, 1, 184, Weights::kResident, Term::kRegisters},
     "up to 48 channels (46): 64 would pad the products by 78 %; sums and term take 96 registers a thread"},
    {{64, 64, 1, 2, 1, 6, 2, 2, 1, 0, Weights::kResident, Term::kRegisters},
     "up to 64 channels: with all weights resident, three tiles of 16x8 fit, for two samples and a mean"},
    {{16, 128, 2, 2, 2, 6, 2, 3, 2, 184, Weights::kStreamed, Term::kMemory},
     "many channels: 16x16 pixels for each copy of 16 channels' weights; 128 sums a thread"},
    {{16, 96, 2, 2, 2, 6, 2, 4, 2, 184, Weights::kStreamed, Term::kMemory},
     "many channels that 96 divides better (92, 184, 282)"},
};
inline constexpr int kNumWarpgroupConfigs = sizeof(kWarpgroupConfigs) / sizeof(WarpgroupRow);

}  // namespace interconv::halo

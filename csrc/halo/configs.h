// The configurations of the layer's kernels: a table with reasons. A kernel is compiled for each of them and each
// dtype. Python reads the table with torch.ops.interconv_cpp.halo_configs(), and chooses from it
// (_backends/cpp/halo.py).
#pragma once
#include <cstdint>

namespace interconv::halo {

// Where the weights [kernel^2][channels][columns] of a program are.
enum class Weights {
  kResident,     // in shared memory for as long as the program runs, own and set half
  kAlternating,  // the set half while the term of a tile is made, then the own half
  kStreamed,     // copied with each chunk of channels
};

// Where the term of a tile, conv(s; Ws) + b in float32, is kept while the samples of the set are computed.
enum class Term { kRegisters, kMemory };

// A program has rows x cols x split warps. Each computes 2 mt rows of 8 pixels and `columns` / split output channels.
struct Config {
  int kernel;    // 3 or 1: 3x3 or 1x1
  int stride;    // 1 or 2
  int channels;  // a chunk of input channels in shared memory
  int columns;   // output channels of a program
  int mt, rows, cols, split;
  Weights weights;
  Term term;
  int bytes = 2;  // of a value of u: 2, or 4 for float32, which is multiplied in TF32

  constexpr int tile_h() const { return 2 * mt * rows; }
  constexpr int tile_w() const { return 8 * cols; }
  constexpr int warps() const { return rows * cols * split; }
  constexpr int nt() const { return columns / split / 8; }

  // --- shared memory: weights, two stages (a tile, streamed weights; one is computed, the other copied), staging ---

  // The pixels that a tile is computed from. Even and odd columns are apart with stride 2: an even number.
  constexpr int halo_h() const { return stride * (tile_h() - 1) + kernel; }
  constexpr int halo_w() const { return (stride * (tile_w() - 1) + kernel + stride - 1) / stride * stride; }
  constexpr int planes() const { return channels * bytes / 16; }
  // Bytes of a plane. The planes of one pixel, which neighbouring threads fill, start in different banks.
  constexpr int plane() const {
    const int skew = planes() >= 8 ? 1 : 8 / planes();
    return ((halo_h() * halo_w() + 7 - skew) / 8 * 8 + skew) * 16;
  }
  constexpr int tile() const { return (planes() * plane() + 127) / 128 * 128; }
  constexpr int weights_bytes() const { return kernel * kernel * channels * columns * bytes; }
  // Bytes of a stage: a chunk of the tile's channels, and of the weights if they are streamed.
  constexpr int stage() const { return tile() + (weights == Weights::kStreamed ? weights_bytes() : 0); }
  constexpr int first_stage() const {
    return weights == Weights::kResident ? 2 * weights_bytes() : weights == Weights::kAlternating ? weights_bytes() : 0;
  }
  constexpr int staging() const { return first_stage() + 2 * stage(); }
  constexpr int staging_row() const {
    return nt() * 8 * bytes + 16;
  }  // of a pixel; 16 bytes more against bank conflicts
  constexpr int shared() const { return staging() + warps() * 8 * staging_row(); }

  // float32 values of global memory for the term, for each program
  constexpr int scratch() const { return term == Term::kMemory ? warps() * mt * nt() * 128 : 0; }
};

struct Row {
  Config config;
  const char* reason;
};

// Of equal configurations (in padded work and column tiles) the first is preferred. The paper's images are 160x192 and
// halves of that down to 10x12, and 128x128: tiles of 16x16 divide the large ones, 10 rows the small ones.
inline constexpr Row kConfigs[] = {
    {{3, 1, 16, 16, 4, 2, 2, 1, Weights::kResident, Term::kRegisters},
     "up to 16 channels: bound by memory, so all that is reused stays on chip; three programs share a multiprocessor"},
    {{3, 1, 32, 32, 4, 2, 2, 1, Weights::kResident, Term::kRegisters},
     "up to 32 channels: as for 16; sums and term take 128 registers a thread, two programs share a multiprocessor"},
    {{3, 1, 48, 48, 4, 2, 2, 1, Weights::kAlternating, Term::kMemory},
     "up to 48 channels (46): 64 would pad the products by 78 %; sums and term do not fit the registers"},
    {{3, 1, 64, 64, 4, 2, 2, 1, Weights::kAlternating, Term::kMemory},
     "up to 64 channels: both halves of the weights and two tiles would take 231 KB, one half at a time takes 159"},
    {{3, 1, 16, 128, 4, 2, 2, 2, Weights::kStreamed, Term::kMemory},
     "many channels: 16x16 pixels and 128 columns for each copy of 16 channels' weights"},
    {{3, 1, 16, 96, 4, 2, 2, 2, Weights::kStreamed, Term::kMemory},
     "many channels that 96 divides better (92, 184, 282)"},
    {{3, 1, 16, 128, 5, 1, 2, 4, Weights::kStreamed, Term::kMemory}, "40x48 pixels, which 10x16 divides, and 10x12"},
    {{3, 1, 16, 96, 5, 1, 3, 2, Weights::kStreamed, Term::kMemory}, "20x24 pixels, which 10x24 divides"},
    {{3, 1, 16, 64, 4, 2, 2, 1, Weights::kStreamed, Term::kMemory},
     "any channels where a block has 99 KB of shared memory (sm_86, sm_120)"},
    {{3, 1, 16, 48, 4, 2, 2, 1, Weights::kStreamed, Term::kMemory},
     "channels that 48 divides better (137, 141), or 99 KB"},
    {{3, 2, 16, 96, 4, 1, 2, 2, Weights::kStreamed, Term::kMemory}, "stride 2: 8x16 results of 17x33 pixels, in 99 KB"},
    {{1, 1, 16, 16, 4, 2, 2, 1, Weights::kResident, Term::kRegisters}, "1x1, up to 16 channels"},
    {{1, 1, 64, 64, 2, 4, 2, 1, Weights::kResident, Term::kRegisters},
     "1x1, up to 64 channels: eight warps, of which each keeps sums and term in 128 registers"},
    {{1, 1, 32, 128, 4, 2, 2, 2, Weights::kStreamed, Term::kMemory}, "1x1, many channels"},
    {{1, 1, 32, 96, 4, 2, 2, 2, Weights::kStreamed, Term::kMemory}, "1x1, many channels that 96 divides better"},
    {{3, 1, 16, 16, 4, 2, 2, 1, Weights::kResident, Term::kRegisters, 4}, "TF32, up to 16 channels"},
    {{3, 1, 32, 32, 4, 2, 2, 1, Weights::kAlternating, Term::kRegisters, 4},
     "TF32, up to 32 channels: both halves of the weights and two tiles would take 162 KB, one half at a time takes "
     "125"},
    {{3, 1, 8, 64, 4, 2, 2, 2, Weights::kStreamed, Term::kMemory, 4},
     "TF32, many channels: eight warps, four would spill"},
    {{3, 1, 8, 48, 4, 2, 2, 1, Weights::kStreamed, Term::kMemory, 4}, "TF32, channels that 48 divides better (46, 92)"},
    {{3, 2, 8, 64, 2, 2, 2, 2, Weights::kStreamed, Term::kMemory, 4}, "TF32, stride 2"},
    {{1, 1, 16, 64, 4, 2, 2, 1, Weights::kStreamed, Term::kMemory, 4}, "TF32, 1x1"},
};
inline constexpr int kNumConfigs = sizeof(kConfigs) / sizeof(Row);

}  // namespace interconv::halo

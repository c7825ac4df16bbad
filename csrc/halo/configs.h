// The configurations of the layer's kernels: a table with reasons. A kernel is compiled for each of them and each
// dtype.
#pragma once
#include <cstdint>

namespace interconv::halo {

// Where the weights [9][channels][columns] of a program are.
enum class Weights {
  kResident,  // in shared memory for as long as the program runs, own and set half
  kByTurns,   // the set half while the term of a tile is made, then the own half
  kStreamed,  // copied with each chunk of channels
};

// Where the term of a tile, conv(s; Ws) + b in float32, is kept while the samples of the set are computed.
enum class Term { kRegisters, kMemory };

// A program has rows x cols x split warps. Each computes 2 mt rows of 8 pixels and `columns` / split output channels.
struct Config {
  int channels;  // a chunk of input channels in shared memory
  int columns;   // output channels of a program
  int mt, rows, cols, split;
  int stages;  // chunks in shared memory: one is computed, the next ones are copied
  Weights weights;
  Term term;

  constexpr int tile_h() const { return 2 * mt * rows; }
  constexpr int tile_w() const { return 8 * cols; }
  constexpr int warps() const { return rows * cols * split; }
};

struct Row {
  Config config;
  const char* reason;
};

inline constexpr Row kConfigs[] = {
    {{16, 16, 4, 2, 2, 1, 2, Weights::kResident, Term::kRegisters}, "up to 16 channels"},
    {{32, 32, 4, 2, 2, 1, 2, Weights::kResident, Term::kRegisters}, "up to 32 channels"},
    {{64, 64, 4, 2, 2, 1, 2, Weights::kByTurns, Term::kMemory}, "up to 64 channels"},
    {{16, 128, 4, 2, 2, 2, 3, Weights::kStreamed, Term::kMemory}, "many channels"},
};
inline constexpr int kNumConfigs = sizeof(kConfigs) / sizeof(Row);

}  // namespace interconv::halo

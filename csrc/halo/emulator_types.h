// What the emulator takes and gives, and what it knows of shared memory and barriers.
#pragma once
#include <array>
#include <cstdint>

namespace interconv::halo {

enum class Order { kInTurn, kShuffled, kInterleaved };

// Operations that tests leave out, to see that the checks notice.
enum class Op {
  kNone,
  kSync,
  kSyncWarp,
  kCommit,
  kWait,
  kFenceAsync,
  kFenceProducts,
  kCommitProducts,
  kWaitProducts,
  kArriveAt,
  kWaitAt
};

struct Counts {
  int64_t copied = 0, read = 0, written = 0;  // bytes of global memory: asynchronous copies, reads, writes
  int64_t sectors = 0;                        // of 32 bytes, that each instruction of a warp touches there
  int64_t wavefronts = 0;                     // of shared memory: 128 bytes of different banks each
  int64_t products = 0, barriers = 0;         // products of 16 x 8 x 16
};

namespace emulated {

inline constexpr int kMaxWarps = 16;
using Clock = std::array<uint32_t, kMaxWarps>;

struct Word {
  int8_t writer = -1, writer_lane = 0, reader = -1, reader_lane = 0;
  int16_t in_flight = 0, async_readers = 0;
  uint32_t fences = 0;  // of the writer, before it wrote
  uint32_t write_clock = 0, write_epoch = 0, read_epoch = 0;
  Clock read_clock{};
};
struct Barrier {
  int arrived = 0;
  int64_t phase = 0;
  Clock arriving{}, opened{};
};
struct Phases {
  int warps = 0, missing = 0, initialiser = 0;
  uint32_t init_clock = 0;
  int64_t over = 0;
  Clock arriving{}, opened{};
};

}  // namespace emulated

}  // namespace interconv::halo

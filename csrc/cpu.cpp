// The set operations on the CPU: the launcher runs groups x tiles of columns on torch's threads.
#include <algorithm>

#include "multiversioning.h"
#include "raw_set_ops.h"

namespace interconv {
namespace {

// Columns of a tile. Long enough runs of each row for the prefetcher (1024 columns were read at two thirds of the
// speed); short enough that the sums and the rows of a small set stay in the cache between accumulate() and write().
constexpr int kTileColumns = 8192;
// Elements per thread below which starting a thread costs more than it saves.
constexpr int64_t kMinElements = 16 * 1024;

// Tile by tile, and in a tile group by group: the samples of neighbouring sets are neighbours in memory.
template <class F>
IK_MULTIVERSIONED void run_tiles(const F& f, int64_t groups, int64_t columns, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t c = i / groups * kTileColumns;
    if (columns - c >= kTileColumns) {
      f.template run<kTileColumns>(i % groups, c, kTileColumns);  // a constant n: whole vectors without a tail
    } else {
      f.template run<kTileColumns>(i % groups, c, static_cast<int>(columns - c));
    }
  }
}

struct Cpu {
  explicit Cpu(const Tensor&) {}

  template <class F>
  static void launch(const F& f, int64_t groups, int64_t columns, bool) {
    const int64_t tiles = (columns + kTileColumns - 1) / kTileColumns;
    if (groups * tiles == 0) return;
    const int64_t grain = std::max<int64_t>(1, kMinElements / std::min<int64_t>(kTileColumns, columns));
    torch::stable::parallel_for(0, groups * tiles, grain,
                                [&](int64_t begin, int64_t end) { run_tiles(f, groups, columns, begin, end); });
  }

  static bool may_have_long_sets(const SetIndex& sets) {
    for (int64_t b = 0; b < sets.num_sets; ++b) {
      if (sets[b].is_long()) return true;
    }
    return false;
  }
};

}  // namespace
}  // namespace interconv

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CPU, m) { interconv::register_set_ops<interconv::Cpu>(m); }

// The CPU launcher: groups x column tiles over torch's threads.
#include <algorithm>

#include "clones.h"
#include "ops.h"

namespace interconv {
namespace {

// Columns of a tile: long runs in each row for the prefetcher (1024 columns read at two thirds of the speed), short enough
// that the sums and a small set's rows stay in the cache between take() and give().
constexpr int kTile = 8192;
constexpr int64_t kGrain = 16 * 1024;  // elements below which a thread is not worth waking

template <class F>
IK_CLONES void run_tiles(const F& f, int64_t groups, int64_t columns, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {  // tile by tile, so that a set's samples follow each other
    const int64_t c = i / groups * kTile;
    if (columns - c >= kTile) {
      f.template run<kTile>(i % groups, c, kTile);  // a constant: whole vectors, no tail
    } else {
      f.template run<kTile>(i % groups, c, static_cast<int>(columns - c));
    }
  }
}

struct Cpu {
  explicit Cpu(const Tensor&) {}

  template <class F>
  static void launch(const F& f, int64_t groups, int64_t columns, bool) {
    const int64_t tiles = (columns + kTile - 1) / kTile;
    if (groups * tiles == 0) return;
    const int64_t grain = std::max<int64_t>(1, kGrain / std::min<int64_t>(kTile, columns));
    torch::stable::parallel_for(0, groups * tiles, grain, [&](int64_t begin, int64_t end) {
      run_tiles(f, groups, columns, begin, end);
    });
  }

  static bool may_be_long(const SetIndex& sets) {
    for (int64_t b = 0; b < sets.num_sets; ++b) {
      if (SetIndex::is_long(sets.span(b))) return true;
    }
    return false;
  }
};

}  // namespace
}  // namespace interconv

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CPU, m) { interconv::implement<interconv::Cpu>(m); }

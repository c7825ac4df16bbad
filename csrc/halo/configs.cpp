// The raw op halo_configs: the tables of configs.h and warpgroup_configs.h as JSON, one after the other.
#include <torch/csrc/stable/library.h>

#include <string>

#include "warpgroup_configs.h"

namespace interconv::halo {
namespace {

std::string field(const char* name, int value) {
  return std::string("\"") + name + "\": " + std::to_string(value) + ", ";
}

// Tensor-core instructions of a warp for 32 bytes of channels.
int products(const Config& config) { return config.kernel * config.kernel * config.mt * config.nt(); }
int products(const WarpgroupConfig& config) { return 9 * config.mt; }

template <class Rows>
void add(std::string& rows, const Rows& table, const char* engine) {
  constexpr const char* kWeightsNames[] = {"resident", "alternating", "streamed"};
  for (const auto& [config, reason] : table) {
    if (!rows.empty()) rows += ", ";
    rows += "{" + field("kernel", config.kernel) + field("stride", config.stride) + field("channels", config.channels) +
            field("columns", config.columns) + field("tile_h", config.tile_h()) + field("tile_w", config.tile_w()) +
            field("warps", config.warps()) + field("mt", config.mt) + field("nt", config.nt()) +
            field("value_bytes", config.bytes) + field("shared", config.shared()) +
            field("products_in_loop", products(config)) + "\"engine\": \"" + engine + "\", \"weights\": \"" +
            kWeightsNames[int(config.weights)] + "\", \"term\": \"" +
            (config.term == Term::kRegisters ? "registers" : "memory") + "\", \"reason\": \"" + reason + "\"}";
  }
}

std::string halo_configs() {
  std::string rows;
  add(rows, kConfigs, "mma.sync");
  add(rows, kWarpgroupConfigs, "wgmma");
  return "[" + rows + "]";
}

}  // namespace
}  // namespace interconv::halo

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CompositeExplicitAutograd, m) {
  m.impl("halo_configs", TORCH_BOX(&interconv::halo::halo_configs));
}

// The raw op halo_configs: the table of configs.h as JSON.
#include "configs.h"

#include <torch/csrc/stable/library.h>

#include <string>

namespace interconv::halo {
namespace {

std::string field(const char* name, int value) {
  return std::string("\"") + name + "\": " + std::to_string(value) + ", ";
}

std::string halo_configs() {
  constexpr const char* kWeightsNames[] = {"resident", "by turns", "streamed"};
  std::string rows;
  for (const auto& [config, reason] : kConfigs) {
    if (!rows.empty()) rows += ", ";
    rows += "{" + field("kernel", config.kernel) + field("stride", config.stride) + field("channels", config.channels) +
            field("columns", config.columns) + field("tile_h", config.tile_h()) + field("tile_w", config.tile_w()) +
            field("warps", config.warps()) + field("shared", config.shared()) +
            field("products_in_loop", config.kernel * config.kernel * config.mt * config.nt()) + "\"weights\": \"" +
            kWeightsNames[int(config.weights)] + "\", \"reason\": \"" + reason + "\"}";
  }
  return "[" + rows + "]";
}

}  // namespace
}  // namespace interconv::halo

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CompositeExplicitAutograd, m) {
  m.impl("halo_configs", TORCH_BOX(&interconv::halo::halo_configs));
}

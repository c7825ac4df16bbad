// The kernels of csrc/halo/weight_gradient.h on the emulator, as a C function that the tests call.
#include <cmath>
#include <utility>

#include "weight_gradient.h"

namespace interconv::halo {
namespace {

constexpr int kLaunches = 3, kCounts = 10;

// As _Call in emulated_weight_gradient.py.
struct Call {
  const void *u, *g;
  const int32_t *offsets, *set_ids;
  void *means, *totals, *weight, *bias;
  int64_t strides[4];  // of weight [Co,2C,k,k]
  int32_t num_sets, samples, h, w, out_h, out_w, pad_h, pad_w, channels, out_channels, single, on_chip;
  int32_t slices, order, left_out, left_out_launch;
  int64_t seed, left_out_index, forgotten;  // forgotten: the program whose partial sums are lost, or -1
  int64_t counts[kLaunches][kCounts];
  int32_t was_left_out;
  char errors[1000];
};

struct Memory {
  const void* begin;
  int64_t bytes;
  bool writable;
};

// Every program of a launch.
template <class Kernel>
void launch(Call& call, int index, const Kernel& kernel, int programs, const std::vector<Memory>& memories) {
  std::string errors = call.errors;
  for (int program = 0; program < programs; ++program) {
    Emulator machine(Kernel::kWarps, Kernel::kShared, Order(call.order), call.seed + program);
    for (const Memory& memory : memories) machine.allow(memory.begin, memory.bytes, memory.writable);
    if (index == call.left_out_launch) machine.leave_out(Op(call.left_out), call.left_out_index);
    machine.run([&](int warp) {
      Block block(machine, warp, program, programs);
      kernel.run(block);
    });
    const Counts& c = machine.counts;
    const int64_t counts[] = {c.copied,
                              c.read,
                              c.written,
                              c.sectors,
                              c.wavefronts,
                              c.products,
                              c.barriers,
                              machine.bytes_copied_from(0),
                              machine.bytes_copied_from(1),
                              1};
    for (int i = 0; i < kCounts; ++i) call.counts[index][i] += counts[i];
    call.was_left_out |= machine.was_left_out();
    for (const auto& error : machine.errors) {
      if (errors.find(error) == std::string::npos) errors += error + "\n";
    }
  }
  strncpy(call.errors, errors.c_str(), sizeof(call.errors) - 1);
}

template <class T, int I>
void run(Call& call) {
  constexpr WeightGradientConfig X = kWeightGradientConfigs[I].config;
  using Kernel = WeightGradient<T, X>;
  const bool lines = X.kernel == 1;
  const int h = lines ? 1 : call.h, w = lines ? call.h * call.w : call.w;
  const int out_h = lines ? 1 : call.out_h, out_w = lines ? w : call.out_w;
  const int64_t u_bytes = int64_t(h) * w * call.channels * 2, g_bytes = int64_t(out_h) * out_w * call.out_channels * 2;
  const int64_t index_bytes[] = {(call.num_sets + 1) * 4, call.samples * 4};
  std::vector<float> partials[2];

  const auto products = [&](bool set_half) {
    const auto *u = static_cast<const T*>(set_half ? call.means : call.u),
               *g = static_cast<const T*>(set_half ? call.totals : call.g);
    const bool makes_sums = call.on_chip && !set_half && !call.single;
    auto* const means = makes_sums ? static_cast<T*>(call.means) : nullptr;
    auto* const totals = makes_sums ? static_cast<T*>(call.totals) : nullptr;
    const int n = set_half ? call.num_sets : call.samples;
    Kernel kernel{{{u, h, w, call.channels},
                   {g, out_h, out_w, call.out_channels},
                   nullptr,
                   means,
                   totals,
                   makes_sums || set_half ? call.offsets : nullptr,
                   makes_sums ? call.set_ids : nullptr,
                   n,
                   call.pad_h,
                   call.pad_w,
                   !set_half && call.bias}};
    const int programs = call.slices * kernel.pairs();
    partials[set_half].assign(int64_t(programs) * Kernel::kPartial, std::nanf(""));
    kernel.a.partials = partials[set_half].data();
    launch(call, set_half, kernel, programs,
           {{u, n * u_bytes, false},
            {g, n * g_bytes, false},
            {kernel.a.offsets, index_bytes[0], false},
            {kernel.a.set_ids, index_bytes[1], false},
            {means, call.num_sets * u_bytes, true},
            {totals, call.num_sets * g_bytes, true},
            {kernel.a.partials, int64_t(programs) * Kernel::kPartial * 4, true}});
    if (call.forgotten >= 0 && !set_half) {
      std::fill_n(kernel.a.partials + call.forgotten * Kernel::kPartial, Kernel::kPartial, 0.0f);
    }
  };
  products(false);
  if (!call.single) products(true);

  const float* from_set = call.single ? nullptr : partials[1].data();
  AddPartials<T> add{partials[0].data(),
                     from_set,
                     static_cast<T*>(call.weight),
                     static_cast<T*>(call.bias),
                     X.kernel,
                     call.strides[0],
                     call.strides[1],
                     call.strides[2],
                     call.strides[3],
                     call.channels,
                     call.out_channels,
                     X.channels,
                     X.columns,
                     Kernel::kPartial,
                     call.slices,
                     call.slices};
  launch(call, 2, add, 2,
         {{partials[0].data(), int64_t(partials[0].size()) * 4, false},
          {from_set, int64_t(partials[1].size()) * 4, false},
          {call.weight, int64_t(call.out_channels) * 2 * call.channels * Kernel::kTaps * 2, true},
          {call.bias, call.out_channels * 2, true}});
}

template <class T, size_t... I>
void choose(int config, Call& call, std::index_sequence<I...>) {
  ((config == int(I) ? run<T, int(I)>(call) : void()), ...);
}

}  // namespace
}  // namespace interconv::halo

extern "C" void halo_weight_gradient(int config, int is_float16, interconv::halo::Call* call) {
  using namespace interconv::halo;
  constexpr auto every = std::make_index_sequence<kNumWeightGradientConfigs>();
  is_float16 ? choose<Float16>(config, *call, every) : choose<Bfloat16>(config, *call, every);
}

extern "C" int pick_weight_gradient(int kernel, int channels, int out_channels) {
  return interconv::halo::pick_weight_gradient(kernel, channels, out_channels);
}

// What is in a row of the table; 0 after the last row.
extern "C" int weight_gradient_config(int row, int* fields) {
  using namespace interconv::halo;
  if (row >= kNumWeightGradientConfigs) return 0;
  const WeightGradientConfig& x = kWeightGradientConfigs[row].config;
  const int values[] = {x.channels, x.columns, x.tile_h(), x.tile_w(), x.warps(), x.kernel};
  std::copy(std::begin(values), std::end(values), fields);
  return 1;
}

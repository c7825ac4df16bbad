// The kernels of csrc/halo on the emulator, as a C function that the tests call: those of configs.h, or, with
// -DWARPGROUPS, those of warpgroup_configs.h.
#include <utility>

#ifdef WARPGROUPS
#include "warpgroup_layer.h"
#else
#include "layer.h"
#endif
#include "weights.h"

namespace interconv::halo {
namespace {

#ifdef WARPGROUPS
template <class T, int I>
using Layer = WarpgroupLayer<T, kWarpgroupConfigs[I].config>;
using LayerBlock = WarpgroupBlock;
constexpr auto& kTable = kWarpgroupConfigs;
constexpr int kTableSize = kNumWarpgroupConfigs, kFirstRow = kNumConfigs;
#else
template <class T, int I>
using Layer = HaloLayer<T, kConfigs[I].config>;
using LayerBlock = Block;
constexpr auto& kTable = kConfigs;
constexpr int kTableSize = kNumConfigs, kFirstRow = 0;
#endif

// As _Call in emulated.py.
struct Call {
  const void *u, *weight, *bias, *slope;
  const int32_t *offsets, *set_ids;
  void* y;
  int64_t strides[4];  // of weight [Co,2C,k,k]
  int32_t num_sets, samples, h, w, out_h, out_w, pad_h, pad_w, channels, out_channels, parts, single, transposed;
  int32_t programs, order, left_out;
  int64_t seed, left_out_index;
  int64_t counts[8];
  int32_t was_left_out;
  char errors[1000];
};

template <class T, int I>
void run(Call& call) {
  constexpr int kBytes = sizeof(T);
  using Kernel = Layer<T, I>;
  constexpr auto X = kTable[I].config;
  PackWeights<T> pack{static_cast<const T*>(call.weight),
                      nullptr,
                      call.strides[0],
                      call.strides[1],
                      call.strides[2],
                      call.strides[3],
                      call.channels,
                      call.out_channels,
                      X.kernel,
                      X.channels,
                      X.columns,
                      call.transposed != 0,
                      call.single != 0};
  std::vector<uint4> packed(pack.numel() * kBytes / 16);
  pack.packed = reinterpret_cast<T*>(packed.data());
  for (int64_t i = 0; i < pack.numel(); ++i) pack.run(i);

  Kernel kernel{{{static_cast<const T*>(call.u),
                  pack.packed,
                  static_cast<const T*>(call.bias),
                  static_cast<const T*>(call.slope),
                  call.offsets,
                  call.set_ids,
                  static_cast<T*>(call.y),
                  nullptr,
                  call.samples,
                  call.h,
                  call.w,
                  call.out_h,
                  call.out_w,
                  call.pad_h,
                  call.pad_w,
                  call.channels,
                  call.out_channels,
                  call.h * call.w,
                  call.out_h * call.out_w,
                  access_width(call.channels, static_cast<const T*>(call.u)),
                  access_width(call.out_channels, static_cast<T*>(call.y)),
                  call.parts,
                  call.single != 0}}};
  if (X.kernel == 1) kernel.a.as_lines(X.tile_w());
  const int programs = std::min(call.programs, kernel.items()) * pack.column_tiles();
  std::vector<uint4> scratch(int64_t(programs) * X.scratch() / 4);
  kernel.a.scratch = reinterpret_cast<float*>(scratch.data());
  std::string errors;
  for (int program = 0; program < programs; ++program) {
    Emulator machine(Kernel::kWarps, X.shared(), Order(call.order), call.seed + program);
    const int u = machine.allow(call.u, int64_t(call.samples) * call.h * call.w * call.channels * kBytes, false);
    machine.allow(pack.packed, pack.numel() * kBytes, false);
    machine.allow(call.bias, call.bias ? call.out_channels * kBytes : 0, false);
    machine.allow(call.slope, call.slope ? call.out_channels * kBytes : 0, false);
    machine.allow(call.offsets, (call.num_sets + 1) * 4, false);
    machine.allow(call.set_ids, call.samples * 4, false);
    machine.allow(call.y, int64_t(call.samples) * call.out_h * call.out_w * call.out_channels * kBytes, true);
    machine.allow(scratch.data() + int64_t(program) * X.scratch() / 4, X.scratch() * 4, true);
    machine.leave_out(Op(call.left_out), call.left_out_index);
    machine.run([&](int warp) {
      LayerBlock block(machine, warp, program, programs);
      kernel.run(block);
    });
    const Counts& c = machine.counts;
    const int64_t counts[] = {c.copied,     c.read,     c.written,  c.sectors,
                              c.wavefronts, c.products, c.barriers, machine.bytes_copied_from(u)};
    for (int i = 0; i < 8; ++i) call.counts[i] += counts[i];
    call.was_left_out |= machine.was_left_out();
    for (const auto& error : machine.errors) {
      if (errors.find(error) == std::string::npos) errors += error + "\n";
    }
  }
  strncpy(call.errors, errors.c_str(), sizeof(call.errors) - 1);
}

template <class T, int I>
void run_if_for(Call& call) {
  if constexpr (kTable[I].config.bytes == sizeof(T)) run<T, I>(call);
}
template <class T, size_t... I>
void choose(int config, Call& call, std::index_sequence<I...>) {
  ((config == kFirstRow + int(I) ? run_if_for<T, int(I)>(call) : void()), ...);
}

}  // namespace
}  // namespace interconv::halo

// `dtype`: 0, 1 or 2 for bfloat16, float16 or float32.
extern "C" void halo_layer(int config, int dtype, interconv::halo::Call* call) {
  using namespace interconv::halo;
  constexpr auto every = std::make_index_sequence<kTableSize>();
  if (dtype == 0) choose<Bfloat16>(config, *call, every);
  if (dtype == 1) choose<Float16>(config, *call, every);
  if (dtype == 2) choose<Tf32>(config, *call, every);
}

extern "C" int choose_parts(int samples, int num_sets, int tiles, int slots, int single) {
  return interconv::halo::choose_parts(samples, num_sets, tiles, slots, single != 0);
}

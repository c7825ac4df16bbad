// The raw ops winograd_forward and winograd_backward.
#include "tensors.h"
#include "winograd.h"

namespace interconv {
namespace {

// Tiles of a region: as many as keep its transformed tiles in the L2 cache (160 K floats are 640 KB of 1 MB), but at
// least 32, so that the weights, which are read for each region, are reused, and at most 128, where that no longer
// gains.
int64_t region_tiles(const ImageLayout& in, const ImageLayout& out) {
  constexpr int64_t kFloats = 160 * 1024;
  const int64_t floats_per_tile = kElements * (in.padded_channels() + 2 * out.padded_channels());
  return std::clamp<int64_t>(kFloats / floats_per_tile, 32, 128);
}

// The same, but no more than each thread's share, for small images and few sets. The bits of the outputs do not depend
// on it, so it may follow the number of threads.
int64_t region_tiles_for_threads(const SetIndex& sets, const ImageLayout& in, const ImageLayout& out) {
  const int64_t tiles = sets.num_sets * ((out.height + 1) / 2) * ((out.width + 1) / 2);
  return std::clamp<int64_t>(tiles / torch::stable::get_num_threads(), kMR, region_tiles(in, out));
}

// What the ops of a layer have in common: shapes, the weight's strides, padding.
struct LayerShape {
  ImageLayout u, y;
  KernelView w;
  Padding padding;

  // u [N, C H W] and weight [Co, 2C 9], both in the memory order of NCHW or both of channels_last.
  LayerShape(const Tensor& u_rows, const Tensor& weight, const SetIndex& sets, bool channels_last, int64_t height,
             int64_t width, Padding padding)
      : padding(padding) {
    STD_TORCH_CHECK(std::min(padding.h, padding.w) >= 0 && std::max(padding.h, padding.w) <= 2, "padding (", padding.h,
                    ", ", padding.w, "): expected 0, 1 or 2");
    const int64_t columns = columns_of(weight, "weight"), c = columns / 18;
    STD_TORCH_CHECK(c > 0 && columns == 18 * c, "weight is [Co, ", columns, "]: expected [Co, 2C 9]");
    u = {c, height, width, channels_last};
    y = {weight.size(0), height + 2 * padding.h - 2, width + 2 * padding.w - 2, channels_last};
    STD_TORCH_CHECK(y.height > 0 && y.width > 0, "images of ", height, " x ", width, ": too small for a 3x3 kernel");
    check(weight, "weight", weight.size(0), columns, u_rows);
    check(u_rows, "u", sets.num_rows, u.numel(), u_rows);
    const float* data = input<float>(weight);
    w = channels_last ? KernelView{data, 18 * c, 1, 2 * c} : KernelView{data, 18 * c, 9, 1};
  }

  WinogradLayer forward(const float* bias, const float* slope, const SetIndex& sets, int64_t max_centered) const {
    return {u, y, padding, half(0), half(1), bias, slope, sets, max_centered};
  }

  WinogradLayer backward(const SetIndex& sets, int64_t max_centered) const {
    return {y,    u,           {2 - padding.h, 2 - padding.w}, flipped(half(0)), flipped(half(1)), nullptr, nullptr,
            sets, max_centered};
  }

 private:
  KernelView half(int64_t i) const {
    return {w.data + i * u.channels * w.in_stride, w.out_stride, w.in_stride, w.tap_stride};
  }

  static KernelView flipped(const KernelView& k) {  // and transposed
    return {k.data + 8 * k.tap_stride, k.in_stride, k.out_stride, -k.tap_stride};
  }
};

void winograd_forward(const Tensor u, const Tensor weight, const std::optional<Tensor> bias,
                      const std::optional<Tensor> slope, const Tensor offsets, const Tensor set_ids, bool channels_last,
                      int64_t height, int64_t width, int64_t pad_h, int64_t pad_w, int64_t max_centered, Tensor out) {
  check_fused(u, max_centered);
  const SetIndex sets = index_of(offsets, set_ids, u);
  const LayerShape shape(u, weight, sets, channels_last, height, width, {pad_h, pad_w});
  check(out, "out", sets.num_rows, shape.y.numel(), u);
  const int64_t channels = shape.y.channels;
  const WinogradLayer layer = shape.forward(optional_row(bias, "bias", channels, u),
                                            optional_row(slope, "slope", channels, u), sets, max_centered);
  const Regions regions(sets, shape.y, region_tiles_for_threads(sets, shape.u, shape.y));
  layer.run(input<float>(u), output<float>(out), regions);
}

void winograd_backward(const Tensor g, const Tensor u, const Tensor weight, const Tensor offsets, const Tensor set_ids,
                       bool channels_last, int64_t height, int64_t width, int64_t pad_h, int64_t pad_w,
                       int64_t max_centered, std::optional<Tensor> grad_u, std::optional<Tensor> grad_weight,
                       std::optional<Tensor> grad_bias) {
  check_fused(u, max_centered);
  const SetIndex sets = index_of(offsets, set_ids, u);
  const LayerShape shape(u, weight, sets, channels_last, height, width, {pad_h, pad_w});
  check(g, "g", sets.num_rows, shape.y.numel(), u);
  if (grad_u) check(*grad_u, "grad_u", sets.num_rows, shape.u.numel(), u);
  if (grad_weight) check(*grad_weight, "grad_weight", weight.size(0), weight.size(1), u);
  if (grad_bias) check(*grad_bias, "grad_bias", 1, shape.y.channels, u);

  if (grad_u) {
    const Regions regions(sets, shape.u, region_tiles_for_threads(sets, shape.y, shape.u));
    shape.backward(sets, max_centered).run(input<float>(g), output<float>(*grad_u), regions);
  }
  if (!grad_weight && !grad_bias) return;

  const WinogradWeightGradient gradient(shape.u, shape.y, shape.padding, sets, max_centered);
  const Regions regions(sets, shape.y, region_tiles(shape.u, shape.y));
  const int64_t floats_read = sets.num_rows * (shape.u.numel() + shape.y.numel());
  const int64_t chunks = num_chunks(regions.count(), floats_read, gradient.sums_numel());
  const Buffer sums = allocate_zeros(chunks * gradient.sums_numel());
  const int64_t panels = round_up(shape.y.channels, kNR) / kNR;
  for_chunks(regions.count(), chunks, panels, gradient.scratch_numel(regions),
             [&](int64_t i, int64_t chunk, int64_t begin, int64_t end, float* scratch) {
               const Region region = regions[i];
               if (region.set.size() == 0) return;
               const int64_t first = begin * kNR, n = std::min(end * kNR, shape.y.padded_channels()) - first;
               gradient.add(input<float>(u), input<float>(g), region, first, n,
                            sums.get() + chunk * gradient.sums_numel(), scratch);
             });
  if (grad_weight) gradient.write_weight(sums.get(), chunks, shape.w, output<float>(*grad_weight));
  if (grad_bias) gradient.write_bias(sums.get(), chunks, output<float>(*grad_bias));
}

}  // namespace
}  // namespace interconv

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CPU, m) {
  m.impl("winograd_forward", TORCH_BOX(&interconv::winograd_forward));
  m.impl("winograd_backward", TORCH_BOX(&interconv::winograd_backward));
}

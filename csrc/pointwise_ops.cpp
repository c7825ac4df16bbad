// The raw ops pointwise_forward and pointwise_backward.
#include "pointwise.h"
#include "tensors.h"

namespace interconv {
namespace {

// What the ops of a layer have in common.
struct LayerShape {
  int64_t c, co;
  PixelLayout layout;

  // u [N, C P] and weight [Co, 2C].
  LayerShape(const Tensor& u, const Tensor& weight, const SetIndex& sets, bool channels_last) : co(weight.size(0)) {
    const int64_t columns = columns_of(weight, "weight"), m = columns_of(u, "u");
    c = columns / 2;
    STD_TORCH_CHECK(c > 0 && columns % 2 == 0 && m % c == 0, "weight is [Co, ", columns, "], u [N, ", m,
                    "]: expected [Co, 2C] and [N, C P]");
    check(weight, "weight", co, columns, u);
    check(u, "u", sets.num_rows, m, u);
    layout = {m / c, channels_last};
  }
};

void pointwise_forward(const Tensor u, const Tensor weight, const std::optional<Tensor> bias,
                       const std::optional<Tensor> slope, const Tensor offsets, const Tensor set_ids,
                       bool channels_last, int64_t max_centered, Tensor out) {
  check_fused(u, max_centered);
  const SetIndex sets = index_of(offsets, set_ids, u);
  const LayerShape shape(u, weight, sets, channels_last);
  check(out, "out", sets.num_rows, shape.co * shape.layout.pixels, u);
  const PointwiseLayer layer(shape.layout, input<float>(weight), shape.co, shape.c, false,
                             optional_row(bias, "bias", shape.co, u), optional_row(slope, "slope", shape.co, u),
                             max_centered);
  layer.run(input<float>(u), output<float>(out), Tiles(sets, shape.layout.pixels, shape.c + shape.co));
}

void pointwise_backward(const Tensor g, const Tensor u, const Tensor weight, const Tensor offsets, const Tensor set_ids,
                        bool channels_last, int64_t max_centered, std::optional<Tensor> grad_u,
                        std::optional<Tensor> grad_weight, std::optional<Tensor> grad_bias) {
  check_fused(u, max_centered);
  const SetIndex sets = index_of(offsets, set_ids, u);
  const LayerShape shape(u, weight, sets, channels_last);
  const auto [c, co, layout] = shape;
  check(g, "g", sets.num_rows, co * layout.pixels, u);
  if (grad_u) check(*grad_u, "grad_u", sets.num_rows, c * layout.pixels, u);
  if (grad_weight) check(*grad_weight, "grad_weight", co, 2 * c, u);
  if (grad_bias) check(*grad_bias, "grad_bias", 1, co, u);

  const Tiles tiles(sets, layout.pixels, c + co);
  const float *g_in = input<float>(g), *u_in = input<float>(u);
  if (grad_u) {
    const PointwiseLayer layer(layout, input<float>(weight), co, c, true, nullptr, nullptr, max_centered);
    layer.run(g_in, output<float>(*grad_u), tiles);
  }
  if (!grad_weight && !grad_bias) return;

  const PointwiseWeightGradient gradient(layout, c, co, max_centered);
  const int64_t floats_read = sets.num_rows * layout.pixels * (c + co);
  const int64_t chunks = num_chunks(tiles.count(), floats_read, gradient.sums_numel());
  const Buffer sums = allocate_zeros(chunks * gradient.sums_numel());
  const int64_t blocks = (co + kMR - 1) / kMR;
  for_chunks(tiles.count(), chunks, blocks, gradient.scratch_numel(),
             [&, co = co](int64_t i, int64_t chunk, int64_t begin, int64_t end, float* scratch) {
               const int64_t first = begin * kMR, n = std::min(end * kMR, co) - first;
               gradient.add(g_in, u_in, tiles[i], first, n, sums.get() + chunk * gradient.sums_numel(), scratch);
             });
  gradient.add_chunks(sums.get(), chunks);
  if (grad_weight) gradient.write_weight(sums.get(), output<float>(*grad_weight));
  if (grad_bias) gradient.write_bias(sums.get(), output<float>(*grad_bias));
}

}  // namespace
}  // namespace interconv

STABLE_TORCH_LIBRARY_IMPL(interconv_cpp, CPU, m) {
  m.impl("pointwise_forward", TORCH_BOX(&interconv::pointwise_forward));
  m.impl("pointwise_backward", TORCH_BOX(&interconv::pointwise_backward));
}

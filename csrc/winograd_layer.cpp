#include "winograd.h"

namespace interconv {
namespace {

// U of the kernels w, or of w + added, as the B of a product: [16, panels, in, kNR].
Buffer transform_weight(const KernelView& w, const KernelView* added, int64_t out, int64_t in) {
  const int64_t panels = round_up(out, kNR) / kNR, element_stride = panels * in * kNR;
  Buffer u = allocate(kElements * element_stride);
  constexpr int64_t kGrain = 64;  // rows of a panel per thread at least
  torch::stable::parallel_for(0, panels * in, kGrain, [&](int64_t begin, int64_t end) {
    float kernels[9 * kNR] = {};
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row / in * kNR, i = row % in;
      for (int64_t o = 0; o < kNR; ++o) {
        for (int64_t t = 0; t < 9; ++t) {
          const int64_t offset = (first + o) * w.out_stride + i * w.in_stride + t * w.tap_stride;
          kernels[t * kNR + o] = first + o < out ? w.data[offset] + (added ? added->data[offset] : 0) : 0;
        }
      }
      transform_kernels(kernels, u.get() + row * kNR, element_stride);
    }
  });
  return u;
}

}  // namespace

WinogradLayer::WinogradLayer(const ImageLayout& in, const ImageLayout& out, Padding padding, const KernelView& own,
                             const KernelView& set, const float* bias, const float* slope, const SetIndex& sets,
                             int64_t max_centered)
    : in_(in), out_(out), padding_(padding), bias_(allocate_zeros(out.padded_channels())) {
  const SetSizes sizes(sets);
  max_centered_ = std::min(max_centered, std::max<int64_t>(sizes.max, 1));
  if (bias) std::copy_n(bias, out.channels, bias_.get());
  if (slope) {
    slope_ = allocate_zeros(out.padded_channels());
    std::copy_n(slope, out.channels, slope_.get());
  }
  if (sizes.min <= max_centered) sum_ = transform_weight(own, &set, out.channels, in.channels);
  if (sizes.max > 1) own_ = transform_weight(own, nullptr, out.channels, in.channels);
  if (sizes.max > max_centered) set_ = transform_weight(set, nullptr, out.channels, in.channels);
}

// One region: its scratch memory, and the steps of both algorithms.
class WinogradLayer::RegionTask {
 public:
  RegionTask(const WinogradLayer& layer, const float* x, float* y, const Region& region, float* scratch)
      : layer_(layer),
        in_(layer.in_),
        out_(layer.out_),
        x_(x),
        y_(y),
        region_(region),
        tiles_(region.tiles()),
        size_(region.set.size()),
        in_numel_(in_.input_numel(region.rows, region.columns)),
        out_numel_(out_.output_numel(tiles_)),
        in_stride_(plane_stride(tiles_, in_.padded_channels())),
        out_stride_(plane_stride(tiles_, out_.padded_channels())) {
    packed_ = scratch;
    mean_ = packed_ + layer.max_centered_ * in_numel_;
    v_ = mean_ + in_numel_;
    m_ = v_ + kElements * in_stride_;
    m_set_ = m_ + kElements * out_stride_;
    pixels_ = m_set_ + kElements * out_stride_;
    scratch_ = pixels_ + layer.max_centered_ * out_numel_;
  }

  void run_centered() const {
    const int64_t last = size_ - 1;
    for (int64_t i = 0; i < size_; ++i) read(i, packed_ + i * in_numel_);
    const float *last_packed = packed_ + last * in_numel_, *mean = last_packed;
    float* last_pixels = pixels_ + last * out_numel_;
    if (size_ > 1) {
      std::copy_n(last_packed, in_numel_, mean_);
      for (int64_t i = 0; i < last; ++i) axpy(in_numel_, 1, packed_ + i * in_numel_, mean_);
      divide(in_numel_, static_cast<float>(size_), mean_);
      mean = mean_;
    }
    convolve(layer_.sum_, mean, m_, [&](int64_t e) { return bias_at(e); });
    inverse_transform(last_pixels);  // the mean output, which becomes that of the last sample below
    for (int64_t i = 0; i < last; ++i) {
      axpy(in_numel_, -1, last_packed, packed_ + i * in_numel_);
      convolve(layer_.own_, packed_ + i * in_numel_, m_, [](int64_t) { return MatrixC{nullptr, 0}; });
      inverse_transform(pixels_ + i * out_numel_);
    }
    for (int64_t i = 0; i < last; ++i) {
      axpy(out_numel_, -1 / static_cast<float>(size_), pixels_ + i * out_numel_, last_pixels);
    }
    for (int64_t i = 0; i < last; ++i) {
      axpy(out_numel_, 1, last_pixels, pixels_ + i * out_numel_);
      write(i, pixels_ + i * out_numel_);
    }
    write(last, last_pixels);
  }

  void run_split() const {
    std::fill_n(mean_, in_numel_, 0.0f);
    for (int64_t i = 0; i < size_; ++i) {
      read(i, packed_);
      axpy(in_numel_, 1, packed_, mean_);
    }
    divide(in_numel_, static_cast<float>(size_), mean_);
    convolve(layer_.set_, mean_, m_set_, [&](int64_t e) { return bias_at(e); });
    for (int64_t i = 0; i < size_; ++i) {
      read(i, packed_);
      convolve(layer_.own_, packed_, m_, [&](int64_t e) { return set_term_at(e); });
      inverse_transform(pixels_);
      write(i, pixels_);
    }
  }

 private:
  void read(int64_t i, float* packed) const {
    pack(in_, x_ + (region_.set.begin + i) * in_.numel(), 2 * region_.row - layer_.padding_.h,
         2 * region_.column - layer_.padding_.w, 2 * region_.rows + 2, 2 * region_.columns + 2, packed, scratch_);
  }

  void write(int64_t i, float* pixels) const {
    const int64_t channels = out_.padded_channels();
    if (layer_.slope_) leaky_relu_tile(4 * tiles_, channels, layer_.slope_.get(), pixels, channels);
    unpack(out_, y_ + (region_.set.begin + i) * out_.numel(), 2 * region_.row, 2 * region_.column, 2 * region_.rows,
           2 * region_.columns, pixels, scratch_);
  }

  MatrixC bias_at(int64_t element) const { return {element == kBiasElement ? layer_.bias_.get() : nullptr, 0}; }
  MatrixC set_term_at(int64_t element) const { return {m_set_ + element * out_stride_, out_.padded_channels()}; }

  // m = C + sum over channels of U * V, with V of packed pixels and C = c_of(element) for each of the 16 elements.
  template <class F>
  void convolve(const Buffer& u, const float* packed, float* m, const F& c_of) const {
    const int64_t panel = in_.channels * kNR, u_stride = round_up(out_.channels, kNR) / kNR * panel;
    transform_input(packed, region_.rows, region_.columns, in_.padded_channels(), v_);
    for (int64_t e = 0; e < kElements; ++e) {
      const MatrixA a{v_ + e * in_stride_, in_.padded_channels(), 1};
      gemm(tiles_, out_.padded_channels(), in_.channels, a, {u.get() + e * u_stride, kNR, panel}, c_of(e),
           m + e * out_stride_, out_.padded_channels());
    }
  }

  void inverse_transform(float* pixels) const {
    transform_output(m_, region_.rows, region_.columns, out_.padded_channels(), pixels);
  }

  const WinogradLayer& layer_;
  const ImageLayout &in_, &out_;
  const float* x_;
  float* y_;
  const Region region_;
  const int64_t tiles_, size_, in_numel_, out_numel_, in_stride_, out_stride_;
  float *packed_, *mean_, *v_, *m_, *m_set_, *pixels_, *scratch_;  // packed and pixels: of up to max_centered samples
};

int64_t WinogradLayer::scratch_numel(const Regions& regions) const {
  const int64_t tiles = regions.max_tiles();
  return (max_centered_ + 1) * in_.input_numel(regions.max_rows(), regions.max_columns()) +
         kElements * plane_stride(tiles, in_.padded_channels()) +
         2 * kElements * plane_stride(tiles, out_.padded_channels()) + max_centered_ * out_.output_numel(tiles) +
         std::max(in_.scratch_numel(), out_.scratch_numel());
}

void WinogradLayer::run(const float* x, float* y, const Regions& regions) const {
  for_tasks(regions.count(), scratch_numel(regions), [&](int64_t i, float* scratch) {
    const Region region = regions[i];
    if (region.set.size() == 0) return;
    const RegionTask task(*this, x, y, region, scratch);
    region.set.size() <= max_centered_ ? task.run_centered() : task.run_split();
  });
}

}  // namespace interconv

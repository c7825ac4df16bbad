// What the layer's kernels are called with, and accesses of a width that is known only then.
#pragma once
#include <algorithm>

#include "warp.h"

namespace interconv::halo {

// Channels_last tensors: u [N,H,W,C], y [N,out_h,out_w,Co]. `weights` is made by PackWeights (weights.h).
template <class T>
struct Arguments {
  const T *u, *weights, *bias, *slope;  // bias and slope [Co] or null
  const int32_t *offsets, *set_ids;     // [num_sets + 1], [samples]
  T* y;
  float* scratch;  // Config::scratch() values a program
  int samples, h, w, out_h, out_w, pad_h, pad_w, channels, out_channels;
  int pixels, out_pixels;  // of an image: h w, or fewer if the last row is not full
  int u_width, y_width;    // values that an access of u and y may take (access_width)
  int parts;               // of the samples, at most as many as there are: see choose_parts
  bool single;             // every set has one sample

  // For a 1x1 kernel: images as lines of `width` pixels.
  void as_lines(int width) { w = out_w = width, h = out_h = (pixels + width - 1) / width; }
};

// The widest access, in values and of at most 16 bytes, to which all pixels of a tensor are aligned.
template <class T>
int access_width(int channels, const T* data) {
  int width = 16 / sizeof(T);
  while (width > 1 && (channels % width || reinterpret_cast<uintptr_t>(data) % (sizeof(T) * width))) width /= 2;
  return width;
}

template <int B>
struct Bytes;  // B of them
template <>
struct Bytes<16> {
  using type = uint4;
};
template <>
struct Bytes<8> {
  using type = uint2;
};
template <>
struct Bytes<4> {
  using type = uint32_t;
};
template <>
struct Bytes<2> {
  using type = uint16_t;
};
template <class T, int V>
using Vector = typename Bytes<V* int(sizeof(T))>::type;  // V values

// f(Width<V>()) for the V that is only known at run time.
template <int V>
struct Width {
  static constexpr int value = V;
};
template <class T, class F>
IK_DEVICE void with_width(int width, F f) {
  if (width == 8) {
    if constexpr (sizeof(T) == 2) f(Width<8>());
  } else if (width == 4) {
    f(Width<4>());
  } else if (width == 2) {
    f(Width<2>());
  } else {
    f(Width<1>());
  }
}

inline int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

// How many equal parts the batch's samples are cut into. An item of work is a tile and a part; `slots` programs take
// items in turn. An item takes a convolution for each sample, for each set (its term), and for a set that is cut, whose
// term is made by both. Of the parts that fill one round of all programs, two rounds, ..., those are taken that are
// done first: few parts leave programs idle, many cut sets often.
inline int choose_parts(int64_t samples, int64_t num_sets, int64_t tiles, int64_t slots, bool single) {
  constexpr int kMoreRounds = 8;  // then at most a ninth of the time is lost in the last one
  int64_t best = 1, least = INT64_MAX;
  const int64_t fewest = ceil_div(tiles, slots);
  for (int64_t rounds = fewest; rounds <= fewest + kMoreRounds; ++rounds) {
    const int64_t parts = std::clamp<int64_t>(rounds * slots / tiles, 1, samples);
    const int64_t terms = single ? 0 : ceil_div(num_sets, parts) + (parts > 1);
    const int64_t time = ceil_div(parts * tiles, slots) * (ceil_div(samples, parts) + terms);
    if (time < least) least = time, best = parts;
  }
  return int(best);
}

}  // namespace interconv::halo

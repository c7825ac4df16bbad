// Tiles of images in shared memory.
#pragma once
#include "arguments.h"

namespace interconv::halo {

// Channels_last images [N,h,w,channels].
template <class T>
struct Images {
  const T* data;
  int h, w, channels;
  int pixel_width, width;  // values that an access may take: of a pixel, and of an image as one row

  Images(const T* data, int64_t h, int64_t w, int64_t channels)
      : data(data),
        h(int(h)),
        w(int(w)),
        channels(int(channels)),
        pixel_width(access_width(this->channels, data)),
        width(access_width(int(h * w * channels % 8), data)) {}
};

// V values, added to V sums.
template <class T, int V>
IK_DEVICE void add_values(Block& block, const T* from, float (&sum)[V]) {
  const auto values = block.template read<Vector<T, V>>(from);
  T x[V];
  memcpy(x, &values, sizeof(x));
  IK_UNROLL for (int j = 0; j < V; ++j) sum[j] += to_float(x[j]);
}

// kH x kW pixels as planes of 8 channels: [kChannels / 8][pixels][8].
template <class T, int kChannels, int kH, int kW>
struct Tile {
  static constexpr int kPlanes = kChannels / 8;
  // The planes of one pixel, which neighbouring threads fill, start in different banks.
  static constexpr int kSkew = kPlanes >= 8 ? 1 : 8 / kPlanes;
  static constexpr int kPlane = ((kH * kW + 7 - kSkew) / 8 * 8 + kSkew) * 16;
  static constexpr int kBytes = (kPlanes * kPlane + 127) / 128 * 128;

  IK_DEVICE static int offset(int plane, int pixel) { return plane * kPlane + pixel * 16; }

  // Starts the copy of image i at (h0, w0), from channel c0 on; zeros where there is no such pixel or channel. With
  // i < 0, zeros.
  IK_DEVICE static void copy(Block& block, int warps, const Images<T>& x, int i, int h0, int w0, int c0, int to) {
    with_width<T>(x.pixel_width, [&](auto width) {
      constexpr int V = decltype(width)::value;
      block.for_each(0, warps, kH * kW * kPlanes, [&](int v) {
        const int plane = v % kPlanes, pixel = v / kPlanes, c = c0 + plane * 8;
        const int h = h0 + pixel / kW, w = w0 + pixel % kW, at = to + offset(plane, pixel);
        const bool inside = i >= 0 && unsigned(h) < unsigned(x.h) && unsigned(w) < unsigned(x.w);
        const T* from = x.data + ((int64_t(i) * x.h + h) * x.w + w) * x.channels + c;
        if constexpr (V > 1) {
          IK_UNROLL for (int j = 0; j < 8; j += V) {
            const bool there = inside && c + j < x.channels;
            block.template copy<2 * V>(at + 2 * j, there ? from + j : x.data, there);
          }
        } else {  // there are no asynchronous copies of 2 bytes
          uint32_t two[4] = {0, 0, 0, 0};
          IK_UNROLL for (int j = 0; j < 8; ++j) {
            if (inside && c + j < x.channels)
              two[j / 2] |= uint32_t(block.template read<uint16_t>(from + j)) << j % 2 * 16;
          }
          block.put(at, uint4{two[0], two[1], two[2], two[3]});
        }
      });
    });
  }
};

}  // namespace interconv::halo

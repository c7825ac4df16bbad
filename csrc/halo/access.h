// Accesses to global memory as wide as the number of channels allows.
#pragma once
#include "warp.h"

namespace interconv::halo {

// The widest access, 8, 4, 2 or 1 values, that fits all pixels of an image with so many channels.
IK_DEVICE int access_width(int channels) {
  return channels % 8 == 0 ? 8 : channels % 4 == 0 ? 4 : channels % 2 == 0 ? 2 : 1;
}

template <int V>
struct Vector;  // V values of 2 bytes
template <>
struct Vector<8> {
  using type = uint4;
};
template <>
struct Vector<4> {
  using type = uint2;
};
template <>
struct Vector<2> {
  using type = uint32_t;
};
template <>
struct Vector<1> {
  using type = uint16_t;
};

// f(Width<V>()) for the V that is only known at run time.
template <int V>
struct Width {
  static constexpr int value = V;
};
template <class F>
IK_DEVICE void with_width(int width, F f) {
  if (width == 8) {
    f(Width<8>());
  } else if (width == 4) {
    f(Width<4>());
  } else if (width == 2) {
    f(Width<2>());
  } else {
    f(Width<1>());
  }
}

}  // namespace interconv::halo

// Weights in the order that the layer's kernels read.
#pragma once
#include "../inline.h"
#include "configs.h"
#include "warp.h"

namespace interconv::halo {

// weight [Co,2C,k,k] = [Wu | Ws], any strides -> [half][column tile][chunk][k^2][planes][columns][16 bytes of
// channels], zeros where there is no such channel. `transposed`: for grad_u, whose input channels are Co, with the taps
// flipped. `single`: the first half is Wu + Ws.
template <class T>
struct PackWeights {
  const T* weight;
  T* packed;
  int64_t stride_out, stride_in, stride_h, stride_w;  // of weight
  int channels, out_channels;                         // of the convolution that reads the packed weights
  int kernel, chunk, columns;                         // of the Config
  bool transposed, single;

  IK_INLINE int chunks() const { return (channels + chunk - 1) / chunk; }
  IK_INLINE int column_tiles() const { return (out_channels + columns - 1) / columns; }
  IK_INLINE int64_t numel() const { return int64_t(2) * column_tiles() * chunks() * kernel * kernel * chunk * columns; }

  IK_DEVICE float value(int set_half, int tap, int c, int co) const {
    const int in = transposed ? co : c, out = transposed ? c : co, half = transposed ? out_channels : channels;
    const int at = transposed ? kernel * kernel - 1 - tap : tap, r = at / kernel, q = at % kernel;
    return to_float(weight[out * stride_out + (in + set_half * half) * stride_in + r * stride_h + q * stride_w]);
  }

  IK_DEVICE void run(int64_t index) const {
    constexpr int kVector = 16 / sizeof(T);
    int64_t rest = index / kVector;
    const int column = int(rest % columns);
    rest /= columns;
    const int plane = int(rest % (chunk / kVector));
    rest /= chunk / kVector;
    const int tap = int(rest % (kernel * kernel));
    rest /= kernel * kernel;
    const int c = int(rest % chunks()) * chunk + plane * kVector + int(index % kVector);
    rest /= chunks();
    const int co = int(rest % column_tiles()) * columns + column, half = int(rest / column_tiles());
    float x = 0;
    if (c < channels && co < out_channels) {
      x = value(half, tap, c, co);
      if (single && half == 0) x += value(1, tap, c, co);
    }
    packed[index] = rounded_for_product<T>(x);
  }
};

}  // namespace interconv::halo

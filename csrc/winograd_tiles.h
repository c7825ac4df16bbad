// Winograd's F(2x2, 3x3) piece by piece: samples to packed pixels and back, tiles and kernels to their transforms and back.
// winograd.cpp says what for.
#pragma once
#include "product.h"

namespace interconv {

constexpr int kPlaces = 16, kMiddle = 5;  // of a tile, row by row; (1, 1)

struct Image {  // a sample: [channels, height, width], or in channels_last [height, width, channels]
  int64_t channels, height, width;
  bool channels_last;

  int64_t numel() const { return channels * height * width; }
  int64_t wide() const { return padded(channels); }
  // Of the packed pixels from which so many tiles are made.
  int64_t patch(int64_t rows, int64_t columns) const { return (2 * rows + 2) * (2 * columns + 2) * wide(); }
  int64_t spare() const { return channels_last ? 0 : wide() * kLanes; }  // for the end of a row of its planes
};

// --- between a sample and packed pixels [rows, columns, wide] ---------------------------------------------------------

// The pixels from (y, x) on, zero outside the image and past its channels.
void pack(const Image& image, const float* sample, int64_t y, int64_t x, int64_t rows, int64_t columns, float* to,
          float* spare);

// The reverse; what lies outside the image is left out.
void unpack(const Image& image, float* sample, int64_t y, int64_t x, int64_t rows, int64_t columns, const float* from,
            float* spare);

// --- between packed pixels and the places of tiles: planes [16, tiles, wide], `plane_of` floats apart -----------------

inline int64_t plane_of(int64_t tiles, int64_t wide) { return tiles * wide + kLanes; }  // no power of two

// V = B^T x B of each tile of pixels [2 rows + 2, 2 columns + 2, wide].
void transform_input(const float* x, int64_t rows, int64_t columns, int64_t wide, float* v);

// Pixels [2 rows, 2 columns, wide]: y = A^T M A of each tile.
void transform_output(const float* m, int64_t rows, int64_t columns, int64_t wide, float* y);

// A g A^T of each tile of pixels [2 rows, 2 columns, wide], for `n` of its channels.
void transform_gradient(const float* g, int64_t rows, int64_t columns, int64_t wide, int64_t n, float* m);

// --- between kernels and their places ---------------------------------------------------------------------------------

// U = G w G^T of kernels w [9, kPanel] into places `plane` floats apart.
void transform_kernels(const float* w, float* u, int64_t plane);

// Its adjoint G^T U G: w [9, wide] from U [16, wide].
void gather_kernels(const float* u, float* w, int64_t wide);

}  // namespace interconv

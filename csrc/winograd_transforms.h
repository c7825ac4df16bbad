// The steps of Winograd's F(2x2, 3x3) (Lavin and Gray, arXiv:1509.09308, whose letters are used): samples to packed
// pixels and back, and the transforms of tiles and kernels. A tile of 2x2 outputs y is made from a tile of 4x4 inputs
// d:
//
//   y = A^T M A,   M = sum over channels of U * V elementwise,   U = G w G^T,   V = B^T d B
//
// U, V and M have 4x4 elements per tile, numbered row by row.
#pragma once
#include "gemm.h"

namespace interconv {

constexpr int kElements = 16;
// Element (1, 1). A^T M A is 1 at all four outputs for the M that is 1 at this element and 0 elsewhere, so a bias b is
// the value b added here; in the adjoint A g A^T, the element is the sum of the tile.
constexpr int kBiasElement = 5;

// Images [channels, height, width], or in channels_last [height, width, channels].
struct ImageLayout {
  int64_t channels, height, width;
  bool channels_last;

  int64_t numel() const { return channels * height * width; }
  int64_t padded_channels() const { return round_up(channels); }
  // Floats of the packed input pixels of rows x columns tiles.
  int64_t input_numel(int64_t tile_rows, int64_t tile_columns) const {
    return (2 * tile_rows + 2) * (2 * tile_columns + 2) * padded_channels();
  }
  // Floats of the packed output pixels of so many tiles.
  int64_t output_numel(int64_t tiles) const { return 4 * tiles * padded_channels(); }
  // Floats of scratch for pack() and unpack(): in NCHW, a square for the end of a row of pixels.
  int64_t scratch_numel() const { return channels_last ? 0 : padded_channels() * kVectorWidth; }
};

// --- samples to packed pixels [rows, columns, padded channels] and back ---

// The pixels from (y, x) on; zero outside the image and past its channels.
void pack(const ImageLayout& image, const float* sample, int64_t y, int64_t x, int64_t rows, int64_t columns,
          float* pixels, float* scratch);

// The reverse. Pixels outside the image are dropped.
void unpack(const ImageLayout& image, float* sample, int64_t y, int64_t x, int64_t rows, int64_t columns,
            const float* pixels, float* scratch);

// --- packed pixels to transformed tiles and back ---
//
// Transformed tiles are planes [tiles, channels], one per element, `plane_stride` floats apart. The stride is not a
// power of two: the 16 planes of one tile are accessed together and would compete for the same lines of the cache.

inline int64_t plane_stride(int64_t tiles, int64_t channels) { return tiles * channels + kVectorWidth; }

// V = B^T d B of each tile of pixels [2 rows + 2, 2 columns + 2, channels].
void transform_input(const float* pixels, int64_t rows, int64_t columns, int64_t channels, float* v);

// Pixels [2 rows, 2 columns, channels]: y = A^T M A of each tile.
void transform_output(const float* m, int64_t rows, int64_t columns, int64_t channels, float* pixels);

// The adjoint of transform_output: A g A^T of each tile of pixels [2 rows, 2 columns, channels], for the first n
// channels.
void transform_gradient(const float* pixels, int64_t rows, int64_t columns, int64_t channels, int64_t n, float* m);

// --- kernels to transformed kernels and back ---

// U = G w G^T of kNR kernels w [9, kNR]; the elements of U [16, kNR] are `stride` floats apart.
void transform_kernels(const float* w, float* u, int64_t stride);

// The adjoint: w [9, n] = G^T U G for U [16, n].
void transform_kernels_adjoint(const float* u, float* w, int64_t n);

}  // namespace interconv

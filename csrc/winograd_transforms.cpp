#include "winograd_transforms.h"

#include <algorithm>

#include "multiversioning.h"

namespace interconv {
namespace {

// One-dimensional transforms. A tile is transformed along its columns, then along its rows.
struct TransposedB {  // B^T d
  IK_INLINE static void apply(const Vec (&d)[4], Vec (&v)[4]) {
    v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
  }
};

struct G {  // G w
  IK_INLINE static void apply(const Vec (&w)[3], Vec (&u)[4]) {
    const Vec sum = (w[0] + w[2]) * 0.5f, middle = w[1] * 0.5f;
    u[0] = w[0], u[1] = sum + middle, u[2] = sum - middle, u[3] = w[2];
  }
};

struct TransposedG {  // G^T u
  IK_INLINE static void apply(const Vec (&u)[4], Vec (&w)[3]) {
    const Vec sum = (u[1] + u[2]) * 0.5f;
    w[0] = u[0] + sum, w[1] = (u[1] - u[2]) * 0.5f, w[2] = sum + u[3];
  }
};

// Transforms one column of a tile, whose elements are `stride` apart.
template <class Transform, int M, int N>
IK_INLINE void transform_column(const float* x, int64_t stride, Vec (&transformed)[N]) {
  Vec column[M];
#pragma GCC unroll 4
  for (int i = 0; i < M; ++i) column[i] = vec_at(x + i * stride);
  Transform::apply(column, transformed);
}

// Transforms the rows of a tile whose columns are transformed, columns[j][k] being element (k, j), and stores the N x N
// results `stride` apart.
template <class Transform, int M, int N>
IK_INLINE void transform_rows(const Vec (&columns)[M][N], float* to, int64_t stride) {
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) {
    Vec row[M], transformed[N];
#pragma GCC unroll 4
    for (int j = 0; j < M; ++j) row[j] = columns[j][k];
    Transform::apply(row, transformed);
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) vec_at(to + (N * k + j) * stride) = transformed[j];
  }
}

// Transforms n tiles of M x M elements [M * M, n] to N x N elements [N * N, n].
template <class Transform, int M, int N>
IK_INLINE void transform_all(int64_t n, const float* x, int64_t x_stride, float* y, int64_t y_stride) {
  for (int64_t i = 0; i < n; i += kVectorWidth) {
    Vec columns[M][N];
#pragma GCC unroll 4
    for (int j = 0; j < M; ++j) transform_column<Transform, M>(x + j * x_stride + i, M * x_stride, columns[j]);
    transform_rows<Transform>(columns, y + i, y_stride);
  }
}

}  // namespace

void pack(const ImageLayout& image, const float* sample, int64_t y, int64_t x, int64_t rows, int64_t columns,
          float* pixels, float* scratch) {
  const int64_t channels = image.padded_channels(), plane = image.height * image.width;
  const int64_t left = std::clamp<int64_t>(-x, 0, columns), right = std::clamp(image.width - x, left, columns);
  // In NCHW, transpose_tile reads whole vectors of pixels. The last ones are copied first, so that nothing is read past
  // the end of the planes.
  const int64_t n = right - left, whole = n / kVectorWidth * kVectorWidth;
  for (int64_t r = 0; r < rows; ++r, pixels += columns * channels) {
    if (y + r < 0 || y + r >= image.height) {
      std::fill_n(pixels, columns * channels, 0.0f);
      continue;
    }
    const int64_t first = (y + r) * image.width + x + left;
    float* inside = pixels + left * channels;
    if (!image.channels_last) {
      transpose_tile(image.channels, whole, sample + first, plane, inside, channels);
      copy_tile(image.channels, n - whole, sample + first + whole, plane, scratch, kVectorWidth);
      transpose_tile(image.channels, n - whole, scratch, kVectorWidth, inside + whole * channels, channels);
    } else if (image.channels == channels) {
      std::copy_n(sample + first * channels, n * channels, inside);
    } else {
      copy_tile(n, image.channels, sample + first * image.channels, image.channels, inside, channels);
    }
    std::fill_n(pixels, left * channels, 0.0f);
    std::fill_n(pixels + right * channels, (columns - right) * channels, 0.0f);
  }
}

void unpack(const ImageLayout& image, float* sample, int64_t y, int64_t x, int64_t rows, int64_t columns,
            const float* pixels, float* scratch) {
  const int64_t channels = image.padded_channels(), plane = image.height * image.width;
  const int64_t n = std::min(columns, image.width - x), whole = n / kVectorWidth * kVectorWidth;
  for (int64_t r = 0; r < std::min(rows, image.height - y); ++r, pixels += columns * channels) {
    const int64_t first = (y + r) * image.width + x;
    if (!image.channels_last) {
      transpose_tile(whole, image.channels, pixels, channels, sample + first, plane);
      transpose_tile(n - whole, image.channels, pixels + whole * channels, channels, scratch, kVectorWidth);
      for (int64_t c = 0; c < image.channels; ++c) {
        std::copy_n(scratch + c * kVectorWidth, n - whole, sample + c * plane + first + whole);
      }
    } else if (image.channels == channels) {
      std::copy_n(pixels, n * channels, sample + first * channels);
    } else {
      for (int64_t i = 0; i < n; ++i) {
        std::copy_n(pixels + i * channels, image.channels, sample + (first + i) * image.channels);
      }
    }
  }
}

IK_MULTIVERSIONED void transform_input(const float* pixels, int64_t rows, int64_t columns, int64_t channels, float* v) {
  const int64_t line = (2 * columns + 2) * channels, stride = plane_stride(rows * columns, channels);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < channels; c += kVectorWidth) {
      const float* p = pixels + 2 * r * line + c;
      float* to = v + r * columns * channels + c;
      Vec tile[4][4];  // transformed columns; adjacent tiles share two
      transform_column<TransposedB, 4>(p, line, tile[0]);
      transform_column<TransposedB, 4>(p + channels, line, tile[1]);
      for (int64_t i = 0; i < columns; ++i, to += channels) {
        p += 2 * channels;
        transform_column<TransposedB, 4>(p, line, tile[2]);
        transform_column<TransposedB, 4>(p + channels, line, tile[3]);
        transform_rows<TransposedB>(tile, to, stride);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) tile[0][k] = tile[2][k], tile[1][k] = tile[3][k];
      }
    }
  }
}

IK_MULTIVERSIONED void transform_output(const float* m, int64_t rows, int64_t columns, int64_t channels,
                                        float* pixels) {
  const int64_t line = 2 * columns * channels, stride = plane_stride(rows * columns, channels);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < columns; ++i) {
      for (int64_t c = 0; c < channels; c += kVectorWidth) {
        const float* p = m + (r * columns + i) * channels + c;
        float* to = pixels + 2 * r * line + 2 * i * channels + c;
        Vec t[2][4];  // A^T M
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const Vec m0 = vec_at(p + j * stride), m1 = vec_at(p + (4 + j) * stride);
          const Vec m2 = vec_at(p + (8 + j) * stride), m3 = vec_at(p + (12 + j) * stride);
          t[0][j] = m0 + m1 + m2, t[1][j] = m1 - m2 - m3;
        }
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) {
          vec_at(to + k * line) = t[k][0] + t[k][1] + t[k][2];
          vec_at(to + k * line + channels) = t[k][1] - t[k][2] - t[k][3];
        }
      }
    }
  }
}

IK_MULTIVERSIONED void transform_gradient(const float* pixels, int64_t rows, int64_t columns, int64_t channels,
                                          int64_t n, float* m) {
  const int64_t line = 2 * columns * channels, stride = plane_stride(rows * columns, n);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < columns; ++i) {
      for (int64_t c = 0; c < n; c += kVectorWidth) {
        const float* p = pixels + 2 * r * line + 2 * i * channels + c;
        float* to = m + (r * columns + i) * n + c;
        const Vec left[2] = {vec_at(p), vec_at(p + line)};
        const Vec right[2] = {vec_at(p + channels), vec_at(p + line + channels)};
        const Vec a[4] = {left[0], left[0] + left[1], left[0] - left[1], -left[1]};  // A g, by columns
        const Vec b[4] = {right[0], right[0] + right[1], right[0] - right[1], -right[1]};
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          vec_at(to + 4 * k * stride) = a[k], vec_at(to + (4 * k + 1) * stride) = a[k] + b[k];
          vec_at(to + (4 * k + 2) * stride) = a[k] - b[k], vec_at(to + (4 * k + 3) * stride) = -b[k];
        }
      }
    }
  }
}

IK_MULTIVERSIONED void transform_kernels(const float* w, float* u, int64_t stride) {
  transform_all<G, 3, 4>(kNR, w, kNR, u, stride);
}

IK_MULTIVERSIONED void transform_kernels_adjoint(const float* u, float* w, int64_t n) {
  transform_all<TransposedG, 4, 3>(n, u, n, w, n);
}

}  // namespace interconv

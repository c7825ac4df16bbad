#include "winograd_tiles.h"

#include <algorithm>

#include "clones.h"

namespace interconv {
namespace {

// Along one axis. The transforms of two axes are one of them after the other.
IK_BODY void times_b(const Vec (&d)[4], Vec (&t)[4]) {  // B^T d
  t[0] = d[0] - d[2], t[1] = d[1] + d[2], t[2] = d[2] - d[1], t[3] = d[1] - d[3];
}

IK_BODY void times_g(const Vec (&w)[3], Vec (&u)[4]) {  // G w
  const Vec sum = (w[0] + w[2]) * 0.5f, middle = w[1] * 0.5f;
  u[0] = w[0], u[1] = sum + middle, u[2] = sum - middle, u[3] = w[2];
}

IK_BODY void times_g_transposed(const Vec (&u)[4], Vec (&w)[3]) {  // G^T u
  const Vec sum = (u[1] + u[2]) * 0.5f;
  w[0] = u[0] + sum, w[1] = (u[1] - u[2]) * 0.5f, w[2] = sum + u[3];
}

}  // namespace

void pack(const Image& image, const float* sample, int64_t y, int64_t x, int64_t rows, int64_t columns, float* to,
          float* spare) {
  const int64_t wide = image.wide(), plane = image.height * image.width;
  const int64_t left = std::clamp<int64_t>(-x, 0, columns), right = std::clamp(image.width - x, left, columns);
  const int64_t n = right - left, whole = n / kLanes * kLanes;  // planes are read by whole vectors, and no further
  for (int64_t r = 0; r < rows; ++r, to += columns * wide) {
    if (y + r < 0 || y + r >= image.height) {
      std::fill_n(to, columns * wide, 0.0f);
      continue;
    }
    const int64_t first = (y + r) * image.width + x + left;
    float* inside = to + left * wide;
    if (!image.channels_last) {
      transpose(inside, wide, sample + first, plane, image.channels, whole);
      copy_tile(spare, kLanes, sample + first + whole, plane, image.channels, n - whole);
      transpose(inside + whole * wide, wide, spare, kLanes, image.channels, n - whole);
    } else if (image.channels == wide) {
      std::copy_n(sample + first * wide, n * wide, inside);
    } else {
      copy_tile(inside, wide, sample + first * image.channels, image.channels, n, image.channels);
    }
    std::fill_n(to, left * wide, 0.0f);
    std::fill_n(to + right * wide, (columns - right) * wide, 0.0f);
  }
}

void unpack(const Image& image, float* sample, int64_t y, int64_t x, int64_t rows, int64_t columns, const float* from,
            float* spare) {
  const int64_t wide = image.wide(), plane = image.height * image.width;
  const int64_t n = std::min(columns, image.width - x), whole = n / kLanes * kLanes;
  for (int64_t r = 0; r < std::min(rows, image.height - y); ++r, from += columns * wide) {
    const int64_t first = (y + r) * image.width + x;
    if (!image.channels_last) {
      transpose(sample + first, plane, from, wide, whole, image.channels);
      transpose(spare, kLanes, from + whole * wide, wide, n - whole, image.channels);
      for (int64_t c = 0; c < image.channels; ++c) {
        std::copy_n(spare + c * kLanes, n - whole, sample + c * plane + first + whole);
      }
    } else if (image.channels == wide) {
      std::copy_n(from, n * wide, sample + first * wide);
    } else {
      for (int64_t i = 0; i < n; ++i) {
        std::copy_n(from + i * wide, image.channels, sample + (first + i) * image.channels);
      }
    }
  }
}

IK_CLONES void transform_input(const float* x, int64_t rows, int64_t columns, int64_t wide, float* v) {
  const int64_t line = (2 * columns + 2) * wide, plane = plane_of(rows * columns, wide);
  const auto column = [&](const float* p, Vec(&t)[4]) __attribute__((always_inline)) {
    const Vec d[4] = {at(p), at(p + line), at(p + 2 * line), at(p + 3 * line)};
    times_b(d, t);
  };
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < wide; c += kLanes) {
      const float* p = x + 2 * r * line + c;
      float* to = v + r * columns * wide + c;
      Vec t[4][4];  // by column of the tile: neighbours share two
      column(p, t[0]), column(p + wide, t[1]);
      for (int64_t i = 0; i < columns; ++i, to += wide) {
        p += 2 * wide;
        column(p, t[2]), column(p + wide, t[3]);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          const Vec d[4] = {t[0][k], t[1][k], t[2][k], t[3][k]};
          Vec row[4];
          times_b(d, row);
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) at(to + (4 * k + j) * plane) = row[j];
        }
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) t[0][k] = t[2][k], t[1][k] = t[3][k];
      }
    }
  }
}

IK_CLONES void transform_output(const float* m, int64_t rows, int64_t columns, int64_t wide, float* y) {
  const int64_t line = 2 * columns * wide, plane = plane_of(rows * columns, wide);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < columns; ++i) {
      for (int64_t c = 0; c < wide; c += kLanes) {
        const float* p = m + (r * columns + i) * wide + c;
        float* to = y + 2 * r * line + 2 * i * wide + c;
        Vec t[2][4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const Vec a = at(p + j * plane), b = at(p + (4 + j) * plane), d = at(p + (8 + j) * plane);
          t[0][j] = a + b + d, t[1][j] = b - d - at(p + (12 + j) * plane);
        }
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) {
          at(to + k * line) = t[k][0] + t[k][1] + t[k][2];
          at(to + k * line + wide) = t[k][1] - t[k][2] - t[k][3];
        }
      }
    }
  }
}

IK_CLONES void transform_gradient(const float* g, int64_t rows, int64_t columns, int64_t wide, int64_t n, float* m) {
  const int64_t line = 2 * columns * wide, plane = plane_of(rows * columns, n);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < columns; ++i) {
      for (int64_t c = 0; c < n; c += kLanes) {
        const float* p = g + 2 * r * line + 2 * i * wide + c;
        float* to = m + (r * columns + i) * n + c;
        const Vec left[2] = {at(p), at(p + line)}, right[2] = {at(p + wide), at(p + line + wide)};
        const Vec a[4] = {left[0], left[0] + left[1], left[0] - left[1], -left[1]};
        const Vec b[4] = {right[0], right[0] + right[1], right[0] - right[1], -right[1]};
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          at(to + 4 * k * plane) = a[k], at(to + (4 * k + 1) * plane) = a[k] + b[k];
          at(to + (4 * k + 2) * plane) = a[k] - b[k], at(to + (4 * k + 3) * plane) = -b[k];
        }
      }
    }
  }
}

IK_CLONES void transform_kernels(const float* w, float* u, int64_t plane) {
  for (int64_t o = 0; o < kPanel; o += kLanes) {
    Vec columns[3][4];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const Vec column[3] = {at(w + j * kPanel + o), at(w + (3 + j) * kPanel + o), at(w + (6 + j) * kPanel + o)};
      times_g(column, columns[j]);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const Vec row[3] = {columns[0][k], columns[1][k], columns[2][k]};
      Vec done[4];
      times_g(row, done);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) at(u + (4 * k + j) * plane + o) = done[j];
    }
  }
}

IK_CLONES void gather_kernels(const float* u, float* w, int64_t wide) {
  for (int64_t o = 0; o < wide; o += kLanes) {
    Vec columns[4][3];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float* p = u + j * wide + o;
      const Vec column[4] = {at(p), at(p + 4 * wide), at(p + 8 * wide), at(p + 12 * wide)};
      times_g_transposed(column, columns[j]);
    }
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) {
      const Vec row[4] = {columns[0][k], columns[1][k], columns[2][k], columns[3][k]};
      Vec done[3];
      times_g_transposed(row, done);
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) at(w + (3 * k + j) * wide + o) = done[j];
    }
  }
}

}  // namespace interconv

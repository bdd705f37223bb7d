// One row of exact OBC: what obc.cpp hands to the kernel of each instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/buffer.h"

namespace spade {

// Symmetric matrices are kept as their lower 16 x 16 tiles, row of tiles after row of tiles; a tile
// holds 4 x 4 blocks, row-major both inside and outside. A column then costs one cache line every
// four rows whichever side of the diagonal it is read from. Diagonal tiles are stored whole.
constexpr int64_t kTile = 16;
constexpr int64_t kTileSize = kTile * kTile;

inline int64_t tiles(int64_t size) { return (size + kTile - 1) / kTile; }
inline int64_t tile_offset(int64_t I, int64_t J) { return (I * (I + 1) / 2 + J) * kTileSize; }
inline int64_t packed_size(int64_t size) { return tile_offset(tiles(size), 0); }

// Where element (i, j) is stored.
inline int64_t packed_index(int64_t i, int64_t j) {
  if (i / kTile < j / kTile) {
    const int64_t swap = i;
    i = j;
    j = swap;
  }
  const int64_t r = i % kTile, c = j % kTile;
  return tile_offset(i / kTile, j / kTile) + (r / 4 * 4 + c / 4) * 16 + r % 4 * 4 + c % 4;
}

template <class T>
struct ObcTask {
  const T* hinv;         // packed, shared by all rows
  int64_t D, steps;      // steps <= D
  int64_t n = 0, m = 0;  // m > 0: at most n of each m consecutive columns
};

// B, eliminations between two updates of a matrix of m columns. A step reads m B / 2 entries of the
// panel, an update moves m^2 / 2 entries of the matrix: the sum is least at B ~ sqrt(m), 1.2
// sqrt(m) by measurement. A multiple of 8.
inline int64_t panel_length(int64_t m) {
  const double root = 1.2 * std::sqrt(static_cast<double>(m));
  return std::max<int64_t>(8, std::min<int64_t>(64, static_cast<int64_t>(root) / 8 * 8));
}

// A thread's memory: D^2 / 2 for the matrix, (B + 3) D for the rest.
template <class T>
struct ObcScratch {
  explicit ObcScratch(const ObcTask<T>& task)
      : width(tiles(task.D) * kTile),
        block(panel_length(task.D)),
        matrix(packed_size(task.D)),
        panel(width * block),
        expanded(block * 64),
        coefficients(block),
        w(width),
        diagonal(width),
        column(width),
        eliminated(task.m > 0 ? task.D / task.m : 1) {}

  int64_t width;               // D rounded up to a tile
  int64_t block;               // B of the first block; later ones are shorter
  Buffer<T> matrix;            // packed: inverse Hessian of the kept columns, stale by the panel
  Buffer<T> panel;             // [width / 16, B, 16]: U, the eliminations since the last update
  Buffer<T> expanded;          // [B, 4, 16]: one tile of U, each entry four times
  Buffer<T> coefficients;      // [B]: row of U at the pivot
  Buffer<T> w;                 // [width]; NaN where a column is gone
  Buffer<T> diagonal;          // [width]
  Buffer<int32_t> column;      // [width]: original index of each position
  Buffer<int64_t> eliminated;  // [D / m]: eliminations in each group of an n:m pattern
};

// Eliminate one row; see spade_obc_trace in spade.h. Returns info.
#define SPADE_DECLARE_OBC(isa)                                                               \
  namespace isa {                                                                            \
  int32_t obc_row(const ObcTask<float>& task, const float* w, ObcScratch<float>& scratch,    \
                  int32_t* order, float* loss);                                              \
  int32_t obc_row(const ObcTask<double>& task, const double* w, ObcScratch<double>& scratch, \
                  int32_t* order, double* loss);                                             \
  }
SPADE_DECLARE_OBC(plain)
SPADE_DECLARE_OBC(avx2)
SPADE_DECLARE_OBC(avx512)
#undef SPADE_DECLARE_OBC

}  // namespace spade

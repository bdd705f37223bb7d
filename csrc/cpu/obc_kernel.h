// One row of exact OBC: what obc.cpp hands to the kernel of each instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/buffer.h"
#include "core/isa.h"

namespace spade {

// Symmetric matrices are kept as their lower 16 x 16 tiles, row of tiles after row of tiles; a tile
// holds 4 x 4 blocks, row-major both inside and outside. A column then costs one cache line every
// four rows whichever side of the diagonal it is read from. Diagonal tiles are stored whole.
constexpr int64_t kObcTile = 16;
constexpr int64_t kObcTileSize = kObcTile * kObcTile;

inline int64_t tiles(int64_t size) { return (size + kObcTile - 1) / kObcTile; }
inline int64_t tile_offset(int64_t I, int64_t J) { return (I * (I + 1) / 2 + J) * kObcTileSize; }
inline int64_t packed_size(int64_t size) { return tile_offset(tiles(size), 0); }

// Where element (i, j) is stored.
inline int64_t packed_index(int64_t i, int64_t j) {
  if (i / kObcTile < j / kObcTile) {
    const int64_t swap = i;
    i = j;
    j = swap;
  }
  const int64_t r = i % kObcTile, c = j % kObcTile;
  return tile_offset(i / kObcTile, j / kObcTile) + (r / 4 * 4 + c / 4) * 16 + r % 4 * 4 + c % 4;
}

template <class T>
struct ObcTask {
  const T* hinv;           // packed, shared by all rows
  int64_t D, steps;        // steps <= D
  int64_t n = 0, m = 0;    // m > 0: at most n of each m consecutive columns
  int64_t block = 1;       // consecutive columns that go together
  bool (*stopped)(void*);  // asked with `progress` now and then: whether to stop
  void* progress;
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
      : width(tiles(task.D) * kObcTile),
        panel_columns(panel_length(task.D)),
        matrix(packed_size(task.D)),
        panel(width * panel_columns),
        expanded(panel_columns * 64),
        coefficients(panel_columns),
        w(width),
        diagonal(width),
        column(width),
        eliminated(task.m > 0 ? task.D / task.m : 1) {}

  int64_t width;               // D rounded up to a tile
  int64_t panel_columns;       // B of the first panel; later ones are shorter
  Buffer<T> matrix;            // packed: inverse Hessian of the kept columns, stale by the panel
  Buffer<T> panel;             // [width / 16, B, 16]: U, the eliminations since the last update
  Buffer<T> expanded;          // [B, 4, 16]: one tile of U, each entry four times
  Buffer<T> coefficients;      // [B]: row of U at the pivot
  Buffer<T> w;                 // [width]; NaN where a column is gone
  Buffer<T> diagonal;          // [width]
  Buffer<int32_t> column;      // [width]: original index of each position
  Buffer<int64_t> eliminated;  // [D / m]: eliminations in each group of an n:m pattern
};

// What blocks of c consecutive columns need beyond ObcScratch: at most (c + 4) D entries. Entry
// (i, j) of the blocks of A that are left, or i of their weights, is an array over blocks.
struct ObcBlockScratch {
  explicit ObcBlockScratch(const ObcTask<double>& task)
      : columns(task),
        blocks(task.D / task.block),
        a(task.block * (task.block + 1) / 2 * blocks),
        w(task.D),
        u(task.D),
        lower(task.block * (task.block + 1) / 2 * std::min(blocks, kLanes)),
        row(2 * task.block * kLanes),
        score(blocks),
        place(task.D),
        position(task.D),
        block_at(blocks) {}

  static constexpr int64_t kLanes = 8;  // most blocks that are scored side by side

  ObcScratch<double> columns;
  int64_t blocks;            // D / c
  Buffer<double> a;          // [c (c + 1) / 2, blocks]: lower triangles of the diagonal blocks
  Buffer<double> w, u;       // [c, blocks]: weights, and the newest column of U
  Buffer<double> lower;      // [c (c + 1) / 2, lanes]: factors of blocks that are scored
  Buffer<double> row;        // [2, c, lanes]
  Buffer<double> score;      // [blocks]
  Buffer<int32_t> place;     // [D]: where `w` and `u` keep a column
  Buffer<int32_t> position;  // [c, blocks]: of these columns in the matrix
  Buffer<int32_t> block_at;  // [blocks]: which block each place holds
};

// Eliminate one row; see spade_obc_trace in spade.h. Returns info.
#define SPADE_DECLARE_OBC(isa)                                                                  \
  namespace isa {                                                                               \
  int32_t obc_row(const ObcTask<float>& task, const float* w, ObcScratch<float>& scratch,       \
                  int32_t* order, float* loss);                                                 \
  int32_t obc_row(const ObcTask<double>& task, const double* w, ObcScratch<double>& scratch,    \
                  int32_t* order, double* loss);                                                \
  int32_t obc_block_row(const ObcTask<double>& task, const double* w, ObcBlockScratch& scratch, \
                        int32_t* order, double* loss);                                          \
  }
SPADE_FOR_EACH_ISA(SPADE_DECLARE_OBC)
#undef SPADE_DECLARE_OBC

}  // namespace spade

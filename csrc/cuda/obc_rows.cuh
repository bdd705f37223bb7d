// What the kernels of obc_trace.cu share: the packed matrix, the rows of a chunk, scores.
#pragma once

#include <cstdint>

#include "cuda/obc_matrices.cuh"

namespace spade::cuda::obc {

constexpr int kPackedTile = 128;  // edge of a tile of the packed matrix
constexpr int kPanel = 128;       // B, eliminations between two updates of the matrix

// Symmetric m x m matrices are kept as their lower kPackedTile x kPackedTile tiles, row of tiles
// after row of tiles, row-major inside; diagonal tiles are stored whole.
__host__ __device__ inline int64_t packed_size(int64_t m) {
  const int64_t tiles = (m + kPackedTile - 1) / kPackedTile;
  return tiles * (tiles + 1) / 2 * kPackedTile * kPackedTile;
}

__host__ __device__ inline int packed_index(int i, int j) {
  if (i / kPackedTile < j / kPackedTile) {
    const int swap = i;
    i = j;
    j = swap;
  }
  const int I = i / kPackedTile, J = j / kPackedTile;
  return ((I * (I + 1) / 2 + J) * kPackedTile + i % kPackedTile) * kPackedTile + j % kPackedTile;
}

// n of each m consecutive columns of a row go, then the others of the group are kept for good and
// leave the matrix. m = 0: any column may go.
struct GroupPattern {
  int n, m;
  int* gone;  // [D / m], global memory: eliminations of each group so far
};

// A chunk of rows. Arrays are [rows, width] unless a shape is given; position = place of a column
// in the row's own matrix.
struct ObcRows {
  const float* weights;  // [rows, D]
  RowMatrices<float> hinv;
  int D, steps, width;  // width = D rounded up to kPackedTile
  int n, m;             // of GroupPattern
  int64_t matrix_size;
  float* matrix;    // [rows, matrix_size]: A of the kept columns, packed; stale by the panel
  float* panel;     // [rows, kPanel, width]: U; a single launch has [rows, steps, D]
  uint16_t* high;   // [rows, width, kPanel]: U / scale in fp16, by position after compaction
  uint16_t* low;    // what `high` lacks, in fp16
  float* scale;     // powers of two, |U / scale| <= 1
  float* w;         //
  float* diagonal;  // of A, up to date
  int* column;      // original column of each position
  int* source;      // position before the last compaction
  int* size;        // [rows]: columns that may still go, as of the last compaction
  int* gone;        // [rows, D / m]
  int32_t* order;   // [rows, steps]
  float* loss;      // [rows, steps]
  int32_t* info;    // [rows]

  __device__ __forceinline__ GroupPattern pattern_of(int64_t r) const {
    return {n, m, m > 0 ? gone + r * (D / m) : nullptr};
  }
};

// Scores w^2 / A_jj as integers of the same order: 0 for a negative one (A_jj < 0 stops the row),
// kNever for NaN and infinity, which never win.
constexpr unsigned kNever = 0xFFFFFFFFu;

__device__ __forceinline__ unsigned score_key(float w, float diagonal) {
  const float score = w * w / diagonal;
  if (!(score < __uint_as_float(0x7F800000u))) return kNever;
  return score < 0 ? 0u : (__float_as_uint(score) & 0x7FFFFFFFu) + 1;
}
__device__ __forceinline__ float key_score(unsigned key) { return __uint_as_float(key - 1); }

// The lane with the least key; ties: the least column. Every lane of the warp calls.
__device__ __forceinline__ int least_lane(unsigned key, int column, unsigned& least) {
  least = __reduce_min_sync(~0u, key);
  unsigned tied = __ballot_sync(~0u, key == least);
  if (__popc(tied) > 1) {
    const unsigned mine = key == least ? static_cast<unsigned>(column) : kNever;
    const unsigned lowest = __reduce_min_sync(~0u, mine);
    tied = __ballot_sync(~0u, key == least && mine == lowest);
  }
  return __ffs(static_cast<int>(tied)) - 1;
}

// From step `from` on there is nothing: -1 and NaN.
__device__ __forceinline__ void stop_row(const ObcRows& rows, int64_t r, int from, int thread,
                                         int threads) {
  if (thread == 0) rows.info[r] = from + 1;
  for (int k = from + thread; k < rows.steps; k += threads) {
    rows.order[r * rows.steps + k] = -1;
    rows.loss[r * rows.steps + k] = __uint_as_float(0x7FC00000u);
  }
}

}  // namespace spade::cuda::obc

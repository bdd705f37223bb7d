// A 64 x 64 tile of A^T B for operands stored [k, column]: the inner loop of the batched Cholesky
// and of SparseGPT's lazy update.
//
// 64 threads, 8 x 8 sums each, operands through shared memory 16 rows at a time: 1024 FMA a thread
// for 32 loads from global and 64 16-byte loads from shared memory (floats). Small blocks, so that
// several live on a multiprocessor and hide each other's loads. Bound by FMA.
#pragma once

#include "cuda/launch.h"

namespace spade::cuda {

constexpr int kProductTile = 64;  // columns of each operand
constexpr int kTileDepth = 16;    // rows of each operand in shared memory
constexpr int kTileThreads = 64;  // each loads a column of both and owns kMicro x kMicro sums
constexpr int kMicro = 8;

inline unsigned blocks_of(int64_t count, int64_t side) {
  return static_cast<unsigned>((count + side - 1) / side);
}

template <class T>
struct alignas(16) Quad {
  T at[4];
};

// Shared memory of one operand.
#define SPADE_TILE_OPERAND(T, name) \
  SPADE_SHARED(::spade::cuda::Quad<T>, name, kTileDepth* kProductTile / 4)

// Column of the tile behind entry i of a thread's `part` (0 to 7) of a side: runs of four, so that
// eight threads read 128 bytes in a row.
__device__ __forceinline__ int tile_column(int part, int i) {
  return i / 4 * 32 + part * 4 + i % 4;
}

// sum[i][j] += (A^T B) at the thread's rows tile_column(threadIdx.x / 8, i) and columns
// tile_column(threadIdx.x % 8, j). A: [depth, columns_a] from `a`, ld lda; B likewise; columns past
// columns_a, columns_b count as 0. Ends with a barrier: operands may be overwritten after it.
template <class T>
__device__ __forceinline__ void multiply_tile(const T* a, int64_t lda, int columns_a, const T* b,
                                              int64_t ldb, int columns_b, int depth,
                                              Quad<T>* shared_a, Quad<T>* shared_b,
                                              T (&sum)[kMicro][kMicro]) {
  const int column = static_cast<int>(threadIdx.x);
  const int row_part = column / 8, column_part = column % 8;
  for (int first = 0; first < depth; first += kTileDepth) {
    T from_a[kTileDepth], from_b[kTileDepth];
#pragma unroll
    for (int k = 0; k < kTileDepth; ++k) {
      const bool inside = first + k < depth;
      from_a[k] = inside && column < columns_a ? a[(first + k) * lda + column] : T(0);
      from_b[k] = inside && column < columns_b ? b[(first + k) * ldb + column] : T(0);
    }
#pragma unroll
    for (int k = 0; k < kTileDepth; ++k) {
      reinterpret_cast<T*>(shared_a)[k * kProductTile + column] = from_a[k];
      reinterpret_cast<T*>(shared_b)[k * kProductTile + column] = from_b[k];
    }
    __syncthreads();  // operands are complete
#pragma unroll
    for (int k = 0; k < kTileDepth; ++k) {
      Quad<T> x[2], y[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        x[half] = shared_a[k * (kProductTile / 4) + half * 8 + row_part];
        y[half] = shared_b[k * (kProductTile / 4) + half * 8 + column_part];
      }
#pragma unroll
      for (int i = 0; i < kMicro; ++i)
#pragma unroll
        for (int j = 0; j < kMicro; ++j) sum[i][j] += x[i / 4].at[i % 4] * y[j / 4].at[j % 4];
    }
    __syncthreads();  // operands are read, the next may come
  }
}

// fn(row, column, sum) for the thread's sums that lie within rows x columns of the tile.
template <class T, class Fn>
__device__ __forceinline__ void each_sum(const T (&sum)[kMicro][kMicro], int rows, int columns,
                                         Fn&& fn) {
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < kMicro; ++i) {
    const int row = tile_column(thread / 8, i);
#pragma unroll
    for (int j = 0; j < kMicro; ++j) {
      const int column = tile_column(thread % 8, j);
      if (row < rows && column < columns) fn(row, column, sum[i][j]);
    }
  }
}

}  // namespace spade::cuda

// The update between two panels, in float32: A <- A - U U^T over the kept columns, moved together
// on the way, for all rows in one launch.
//
// new[i, j] = old[source i, source j] - sum_k U[i, k] U[j, k] for i, j < m2, one block of threads a
// lower tile. In place: source i is i, or a position >= m2 that nobody writes, so no block reads
// what another writes. kPanel m2^2 / 2 FMA and m2^2 / 2 entries read and written a row: 32 flop a
// byte at kPanel = 128, above the ratio of float32 to memory rates, so FMA bound.
#pragma once

#include <type_traits>

#include "cuda/obc_rows.cuh"
#include "cuda/ptx.h"

namespace spade::cuda::obc {

constexpr int kUpdateThreads = 256;

struct UpdateTask {
  ObcRows rows;  // m2 of each is its `size`
  bool first;    // old is H^-1
};

// Row and column of lower tile number n, in order of rows.
__device__ __forceinline__ void tile_of(int n, int& I, int& J) {
  I = 0;
  while ((I + 1) * (I + 2) / 2 <= n) ++I;
  J = n - I * (I + 1) / 2;
}

// One tile's rows and columns before they moved, and what their factors were divided by.
struct TileEdges {
  int row[kPackedTile], column[kPackedTile];
  float row_scale[kPackedTile], column_scale[kPackedTile];
  const float* hinv;  // of the block's row
};

__device__ __forceinline__ void read_edge(const UpdateTask& task, int64_t at_row, int size,
                                          int start, int* from, float* scale) {
  for (int i = static_cast<int>(threadIdx.x); i < kPackedTile; i += kUpdateThreads) {
    const int at = start + i;
    const bool in = at < size;
    from[i] = in ? task.rows.source[at_row + at] : at;
    scale[i] = in ? task.rows.scale[at_row + at] : 0.0f;
  }
}

__device__ __forceinline__ void read_edges(TileEdges& edges, const UpdateTask& task, int64_t at_row,
                                           int size, int I, int J) {
  if (threadIdx.x == 0) edges.hinv = task.rows.hinv.of(blockIdx.y);
  read_edge(task, at_row, size, I * kPackedTile, edges.row, edges.row_scale);
  read_edge(task, at_row, size, J * kPackedTile, edges.column, edges.column_scale);
}

// new[i, j .. j + N) = old - change; i and j count within tile (I, J), N divides j.
template <int N>
__device__ __forceinline__ void subtract(const UpdateTask& task, const TileEdges& edges,
                                         float* matrix, int size, int I, int J, int i, int j,
                                         const float (&change)[N]) {
  using Vector = typename std::conditional<N == 4, float4, float2>::type;
  const int row = I * kPackedTile + i, column = J * kPackedTile + j, left = size - column;
  if (row >= size || left <= 0) return;
  float* to = matrix + packed_index(row, column);
  bool still = !task.first && edges.row[i] == row && left >= N;
#pragma unroll
  for (int e = 0; e < N; ++e) still = still && edges.column[j + e] == column + e;
  if (still) {
    Vector value = *reinterpret_cast<const Vector*>(to);
    float* entries = reinterpret_cast<float*>(&value);
#pragma unroll
    for (int e = 0; e < N; ++e) entries[e] -= change[e];
    *reinterpret_cast<Vector*>(to) = value;
    return;
  }
#pragma unroll
  for (int e = 0; e < N; ++e) {
    if (e >= left) continue;
    const int si = edges.row[i], sj = edges.column[j + e];
    const float old = task.first ? edges.hinv[static_cast<int64_t>(si) * task.rows.D + sj]
                                 : matrix[packed_index(si, sj)];
    to[e] = old - change[e];
  }
}

// Each thread computes 8 x 8 entries: rows and columns 4 t .. 4 t + 3 and those 64 further. U comes
// in slices of kSlice columns, the next one copied while the present one is used.
__global__ void __launch_bounds__(kUpdateThreads, 2) obc_update_ffma(UpdateTask task) {
  constexpr int kSlice = 16, kSlices = kPanel / kSlice, kVectors = kPackedTile / 4;
  SPADE_SHARED(float4, left_shared, 2 * kSlice * kVectors);
  SPADE_SHARED(float4, right_shared, 2 * kSlice * kVectors);
  SPADE_SHARED(TileEdges, edges, 1);
  const ObcRows& rows = task.rows;
  const int64_t r = blockIdx.y, at_row = r * rows.width;
  if (rows.info[r]) return;
  const int size = rows.size[r];
  int I, J;
  tile_of(static_cast<int>(blockIdx.x), I, J);
  if (I * kPackedTile >= size)
    return;  // an n:m pattern may leave fewer columns than the grid covers
  const int tid = static_cast<int>(threadIdx.x), ty = tid / 16, tx = tid % 16;
  const float* panel = rows.panel + at_row * kPanel;
  const auto copy = [&](int slice) {
    float4* left = left_shared + slice % 2 * kSlice * kVectors;
    float4* right = right_shared + slice % 2 * kSlice * kVectors;
    for (int e = tid; e < kSlice * kVectors; e += kUpdateThreads) {
      const float* from = panel + (slice * kSlice + e / kVectors) * rows.width + e % kVectors * 4;
      cp_async16(left + e, from + I * kPackedTile);
      cp_async16(right + e, from + J * kPackedTile);
    }
    cp_async_commit();
  };
  copy(0);
  read_edges(*edges, task, at_row, size, I, J);
  float sum[8][8] = {};
#pragma unroll 1
  for (int slice = 0; slice < kSlices; ++slice) {
    if (slice + 1 < kSlices) {
      copy(slice + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();  // this slice has arrived
    const float4* left = left_shared + slice % 2 * kSlice * kVectors;
    const float4* right = right_shared + slice % 2 * kSlice * kVectors;
#pragma unroll
    for (int q = 0; q < kSlice; ++q) {
      const float4 a0 = left[q * kVectors + ty], a1 = left[q * kVectors + ty + 16];
      const float4 b0 = right[q * kVectors + tx], b1 = right[q * kVectors + tx + 16];
      const float a[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
      const float b[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[i][j] += a[i] * b[j];
    }
    __syncthreads();  // this slice has been read, its place is free
  }
  float* matrix = rows.matrix + r * rows.matrix_size;
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      const float change[4] = {sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]};
      subtract(task, *edges, matrix, size, I, J, ty * 4 + i % 4 + i / 4 * 64, tx * 4 + j / 4 * 64,
               change);
    }
}

}  // namespace spade::cuda::obc

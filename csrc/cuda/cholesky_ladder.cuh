// What surrounds the factorisation of cholesky_panel.cuh on one rung of the damping ladder: the
// matrices are loaded with their damping, stored where it was enough, and the others stay pending.
#pragma once

#include <cfloat>

#include "cuda/launch.h"

namespace spade::cuda::cholesky {

constexpr int kCholeskyThreads = 256;
constexpr int32_t kPending = -1;  // info: no damping has succeeded so far
constexpr int kTurn = 32;         // side of a tile that is transposed

struct CholeskyBatch {
  const float* h;
  int64_t D;
  double* mean;
  int32_t *failed, *info;
  double* damp_used;
};

__device__ __forceinline__ bool skipped(const CholeskyBatch& batch, int64_t s) {
  return batch.info[s] != kPending || batch.failed[s];
}

// Tile `index` of an upper triangle of tiles, column of tiles by column: row, column.
__device__ __forceinline__ int2 upper_tile(int64_t index) {
  int64_t column = static_cast<int64_t>((sqrt(8.0 * static_cast<double>(index) + 1) - 1) / 2);
  while (column * (column + 1) / 2 > index) --column;
  while ((column + 1) * (column + 2) / 2 <= index) ++column;
  return make_int2(static_cast<int>(index - column * (column + 1) / 2), static_cast<int>(column));
}

inline int64_t upper_tiles(int64_t tiles) { return tiles * (tiles + 1) / 2; }

__device__ __forceinline__ double live(float diagonal) {
  return diagonal == 0.0f ? 1.0 : static_cast<double>(diagonal);
}

// The power of 4 that brings numbers like `mean` into [1/2, 4): it changes no digit of the factor,
// and weights and masks depend on no scale, but squares of weights over those of U would leave
// float's range.
__device__ __forceinline__ double scale_for(double mean) {
  if (mean == 0 || !(fabs(mean) <= DBL_MAX)) return 1;
  return ldexp(1.0, -2 * (ilogb(mean) / 2));
}

// mean, failed and info of matrix blockIdx.x. Sums in a fixed order.
__global__ void __launch_bounds__(kCholeskyThreads) begin_ladder(CholeskyBatch batch) {
  SPADE_SHARED(double, sums, kCholeskyThreads);
  const int64_t s = blockIdx.x, D = batch.D;
  const int thread = static_cast<int>(threadIdx.x);
  const float* h = batch.h + s * D * D;
  double sum = 0;
  for (int64_t j = thread; j < D; j += kCholeskyThreads) sum += live(h[j * D + j]);
  sums[thread] = sum;
  for (int half = kCholeskyThreads / 2; half > 0; half /= 2) {
    __syncthreads();  // the sums of the other half are there
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread != 0) return;
  batch.mean[s] = sums[0] / static_cast<double>(D);
  batch.failed[s] = 0;
  batch.info[s] = kPending;
}

// Rows [blockIdx.x * kTurn, + kTurn) of the upper triangle of J (H' + damp mean I) J, scaled.
template <class T>
__global__ void __launch_bounds__(kCholeskyThreads)
    load_reversed(CholeskyBatch batch, double damp, T* factors) {
  const int64_t s = blockIdx.y, D = batch.D, first = static_cast<int64_t>(blockIdx.x) * kTurn;
  if (skipped(batch, s)) return;
  const int lane = static_cast<int>(threadIdx.x) % kTurn;
  const int line = static_cast<int>(threadIdx.x) / kTurn;
  const double mean = batch.mean[s], scale = scale_for(mean);
  for (int64_t i = first + line; i < min(first + kTurn, D); i += kCholeskyThreads / kTurn) {
    const float* h = batch.h + (s * D + D - 1 - i) * D;
    T* row = factors + (s * D + i) * D;
    for (int64_t j = i + lane; j < D; j += kTurn) {
      const float entry = h[D - 1 - j];
      const double damped = j == i ? live(entry) + damp * mean : static_cast<double>(entry);
      row[j] = static_cast<T>(damped * scale);
    }
  }
}

// V = J R^T J of the matrices that succeeded just now, tile blockIdx.x of its upper triangle.
template <class T>
__global__ void __launch_bounds__(kCholeskyThreads)
    store_factor(CholeskyBatch batch, const T* factors, float* v) {
  SPADE_SHARED(float, turned, kTurn*(kTurn + 1));
  const int64_t s = blockIdx.y, D = batch.D;
  if (skipped(batch, s)) return;
  const int2 tile = upper_tile(blockIdx.x);
  const int64_t row = static_cast<int64_t>(tile.x) * kTurn;
  const int64_t column = static_cast<int64_t>(tile.y) * kTurn;
  const int lane = static_cast<int>(threadIdx.x) % kTurn;
  const int line = static_cast<int>(threadIdx.x) / kTurn;
  for (int j = line; j < kTurn; j += kCholeskyThreads / kTurn)
    if (column + j < D && row + lane <= column + j)
      turned[j * (kTurn + 1) + lane] =
          static_cast<float>(factors[(s * D + D - 1 - (column + j)) * D + D - 1 - (row + lane)]);
  __syncthreads();  // the tile is complete
  for (int i = line; i < kTurn; i += kCholeskyThreads / kTurn)
    if (column + lane < D && row + i <= column + lane)
      v[(s * D + row + i) * D + column + lane] = turned[lane * (kTurn + 1) + i];
}

// Ends a rung: matrices that did not fail are done; after the last one the others are singular.
__global__ void __launch_bounds__(kCholeskyThreads)
    settle_rung(CholeskyBatch batch, int64_t S, double damp, bool last) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kCholeskyThreads + threadIdx.x;
  if (s >= S || batch.info[s] != kPending) return;
  if (!batch.failed[s]) {
    batch.info[s] = 0;
    batch.damp_used[s] = damp;
  } else if (last) {
    batch.info[s] = SPADE_SINGULAR;
    batch.damp_used[s] = damp;
  }
  batch.failed[s] = 0;
}

}  // namespace spade::cuda::cholesky

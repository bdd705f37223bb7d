// What surrounds the factorisation of cholesky_panel.cuh on one rung of the damping ladder: the
// matrices are loaded with their damping, stored where it was enough, and the others stay pending.
#pragma once

#include "cuda/cholesky.cuh"
#include "cuda/spread.cuh"

namespace spade::cuda::cholesky {

constexpr int kCholeskyThreads = 256;
constexpr int32_t kPending = -1;  // info: no damping has succeeded so far
constexpr int kTurn = 32;         // side of a tile that is transposed

__device__ __forceinline__ bool skipped(const CholeskyPiece& p, int64_t s) {
  return p.info[s] != kPending || p.failed[s];
}

// Tile `index` of an upper triangle of tiles, column of tiles by column: row, column.
__device__ __forceinline__ int2 upper_tile(int64_t index) {
  int64_t column = static_cast<int64_t>((sqrt(8.0 * static_cast<double>(index) + 1) - 1) / 2);
  while (column * (column + 1) / 2 > index) --column;
  while ((column + 1) * (column + 2) / 2 <= index) ++column;
  return make_int2(static_cast<int>(index - column * (column + 1) / 2), static_cast<int>(column));
}

inline int64_t upper_tiles(int64_t tiles) { return tiles * (tiles + 1) / 2; }

__device__ __forceinline__ double live(double diagonal) { return diagonal == 0 ? 1 : diagonal; }

// mean, failed and info of matrix blockIdx.x. Sums in a fixed order.
template <class T>
__global__ void __launch_bounds__(kCholeskyThreads)
    begin_ladder(const CholeskyPiece* pieces, Spread spread) {
  SPADE_SHARED(double, sums, kCholeskyThreads);
  const Place at = place_of(spread, blockIdx.x);
  const CholeskyPiece& p = pieces[at.piece];
  const int64_t s = at.sample, D = p.D;
  const int thread = static_cast<int>(threadIdx.x);
  const T* h = static_cast<const T*>(p.h) + s * D * D;
  double sum = 0;
  for (int64_t j = thread; j < D; j += kCholeskyThreads) sum += live(h[j * D + j]);
  sums[thread] = sum;
  for (int half = kCholeskyThreads / 2; half > 0; half /= 2) {
    __syncthreads();  // the sums of the other half are there
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread != 0) return;
  p.mean[s] = sums[0] / static_cast<double>(D);
  p.failed[s] = 0;
  p.info[s] = kPending;
}

// kTurn rows of the upper triangle of J (H' + damp mean I) J a block, scaled.
template <class T, class F>
__global__ void __launch_bounds__(kCholeskyThreads)
    load_reversed(const CholeskyPiece* pieces, Spread spread, double damp) {
  const Place at = place_of(spread, blockIdx.x);
  const CholeskyPiece& p = pieces[at.piece];
  const int64_t s = at.sample, D = p.D, first = int64_t{at.block} * kTurn;
  if (skipped(p, s)) return;
  const int lane = static_cast<int>(threadIdx.x) % kTurn;
  const int line = static_cast<int>(threadIdx.x) / kTurn;
  const double scale = scale_for(p.mean[s]), shift = damp * (p.mean[s] * scale);
  for (int64_t i = first + line; i < min(first + kTurn, D); i += kCholeskyThreads / kTurn) {
    const T* h = static_cast<const T*>(p.h) + (s * D + D - 1 - i) * D;
    F* row = static_cast<F*>(p.factor) + (s * D + i) * D;
    for (int64_t j = i + lane; j < D; j += kTurn) {
      const double entry = static_cast<double>(h[D - 1 - j]);
      row[j] = static_cast<F>(j == i ? live(entry) * scale + shift : entry * scale);
    }
  }
}

// V = J R^T J of the matrices that succeeded just now, a tile of its upper triangle a block.
template <class T, class F>
__global__ void __launch_bounds__(kCholeskyThreads)
    store_factor(const CholeskyPiece* pieces, Spread spread) {
  SPADE_SHARED(T, turned, kTurn * (kTurn + 1));
  const Place at = place_of(spread, blockIdx.x);
  const CholeskyPiece& p = pieces[at.piece];
  const int64_t s = at.sample, D = p.D;
  if (skipped(p, s)) return;
  const F* factor = static_cast<const F*>(p.factor) + s * D * D;
  T* v = static_cast<T*>(p.v) + s * D * D;
  const int2 tile = upper_tile(at.block);
  const int64_t row = static_cast<int64_t>(tile.x) * kTurn;
  const int64_t column = static_cast<int64_t>(tile.y) * kTurn;
  const int lane = static_cast<int>(threadIdx.x) % kTurn;
  const int line = static_cast<int>(threadIdx.x) / kTurn;
  for (int j = line; j < kTurn; j += kCholeskyThreads / kTurn)
    if (column + j < D && row + lane <= column + j)
      turned[j * (kTurn + 1) + lane] =
          static_cast<T>(factor[(D - 1 - (column + j)) * D + D - 1 - (row + lane)]);
  __syncthreads();  // the tile is complete
  for (int i = line; i < kTurn; i += kCholeskyThreads / kTurn)
    if (column + lane < D && row + i <= column + lane)
      v[(row + i) * D + column + lane] = turned[lane * (kTurn + 1) + i];
}

// Ends a rung, a matrix per thread: those that did not fail are done; after the last rung the
// others are singular.
__global__ void __launch_bounds__(kCholeskyThreads)
    settle_rung(const CholeskyPiece* pieces, Spread matrices, double damp, bool last) {
  const unsigned index = blockIdx.x * kCholeskyThreads + threadIdx.x;
  if (index >= matrices.blocks()) return;
  const Place at = place_of(matrices, index);
  const CholeskyPiece& p = pieces[at.piece];
  const int64_t s = at.sample;
  if (p.info[s] != kPending) return;
  if (!p.failed[s] || last) {
    p.info[s] = p.failed[s] ? SPADE_SINGULAR : 0;
    p.damp_used[s] = damp;
  }
  p.failed[s] = 0;
}

}  // namespace spade::cuda::cholesky

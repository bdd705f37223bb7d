// One panel of 64 rows of a batch of Cholesky factorisations A = R^T R, R upper: the diagonal block
// and its inverse, the rest of the panel, the trailing triangle.
//
// Operands are stored [k, column] throughout, so no tile is transposed.
#pragma once

#include <cfloat>

#include "cuda/cholesky_ladder.cuh"
#include "cuda/product.cuh"

namespace spade::cuda::cholesky {

constexpr int kPitch =
    kPanel + 1;  // of a 64 x 64 block in shared memory: columns without conflicts

static_assert(kPanel == kProductTile, "a panel is one tile high");

// Diagonal block at row `first`: R of it in place and inverse = R^-1.
//
// Elimination without scaling, A = Y^-1 diag(d) Y^-T with Y unit lower: rows below j lose multiples
// of row j, in A (columns from the row's own on) and in Y (columns up to j, which starts as I), so
// both triangles of one array fill the threads and a step needs one barrier. R = d^1/2 Y^-T.
template <class F>
__global__ void __launch_bounds__(kCholeskyThreads)
    factor_diagonal(const CholeskyPiece* pieces, Spread spread, int64_t first) {
  SPADE_SHARED(F, a, kPanel * kPitch);
  const Place at = place_of(spread, blockIdx.x);
  const CholeskyPiece& p = pieces[at.piece];
  const int64_t s = at.sample, D = p.D;
  if (skipped(p, s)) return;
  const int n = static_cast<int>(min(static_cast<int64_t>(kPanel), D - first));
  const int column = static_cast<int>(threadIdx.x) % kPanel;
  const int row = static_cast<int>(threadIdx.x) / kPanel;
  constexpr int kRows = kCholeskyThreads / kPanel;  // that the block works on at a time
  F* block = static_cast<F*>(p.factor) + (s * D + first) * D + first;
  for (int i = row; i < n; i += kRows)
    if (column < n) a[i * kPitch + column] = column >= i ? block[i * D + column] : F(0);
  for (int j = 0; j < n; ++j) {
    __syncthreads();  // row j is final
    const F pivot = a[j * kPitch + j];
    if (!(pivot > F(0) && pivot <= F(FLT_MAX))) {
      if (threadIdx.x == 0) p.failed[s] = 1;
      return;
    }
    const F inverse_pivot = F(1) / pivot;
#pragma unroll 4
    for (int i = j + 1 + row; i < n; i += kRows) {
      const F multiple = a[j * kPitch + i] * inverse_pivot;
      if (column == j)
        a[i * kPitch + column] = -multiple;
      else if (column < j || (column >= i && column < n))
        a[i * kPitch + column] -= multiple * a[j * kPitch + column];
    }
  }
  // Row n - 1 has no rows below it: nothing was written since the last barrier.
  F* inverse = static_cast<F*>(p.inverse) + s * kPanel * kPanel;
  for (int i = row; i < n; i += kRows) {
    const F root = sqrt(a[i * kPitch + i]);
    if (column > i && column < n) block[i * D + column] = a[i * kPitch + column] / root;
    if (column == i) block[i * D + column] = root;
    if (column < n)
      inverse[column * kPanel + i] =
          column == i ? F(1) / root : (column < i ? a[i * kPitch + column] / root : F(0));
  }
}

// Rows [first, first + 64) of R right of the diagonal block, a tile of them a block:
// R_1j = R_11^-T A_1j. In place: a block reads and writes its own columns only.
template <class F>
__global__ void __launch_bounds__(kTileThreads)
    solve_panel(const CholeskyPiece* pieces, Spread spread, int64_t first) {
  SPADE_TILE_OPERAND(F, shared_a);
  SPADE_TILE_OPERAND(F, shared_b);
  const Place at = place_of(spread, blockIdx.x);
  const CholeskyPiece& p = pieces[at.piece];
  const int64_t s = at.sample, D = p.D;
  if (skipped(p, s)) return;
  const int64_t column = first + kPanel + int64_t{at.block} * kProductTile;
  const int columns = static_cast<int>(min(static_cast<int64_t>(kProductTile), D - column));
  const F* inverse = static_cast<const F*>(p.inverse) + s * kPanel * kPanel;
  F* panel = static_cast<F*>(p.factor) + (s * D + first) * D + column;
  F sum[kMicro][kMicro] = {};
  multiply_tile(inverse, int64_t{kPanel}, kPanel, panel, D, columns, kPanel, shared_a, shared_b,
                sum);
  each_sum(sum, kPanel, columns, [&](int i, int j, F value) { panel[i * D + j] = value; });
}

// A_ij -= R_1i^T R_1j for a tile of the upper triangle right of and below the panel a block.
template <class F>
__global__ void __launch_bounds__(kTileThreads)
    update_trailing(const CholeskyPiece* pieces, Spread spread, int64_t first) {
  SPADE_TILE_OPERAND(F, shared_a);
  SPADE_TILE_OPERAND(F, shared_b);
  const Place at = place_of(spread, blockIdx.x);
  const CholeskyPiece& p = pieces[at.piece];
  const int64_t s = at.sample, D = p.D;
  if (skipped(p, s)) return;
  const int2 tile = upper_tile(at.block);
  const int64_t row = first + kPanel + static_cast<int64_t>(tile.x) * kProductTile;
  const int64_t column = first + kPanel + static_cast<int64_t>(tile.y) * kProductTile;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kProductTile), D - row));
  const int columns = static_cast<int>(min(static_cast<int64_t>(kProductTile), D - column));
  F* factor = static_cast<F*>(p.factor) + s * D * D;
  const F* panel = factor + first * D;
  F sum[kMicro][kMicro] = {};
  multiply_tile(panel + row, D, rows, panel + column, D, columns, kPanel, shared_a, shared_b, sum);
  each_sum(sum, rows, columns, [&](int i, int j, F value) {
    if (row + i <= column + j) factor[(row + i) * D + column + j] -= value;
  });
}

}  // namespace spade::cuda::cholesky

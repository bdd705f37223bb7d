// Batched reversed Cholesky: with J the reversal of indices, J (H + shift) J = R^T R, R upper, and
// V = J R^T J is upper with H + shift = V V^T.
//
// Right-looking in panels of 64 rows, three launches each for all matrices: one block a matrix
// factorises the diagonal block and inverts it; one block a tile of 64 columns solves the rest of
// the panel by a product with that inverse; one block a tile updates the trailing upper triangle.
// Operands are stored [k, column] throughout, so no tile is transposed. D^3 / 3 flop a matrix at 16
// flop a byte of trailing matrix (floats).
//
// The factor is double where the device multiplies doubles at half the rate of floats. Elsewhere,
// doubles at a sixty-fourth, it is so below a damping of 1e-3, and float, as on the CPU, from it
// on.

#include <cfloat>

#include "core/damping.h"
#include "cuda/cholesky.cuh"
#include "cuda/product.cuh"

namespace spade::cuda {
namespace {

constexpr int kCholeskyThreads = 256;
constexpr int kPitch =
    kPanel + 1;                   // of a 64 x 64 block in shared memory: columns without conflicts
constexpr int kTurn = 32;         // side of a tile that is transposed
constexpr int32_t kPending = -1;  // info: no damping has succeeded so far

static_assert(kPanel == kTile, "a panel is one tile high");

bool needs_double(const Device& device, double damp) {
  const bool fast = device.minor == 0 && device.major >= 8 && device.major <= 10;
  return fast || damp < kFloatFromDamp;
}

struct CholeskyBatch {
  const float* h;
  int64_t D;
  double* mean;
  int32_t *failed, *info;
  double* damp_used;
};

__device__ bool skipped(const CholeskyBatch& batch, int64_t s) {
  return batch.info[s] != kPending || batch.failed[s];
}

__device__ double live(float diagonal) {
  return diagonal == 0.0f ? 1.0 : static_cast<double>(diagonal);
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

// Rows [blockIdx.x * kTurn, + kTurn) of the upper triangle of J (H' + damp mean I) J.
template <class T>
__global__ void __launch_bounds__(kCholeskyThreads)
    load_reversed(CholeskyBatch batch, double damp, T* factors) {
  const int64_t s = blockIdx.y, D = batch.D, first = static_cast<int64_t>(blockIdx.x) * kTurn;
  if (skipped(batch, s)) return;
  const int lane = static_cast<int>(threadIdx.x) % kTurn;
  const int line = static_cast<int>(threadIdx.x) / kTurn;
  for (int64_t i = first + line; i < min(first + kTurn, D); i += kCholeskyThreads / kTurn) {
    const float* h = batch.h + (s * D + D - 1 - i) * D;
    T* row = factors + (s * D + i) * D;
    for (int64_t j = i + lane; j < D; j += kTurn) {
      const float entry = h[D - 1 - j];
      row[j] = j == i ? static_cast<T>(live(entry) + damp * batch.mean[s]) : static_cast<T>(entry);
    }
  }
}

// Diagonal block at row `first`: R of it in place and inverse = R^-1.
//
// Elimination without scaling, A = Y^-1 diag(d) Y^-T with Y unit lower: rows below j lose multiples
// of row j, in A (columns from the row's own on) and in Y (columns up to j, which starts as I), so
// both triangles of one array fill the threads and a step needs one barrier. R = d^1/2 Y^-T.
template <class T>
__global__ void __launch_bounds__(kCholeskyThreads)
    factor_diagonal(CholeskyBatch batch, T* factors, T* inverses, int64_t first) {
  SPADE_SHARED(T, a, kPanel * kPitch);
  const int64_t s = blockIdx.x, D = batch.D;
  if (skipped(batch, s)) return;
  const int n = static_cast<int>(min(static_cast<int64_t>(kPanel), D - first));
  const int column = static_cast<int>(threadIdx.x) % kPanel;
  const int row = static_cast<int>(threadIdx.x) / kPanel;
  constexpr int kRows = kCholeskyThreads / kPanel;  // that the block works on at a time
  T* block = factors + (s * D + first) * D + first;
  for (int i = row; i < n; i += kRows)
    if (column < n) a[i * kPitch + column] = column >= i ? block[i * D + column] : T(0);
  for (int j = 0; j < n; ++j) {
    __syncthreads();  // row j is final
    const T pivot = a[j * kPitch + j];
    if (!(pivot > T(0) && pivot <= T(FLT_MAX))) {
      if (threadIdx.x == 0) batch.failed[s] = 1;
      return;
    }
    const T inverse_pivot = T(1) / pivot;
#pragma unroll 4
    for (int i = j + 1 + row; i < n; i += kRows) {
      const T multiple = a[j * kPitch + i] * inverse_pivot;
      if (column == j)
        a[i * kPitch + column] = -multiple;
      else if (column < j || (column >= i && column < n))
        a[i * kPitch + column] -= multiple * a[j * kPitch + column];
    }
  }
  __syncthreads();  // the last row is final
  T* inverse = inverses + s * kPanel * kPanel;
  for (int i = row; i < n; i += kRows) {
    const T root = sqrt(a[i * kPitch + i]);
    if (column > i && column < n) block[i * D + column] = a[i * kPitch + column] / root;
    if (column == i) block[i * D + column] = root;
    if (column < n)
      inverse[column * kPanel + i] =
          column == i ? T(1) / root : (column < i ? a[i * kPitch + column] / root : T(0));
  }
}

// Rows [first, first + 64) of R right of the diagonal block, tile blockIdx.x: R_1j = R_11^-T A_1j.
// In place: a block reads and writes its own columns only.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    solve_panel(CholeskyBatch batch, T* factors, const T* inverses, int64_t first) {
  SPADE_TILE_OPERAND(T, shared_a);
  SPADE_TILE_OPERAND(T, shared_b);
  const int64_t s = blockIdx.y, D = batch.D;
  if (skipped(batch, s)) return;
  const int64_t column = first + kPanel + static_cast<int64_t>(blockIdx.x) * kTile;
  const int columns = static_cast<int>(min(static_cast<int64_t>(kTile), D - column));
  T* panel = factors + (s * D + first) * D + column;
  T sum[kMicro][kMicro] = {};
  multiply_tile(inverses + s * kPanel * kPanel, int64_t{kPanel}, kPanel, panel, D, columns, kPanel,
                shared_a, shared_b, sum);
  each_sum(sum, kPanel, columns, [&](int i, int j, T value) { panel[i * D + j] = value; });
}

// Tile `index` of an upper triangle of tiles, column of tiles by column: row, column.
__device__ int2 upper_tile(int64_t index) {
  int64_t column = static_cast<int64_t>((sqrt(8.0 * static_cast<double>(index) + 1) - 1) / 2);
  while (column * (column + 1) / 2 > index) --column;
  while ((column + 1) * (column + 2) / 2 <= index) ++column;
  return make_int2(static_cast<int>(index - column * (column + 1) / 2), static_cast<int>(column));
}

int64_t upper_tiles(int64_t tiles) { return tiles * (tiles + 1) / 2; }

// A_ij -= R_1i^T R_1j for tile blockIdx.x of the upper triangle right of and below the panel.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    update_trailing(CholeskyBatch batch, T* factors, int64_t first) {
  SPADE_TILE_OPERAND(T, shared_a);
  SPADE_TILE_OPERAND(T, shared_b);
  const int64_t s = blockIdx.y, D = batch.D;
  if (skipped(batch, s)) return;
  const int2 tile = upper_tile(blockIdx.x);
  const int64_t row = first + kPanel + static_cast<int64_t>(tile.x) * kTile;
  const int64_t column = first + kPanel + static_cast<int64_t>(tile.y) * kTile;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kTile), D - row));
  const int columns = static_cast<int>(min(static_cast<int64_t>(kTile), D - column));
  T* factor = factors + s * D * D;
  const T* panel = factor + first * D;
  T sum[kMicro][kMicro] = {};
  multiply_tile(panel + row, D, rows, panel + column, D, columns, kPanel, shared_a, shared_b, sum);
  each_sum(sum, rows, columns, [&](int i, int j, T value) {
    if (row + i <= column + j) factor[(row + i) * D + column + j] -= value;
  });
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

template <class T>
void factorise(const char* function, const CholeskyBatch& batch, int64_t S, double damp,
               const CholeskyScratch& scratch, float* v, cudaStream_t stream) {
  const unsigned matrices = static_cast<unsigned>(S);
  const int64_t D = batch.D;
  T* factor = static_cast<T*>(scratch.factor);
  T* inverse = static_cast<T*>(scratch.inverse);
  SPADE_LAUNCH(load_reversed<T>, dim3(blocks_of(D, kTurn), matrices), dim3(kCholeskyThreads), 0,
               stream, batch, damp, factor);
  check_launch(function);
  for (int64_t first = 0; first < D; first += kPanel) {
    SPADE_LAUNCH(factor_diagonal<T>, dim3(matrices), dim3(kCholeskyThreads), 0, stream, batch,
                 factor, inverse, first);
    check_launch(function);
    const int64_t rest = D - first - kPanel;
    if (rest <= 0) break;
    const unsigned tiles = blocks_of(rest, kTile);
    SPADE_LAUNCH(solve_panel<T>, dim3(tiles, matrices), dim3(kTileThreads), 0, stream, batch,
                 factor, inverse, first);
    check_launch(function);
    SPADE_LAUNCH(update_trailing<T>, dim3(static_cast<unsigned>(upper_tiles(tiles)), matrices),
                 dim3(kTileThreads), 0, stream, batch, factor, first);
    check_launch(function);
  }
  SPADE_LAUNCH(store_factor<T>,
               dim3(static_cast<unsigned>(upper_tiles(blocks_of(D, kTurn))), matrices),
               dim3(kCholeskyThreads), 0, stream, batch, factor, v);
  check_launch(function);
}

}  // namespace

CholeskyScratch take_cholesky(Workspace& workspace, const Device& device, int64_t S, int64_t D,
                              double damp) {
  const int64_t size = needs_double(device, damp) ? sizeof(double) : sizeof(float);
  CholeskyScratch scratch;
  scratch.factor = workspace.take<char>(S * D * D * size);
  scratch.inverse = workspace.take<char>(S * kPanel * kPanel * size);
  scratch.mean = workspace.take<double>(S);
  scratch.failed = workspace.take<int32_t>(S);
  return scratch;
}

void reversed_cholesky(const char* function, const Device& device, const float* h, int64_t S,
                       int64_t D, double damp, const CholeskyScratch& scratch, float* v,
                       double* damp_used, int32_t* info, cudaStream_t stream) {
  const CholeskyBatch batch{h, D, scratch.mean, scratch.failed, info, damp_used};
  SPADE_LAUNCH(begin_ladder, dim3(static_cast<unsigned>(S)), dim3(kCholeskyThreads), 0, stream,
               batch);
  check_launch(function);
  for (double next; damp >= 0; damp = next) {
    next = next_damp(damp);
    if (needs_double(device, damp))
      factorise<double>(function, batch, S, damp, scratch, v, stream);
    else
      factorise<float>(function, batch, S, damp, scratch, v, stream);
    SPADE_LAUNCH(settle_rung, dim3(blocks_of(S, kCholeskyThreads)), dim3(kCholeskyThreads), 0,
                 stream, batch, S, damp, next < 0);
    check_launch(function);
  }
}

}  // namespace spade::cuda

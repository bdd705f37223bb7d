// What surrounds the lazy blocks of SparseGPT. With E = W - Q, the weights of columns b at the
// moment all columns before b1 are done are
//     W_b + (E[:, :b1] V[:b1, b]) U_bb,      U_bb = V_bb^-1.
// The product in parentheses is kept for all columns to the right and grows by a tiled product as
// each lazy block is done, so that its tiles fill the device also for one sample. Arrays of rows
// are stored [column, row].
#pragma once

#include "cuda/product.cuh"
#include "cuda/sparsegpt_block.cuh"

namespace spade::cuda::sparsegpt {

constexpr int kTurnTile = 32;  // side of a tile that is transposed
constexpr int kTurnThreads = 256;

// Lazy blocks start anew at each span of columns: a wide mask block, or the lazy block itself.
struct Partition {
  int64_t D, span, lazy;

  __host__ __device__ int64_t per_span() const { return (span + lazy - 1) / lazy; }
  __host__ __device__ int64_t count() const {
    return D / span * per_span() + (D % span + lazy - 1) / lazy;
  }
  __host__ __device__ int64_t first(int64_t index) const {
    return index / per_span() * span + index % per_span() * lazy;
  }
  __host__ __device__ int width(int64_t index) const {
    const int64_t left = min(D, (index / per_span() + 1) * span) - first(index);
    return static_cast<int>(min(lazy, left));
  }
};

struct Layer {
  const float* dense;     // [1 or S, D, stride]: W^T
  int64_t dense_samples;  // 1 or S
  const float* h;         // [S, D, D]
  const float* v;         // [S, D, D]
  float* u;               // [S, partition.count(), kLazy, kLazy]
  const int32_t* info;    // [S]
  int64_t R, D, stride;
  Partition partition;
};

// Columns of W from `first` on in an array [S, columns, stride].
template <class T>
struct Columns {
  T* data;
  int64_t first, columns;

  __device__ T* at(const Layer& l, int64_t s, int64_t column) const {
    return data + (s * columns + column - first) * l.stride;
  }
};

__device__ __forceinline__ const float* dense_column(const Layer& l, int64_t s, int64_t column) {
  return l.dense + ((l.dense_samples > 1 ? s : 0) * l.D + column) * l.stride;
}

__device__ __forceinline__ bool is_dead(const Layer& l, int64_t s, int64_t column) {
  return l.h[(s * l.D + column) * l.D + column] == 0.0f;
}

__device__ __forceinline__ int within(int64_t side, int64_t left) {
  return static_cast<int>(min(side, left));
}

// dense = W^T, a tile a block; sample blockIdx.z of w.
__global__ void __launch_bounds__(kTurnThreads)
    turn_weights(const float* w, int64_t w_stride, int64_t R, int64_t D, int64_t stride,
                 float* dense) {
  SPADE_SHARED(float, tile, kTurnTile*(kTurnTile + 1));
  const int64_t s = blockIdx.z, row = static_cast<int64_t>(blockIdx.x) * kTurnTile;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kTurnTile;
  const int lane = static_cast<int>(threadIdx.x) % kTurnTile;
  const int line = static_cast<int>(threadIdx.x) / kTurnTile;
  for (int i = line; i < kTurnTile; i += kTurnThreads / kTurnTile)
    if (row + i < R && column + lane < D)
      tile[i * (kTurnTile + 1) + lane] = w[s * w_stride + (row + i) * D + column + lane];
  __syncthreads();  // the tile is complete
  for (int i = line; i < kTurnTile; i += kTurnThreads / kTurnTile)
    if (row + lane < R && column + i < D)
      dense[(s * D + column + i) * stride + row + lane] = tile[lane * (kTurnTile + 1) + i];
}

__device__ __forceinline__ float* inverse_block(const Layer& l, int64_t s, int64_t index) {
  return l.u + (s * l.partition.count() + index) * kLazy * kLazy;
}

// U_bb of lazy block blockIdx.x: back substitution, a column a thread, which reads of U only what
// it wrote.
__global__ void __launch_bounds__(kLazy) invert_blocks(Layer l) {
  const int64_t s = blockIdx.y, first = l.partition.first(blockIdx.x);
  if (l.info[s] != 0) return;
  const int width = l.partition.width(blockIdx.x), column = static_cast<int>(threadIdx.x);
  const float* v = l.v + (s * l.D + first) * l.D + first;
  float* u = inverse_block(l, s, blockIdx.x) + column;
  for (int i = width - 1; i >= 0; --i) {
    float sum = i == column ? 1.0f : 0.0f;
    for (int k = i + 1; k < width; ++k) sum -= v[i * l.D + k] * u[k * kLazy];
    u[i * kLazy] = i <= column ? sum / v[i * l.D + i] : 0.0f;
  }
}

// to = weights of lazy block `index` now, given E V, and error = their negated change if wanted
// (else NULL); tile (blockIdx.x of rows, blockIdx.y of columns). error: [S, kLazy, stride]
__global__ void __launch_bounds__(kTileThreads)
    weights_now(Layer l, int64_t index, Columns<const float> product, Columns<float> to,
                float* error) {
  SPADE_TILE_OPERAND(float, shared_a);
  SPADE_TILE_OPERAND(float, shared_b);
  const int64_t s = blockIdx.z, row = static_cast<int64_t>(blockIdx.x) * kTile;
  if (l.info[s] != 0) return;
  const int64_t first = l.partition.first(index);
  const int column = static_cast<int>(blockIdx.y) * kTile, width = l.partition.width(index);
  const int columns = min(kTile, width - column), rows = within(kTile, l.R - row);
  float sum[kMicro][kMicro] = {};
  multiply_tile(inverse_block(l, s, index) + column, int64_t{kLazy}, columns,
                product.at(l, s, first) + row, l.stride, rows, column + columns, shared_a, shared_b,
                sum);  // U is 0 in rows after these columns
  each_sum(sum, columns, rows, [&](int i, int j, float change) {
    const int64_t c = first + column + i;
    const float dense = is_dead(l, s, c) ? 0.0f : dense_column(l, s, c)[row + j];
    to.at(l, s, c)[row + j] = dense + change;
    if (error) error[(s * kLazy + column + i) * l.stride + row + j] = -change;
  });
}

// after = before + E V for the columns from `from` to `end` and the E of lazy block `index`; tile
// (blockIdx.x of rows, blockIdx.y of columns). `after` may be `before`. error: [S, kLazy, stride]
__global__ void __launch_bounds__(kTileThreads)
    carry_errors(Layer l, int64_t index, int64_t from, int64_t end, const float* error,
                 Columns<const float> before, Columns<float> after) {
  SPADE_TILE_OPERAND(float, shared_a);
  SPADE_TILE_OPERAND(float, shared_b);
  const int64_t s = blockIdx.z, row = static_cast<int64_t>(blockIdx.x) * kTile;
  if (l.info[s] != 0) return;
  const int64_t column = from + static_cast<int64_t>(blockIdx.y) * kTile;
  const int columns = within(kTile, end - column), rows = within(kTile, l.R - row);
  float sum[kMicro][kMicro] = {};
  multiply_tile(l.v + (s * l.D + l.partition.first(index)) * l.D + column, l.D, columns,
                error + s * kLazy * l.stride + row, l.stride, rows, l.partition.width(index),
                shared_a, shared_b, sum);
  each_sum(sum, columns, rows, [&](int i, int j, float value) {
    after.at(l, s, column + i)[row + j] = before.at(l, s, column + i)[row + j] + value;
  });
}

// out = Q^T of a lazy block that is done, error = its W - Q; a tile a block.
// state, error: [S, kLazy, stride]; out: [S, R, D]
__global__ void __launch_bounds__(kTurnThreads)
    finish_lazy_block(Layer l, int64_t index, const float* state, float* error, float* out) {
  SPADE_SHARED(float, tile, kTurnTile*(kTurnTile + 1));
  const int64_t s = blockIdx.z, row = static_cast<int64_t>(blockIdx.x) * kTurnTile;
  if (l.info[s] != 0) return;
  const int64_t first = l.partition.first(index);
  const int column = static_cast<int>(blockIdx.y) * kTurnTile, width = l.partition.width(index);
  const int lane = static_cast<int>(threadIdx.x) % kTurnTile;
  const int line = static_cast<int>(threadIdx.x) / kTurnTile;
  for (int i = line; i < kTurnTile; i += kTurnThreads / kTurnTile) {
    if (column + i >= width || row + lane >= l.R) continue;
    const int64_t at = (s * kLazy + column + i) * l.stride + row + lane;
    const int64_t c = first + column + i;
    const float pruned = state[at];
    error[at] = (is_dead(l, s, c) ? 0.0f : dense_column(l, s, c)[row + lane]) - pruned;
    tile[i * (kTurnTile + 1) + lane] = pruned;
  }
  __syncthreads();  // the tile is complete
  for (int i = line; i < kTurnTile; i += kTurnThreads / kTurnTile)
    if (row + i < l.R && column + lane < width)
      out[(s * l.R + row + i) * l.D + first + column + lane] = tile[lane * (kTurnTile + 1) + i];
}

// `gone` of `width` columns from weights.first on, a mask block wider than a lazy block.
__global__ void __launch_bounds__(kBlockThreads)
    select_wide(Layer l, Columns<const float> weights, int width, int n, unsigned count,
                uint8_t* gone) {
  SPADE_SELECTION_MEMORY(memory);
  const int64_t s = blockIdx.x;
  if (l.info[s] != 0) return;
  const MaskBlock block{weights.at(l, s, weights.first),
                        l.v + (s * l.D + weights.first) * l.D + weights.first,
                        static_cast<int>(l.D + 1),
                        static_cast<int>(l.stride),
                        static_cast<int>(l.R),
                        width,
                        gone + s * weights.columns * l.stride};
  if (n >= 0)
    select_of_row(block, n);
  else
    select_least(block, count, memory);
}

// out = W for samples that failed.
__global__ void __launch_bounds__(kTurnThreads)
    keep_dense(const float* w, int64_t w_stride, int64_t count, const int32_t* info, float* out) {
  const int64_t s = blockIdx.y;
  if (info[s] == 0) return;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kTurnThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kTurnThreads)
    out[s * count + i] = w[s * w_stride + i];
}

// info = 0 and damp_used = damp where there is nothing to prune.
__global__ void __launch_bounds__(kTurnThreads)
    nothing_to_prune(int64_t S, double damp, double* damp_used, int32_t* info) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kTurnThreads + threadIdx.x;
  if (s >= S) return;
  damp_used[s] = damp;
  info[s] = 0;
}

}  // namespace spade::cuda::sparsegpt

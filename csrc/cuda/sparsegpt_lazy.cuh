// What surrounds the lazy blocks of SparseGPT. With E = W - Q, the weights of columns b at the
// moment all columns before b1 are done are
//     W_b + (E[:, :b1] V[:b1, b]) U_bb,      U_bb = V_bb^-1.
// The product in parentheses is kept for all columns to the right and grows by a tiled product as
// each lazy block is done, so that its tiles fill the device also for one sample.
//
// Where `begin` is an argument, -1 means the pass that prunes; else it is the first lazy block of a
// wide mask block, whose weights are wanted as if nothing of it had gone.
#pragma once

#include "cuda/product.cuh"
#include "cuda/sparsegpt_block.cuh"

namespace spade::cuda::sparsegpt {

constexpr int kTurnTile = 32;  // side of a tile that is transposed
constexpr int kTurnThreads = 256;

// E V, as far as it has come; `origin`: the first column of lazy block `begin`, if there is one.
template <class T>
__device__ __forceinline__ Columns<T> product_of(const Piece<T>& p, int begin, int origin) {
  if (begin < 0) return {p.product, 0, p.D, p.stride};
  return {p.trial_product, origin, p.mask, p.stride};
}

// Where the weights of lazy block `index` go.
template <class T>
__device__ __forceinline__ Columns<T> weights_of(const Piece<T>& p, int index, int begin) {
  if (begin < 0) return {p.state, p.partition.first(index), kLazy, p.stride};
  return {p.trial, p.partition.first(begin), p.mask, p.stride};
}

__device__ __forceinline__ int within(int64_t side, int64_t left) {
  return static_cast<int>(min(side, left));
}

// Row and column of tile `block` of side `side`, tiles of all `rows` first.
__device__ __forceinline__ int2 tile_of(unsigned block, int64_t rows, int side) {
  const unsigned high = static_cast<unsigned>((rows + side - 1) / side);
  return make_int2(static_cast<int>(block % high) * side, static_cast<int>(block / high) * side);
}

// dense = W^T, a tile a block.
template <class T>
__global__ void __launch_bounds__(kTurnThreads)
    turn_weights(const Piece<T>* pieces, Spread spread) {
  SPADE_SHARED(T, tile, kTurnTile * (kTurnTile + 1));
  const Place at = place_of(spread, blockIdx.x);
  const Piece<T>& p = pieces[at.piece];
  const int64_t s = at.sample, R = p.R, D = p.D;
  const int2 corner = tile_of(at.block, R, kTurnTile);
  const int64_t row = corner.x, column = corner.y;
  const int lane = static_cast<int>(threadIdx.x) % kTurnTile;
  const int line = static_cast<int>(threadIdx.x) / kTurnTile;
  for (int i = line; i < kTurnTile; i += kTurnThreads / kTurnTile)
    if (row + i < R && column + lane < D)
      tile[i * (kTurnTile + 1) + lane] = p.w[s * p.w_stride + (row + i) * D + column + lane];
  __syncthreads();  // the tile is complete
  for (int i = line; i < kTurnTile; i += kTurnThreads / kTurnTile)
    if (row + lane < R && column + i < D)
      p.dense[(s * D + column + i) * p.stride + row + lane] = tile[lane * (kTurnTile + 1) + i];
}

// U_bb of a lazy block: back substitution, a column a thread, which reads of U only what it wrote.
template <class T>
__global__ void __launch_bounds__(kLazy) invert_blocks(const Piece<T>* pieces, Spread spread) {
  const Place at = place_of(spread, blockIdx.x);
  const Piece<T>& p = pieces[at.piece];
  const int64_t s = at.sample, D = p.D;
  const int index = static_cast<int>(at.block), first = p.partition.first(index);
  if (p.info[s] != 0) return;
  const int width = p.partition.width(index), column = static_cast<int>(threadIdx.x);
  const T* v = p.v + (s * D + first) * D + first;
  T* u = inverse_block(p, s, index) + column;
  for (int i = width - 1; i >= 0; --i) {
    T sum = i == column ? T(1) : T(0);
    for (int k = i + 1; k < width; ++k) sum -= v[i * D + k] * u[k * kLazy];
    u[i * kLazy] = i <= column ? sum / v[i * D + i] : T(0);
  }
}

// The weights of lazy block `index` now, given E V, and on a trial also error = their negated
// change; a tile a block.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    weights_now(const Piece<T>* pieces, Spread spread, int index, int begin) {
  SPADE_TILE_OPERAND(T, shared_a);
  SPADE_TILE_OPERAND(T, shared_b);
  const Place at = place_of(spread, blockIdx.x);
  const Piece<T>& p = pieces[at.piece];
  const int64_t s = at.sample, stride = p.stride;
  const int first = p.partition.first(index);
  if (p.info[s] != 0) return;
  const int2 tile = tile_of(at.block, p.R, kProductTile);
  const int64_t row = tile.x;
  const int column = tile.y, width = p.partition.width(index);
  const int columns = min(kProductTile, width - column), rows = within(kProductTile, p.R - row);
  const int origin = begin < 0 ? 0 : p.partition.first(begin);
  const Columns<T> product = product_of(p, index > begin ? begin : -1, origin);
  const Columns<T> to = weights_of(p, index, begin);
  // U is 0 in rows after these columns, E V before the first lazy block.
  const int depth = index > 0 ? column + columns : 0;
  T sum[kMicro][kMicro] = {};
  multiply_tile<T>(inverse_block(p, s, index) + column, int64_t{kLazy}, columns,
                   product.at(s, first) + row, stride, rows, depth, shared_a, shared_b, sum);
  each_sum(sum, columns, rows, [&](int i, int j, T change) {
    const int64_t c = first + column + i;
    const T dense = is_dead(p, s, c) ? T(0) : dense_column(p, s, c)[row + j];
    to.at(s, c)[row + j] = dense + change;
    if (begin >= 0) p.error[(s * kLazy + column + i) * stride + row + j] = -change;
  });
}

// E V of the columns behind lazy block `index`, on a trial up to the end of the wide mask block,
// grows by its errors; a tile a block.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    carry_errors(const Piece<T>* pieces, Spread spread, int index, int begin) {
  SPADE_TILE_OPERAND(T, shared_a);
  SPADE_TILE_OPERAND(T, shared_b);
  const Place at = place_of(spread, blockIdx.x);
  const Piece<T>& p = pieces[at.piece];
  const int64_t s = at.sample, stride = p.stride;
  const int first = p.partition.first(index);
  if (p.info[s] != 0) return;
  const int width = p.partition.width(index);
  const int2 tile = tile_of(at.block, p.R, kProductTile);
  const int row = tile.x, column = first + width + tile.y;
  const int64_t end = begin < 0 ? p.D : p.partition.end_of_span(begin);
  const int origin = begin < 0 ? 0 : p.partition.first(begin);
  const int columns = within(kProductTile, end - column), rows = within(kProductTile, p.R - row);
  T sum[kMicro][kMicro] = {};
  multiply_tile<T>(p.v + (s * p.D + first) * p.D + column, p.D, columns,
                   p.error + s * kLazy * stride + row, stride, rows, width, shared_a, shared_b,
                   sum);
  const T* const before = product_of(p, index > begin ? begin : -1, origin).at(s, column) + row;
  T* const after = product_of(p, begin, origin).at(s, column) + row;
  const int ld = static_cast<int>(stride);
  each_sum(sum, columns, rows, [&](int i, int j, T value) {
    if (index > 0) value += before[i * ld + j];  // 0 until then
    after[i * ld + j] = value;
  });
}

// out = Q^T of a lazy block that is done, error = its W - Q; a tile a block.
template <class T>
__global__ void __launch_bounds__(kTurnThreads)
    finish_lazy_block(const Piece<T>* pieces, Spread spread, int index) {
  SPADE_SHARED(T, tile, kTurnTile * (kTurnTile + 1));
  const Place at = place_of(spread, blockIdx.x);
  const Piece<T>& p = pieces[at.piece];
  const int64_t s = at.sample, R = p.R, D = p.D;
  const int first = p.partition.first(index);
  if (p.info[s] != 0) return;
  const int2 corner = tile_of(at.block, R, kTurnTile);
  const int64_t row = corner.x;
  const int column = corner.y, width = p.partition.width(index);
  const int lane = static_cast<int>(threadIdx.x) % kTurnTile;
  const int line = static_cast<int>(threadIdx.x) / kTurnTile;
  for (int i = line; i < kTurnTile; i += kTurnThreads / kTurnTile) {
    if (column + i >= width || row + lane >= R) continue;
    const int64_t place = (s * kLazy + column + i) * p.stride + row + lane;
    const int64_t c = first + column + i;
    const T pruned = p.state[place];
    p.error[place] = (is_dead(p, s, c) ? T(0) : dense_column(p, s, c)[row + lane]) - pruned;
    tile[i * (kTurnTile + 1) + lane] = pruned;
  }
  __syncthreads();  // the tile is complete
  for (int i = line; i < kTurnTile; i += kTurnThreads / kTurnTile)
    if (row + i < R && column + lane < width)
      p.out[(s * R + row + i) * D + first + column + lane] = tile[lane * (kTurnTile + 1) + i];
}

// `gone` of the wide mask block whose first lazy block is `begin`, a sample per block.
template <class T>
__global__ void __launch_bounds__(kBlockThreads<T>)
    select_wide(const Piece<T>* pieces, Spread spread, int begin) {
  SPADE_SELECTION_MEMORY(T, memory);
  const Place at = place_of(spread, blockIdx.x);
  const Piece<T>& p = pieces[at.piece];
  const int64_t s = at.sample;
  const int first = p.partition.first(begin);
  if (p.info[s] != 0) return;
  const int width = p.partition.end_of_span(begin) - first;
  const MaskBlock<T> block{weights_of(p, begin, begin).at(s, first),
                           p.v + (s * p.D + first) * p.D + first,
                           static_cast<int>(p.D + 1),
                           static_cast<int>(p.stride),
                           static_cast<int>(p.R),
                           width,
                           p.gone + s * p.mask * p.stride};
  if (p.n >= 0)
    select_of_row(block, p.n);
  else
    select_least(block, p.count_of(width), memory);
}

constexpr int64_t kDenseBlocks = 1024;  // of keep_dense, a sample

// out = W for samples that failed.
template <class T>
__global__ void __launch_bounds__(kTurnThreads) keep_dense(const Piece<T>* pieces, Spread spread) {
  const Place at = place_of(spread, blockIdx.x);
  const Piece<T>& p = pieces[at.piece];
  const int64_t s = at.sample, count = p.R * p.D;
  if (p.info[s] == 0) return;
  for (int64_t i = int64_t{at.block} * kTurnThreads + threadIdx.x; i < count;
       i += int64_t{spread.each[at.piece]} * kTurnThreads)
    p.out[s * count + i] = p.w[s * p.w_stride + i];
}

// info = 0 and damp_used = damp where there is nothing to prune.
template <int kThreads>
__global__ void nothing_to_prune(int64_t S, double damp, double* damp_used, int32_t* info) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (s >= S) return;
  damp_used[s] = damp;
  info[s] = 0;
}

}  // namespace spade::cuda::sparsegpt

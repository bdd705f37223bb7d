// SparseGPT inside one lazy block of at most 128 columns: choose the weights that go, mask block by
// mask block, and compensate to the right (Frantar & Alistarh, ICML 2023, Algorithm 1):
//     q_i = 0 or w_i,   e_i = (w_i - q_i) / U_ii,   w_k -= e_i U_ik for k > i.
//
// One thread block per sample; a thread keeps its rows, so only the selections need barriers.
// Columns go in groups of 16, whole mask blocks where these are no wider: a group takes the errors
// of all columns before it at once, 16 sums a row in registers, and the recurrence runs within it.
// U comes by groups through shared memory. Bound by the latency of the selections when mask blocks
// are narrow, else by L1. S samples fill S multiprocessors.
#pragma once

#include "cuda/product.cuh"
#include "cuda/sparsegpt_piece.cuh"
#include "cuda/sparsegpt_select.cuh"

namespace spade::cuda::sparsegpt {

constexpr int kGroup = 16;  // columns whose weights a thread holds at a time
template <class T>
constexpr int kBlockThreads = 2048 / sizeof(T);  // at most: registers hold a group of weights

// One sample's, and the block's shared memory. It lies in shared memory itself: registers are for
// weights.
template <class T>
struct LazyColumns {
  T *state, *error;
  uint8_t* gone;
  const T* u;
  const T* scale;  // shared [kLazy]: 1 / U_ii = V_ii
  Quad<T>* part;   // shared [kLazy, kGroup]: the columns of U of one group
  int stride, rows;
};

// part = rows [0, end) of columns [begin, end) of U, zeros up to kGroup columns.
template <class T>
__device__ __forceinline__ void load_group(const LazyColumns<T>& b, int begin, int end) {
  __syncthreads();  // the last group is done with
  for (int i = static_cast<int>(threadIdx.x); i < end * kGroup; i += static_cast<int>(blockDim.x)) {
    const int column = begin + i % kGroup;
    reinterpret_cast<T*>(b.part)[i] = column < end ? b.u[i / kGroup * kLazy + column] : T(0);
  }
  __syncthreads();  // the group is complete
}

// w = entries of the group's columns from `first` to `end` at a row of `state`, else 0.
template <class T>
__device__ __forceinline__ void load_row(const T* state, int stride, int begin, int first, int end,
                                         T (&w)[kGroup]) {
  state += begin * stride;
#pragma unroll
  for (int c = 0; c < kGroup; ++c, state += stride)
    w[c] = begin + c >= first && begin + c < end ? *state : T(0);
}

template <class T>
__device__ __forceinline__ void store_row(T* state, int stride, int begin, int first, int end,
                                          const T (&w)[kGroup]) {
  state += begin * stride;
#pragma unroll
  for (int c = 0; c < kGroup; ++c, state += stride)
    if (begin + c >= first && begin + c < end) *state = w[c];
}

// Columns [begin, end) take the errors of columns [from, to). part holds the group.
template <class T>
__device__ __forceinline__ void take_errors(const LazyColumns<T>& b, int begin, int end, int from,
                                            int to) {
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x); row < b.rows; row += static_cast<int>(blockDim.x)) {
    T w[kGroup];
    load_row(b.state + row, b.stride, begin, begin, end, w);
    const T* error = b.error + from * b.stride + row;
    for (int i = from; i < to; ++i, error += b.stride) {
      const T e = *error;
#pragma unroll
      for (int q = 0; q < kGroup / 4; ++q) {
        const Quad<T> u = b.part[i * (kGroup / 4) + q];
#pragma unroll
        for (int c = 0; c < 4; ++c) w[4 * q + c] -= e * u.at[c];
      }
    }
    store_row(b.state + row, b.stride, begin, begin, end, w);
  }
}

// Columns [first, last) of the group [begin, end) in order; those after them take their errors.
template <class T>
__device__ __forceinline__ void eliminate(const LazyColumns<T>& b, int begin, int end, int first,
                                          int last) {
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x); row < b.rows; row += static_cast<int>(blockDim.x)) {
    T w[kGroup];
    load_row(b.state + row, b.stride, begin, first, end, w);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const int column = begin + i;
      if (column < first || column >= last) continue;
      const bool goes = b.gone[column * b.stride + row];
      const T e = goes ? w[i] * b.scale[column] : T(0);
      b.error[column * b.stride + row] = e;
      if (goes) w[i] = T(0);
#pragma unroll
      for (int q = 0; q < kGroup / 4; ++q) {
        if (4 * q + 3 <= i) continue;
        const Quad<T> u = b.part[column * (kGroup / 4) + q];
#pragma unroll
        for (int c = 0; c < 4; ++c)
          if (4 * q + c > i) w[4 * q + c] -= e * u.at[c];
      }
    }
    store_row(b.state + row, b.stride, begin, first, end, w);
  }
}

// Lazy block `index` of every sample whose weights now are in `state`: on return the pruned ones.
template <class T>
__global__ void __launch_bounds__(kBlockThreads<T>, 1)
    prune_lazy_block(const Piece<T>* pieces, Spread spread, int index) {
  SPADE_SHARED(Quad<T>, part, kLazy * kGroup / 4);
  SPADE_SHARED(T, scale, kLazy);
  SPADE_SHARED(LazyColumns<T>, columns, 1);
  SPADE_SELECTION_MEMORY(T, memory);
  const Place at = place_of(spread, blockIdx.x);
  const Piece<T>& p = pieces[at.piece];
  const int64_t s = at.sample;
  if (p.info[s] != 0) return;
  const int first_column = p.partition.first(index), width = p.partition.width(index);
  const int mask = static_cast<int>(p.mask);
  if (threadIdx.x == 0) {
    const int64_t gone_at = s * p.gone_columns() + (p.wide() ? first_column % mask : 0);
    *columns = {p.state + s * kLazy * p.stride,
                p.error + s * kLazy * p.stride,
                p.gone + gone_at * p.stride,
                inverse_block(p, s, index),
                scale,
                part,
                static_cast<int>(p.stride),
                static_cast<int>(p.R)};
  }
  const LazyColumns<T>& b = *columns;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    const int column = first_column + i;
    scale[i] = p.v[(s * p.D + column) * p.D + column];
  }
  const auto select = [&](int first, int last) {
    const MaskBlock<T> block{
        b.state + first * b.stride, scale + first, 1, b.stride, b.rows, last - first,
        b.gone + first * b.stride};
    if (p.n >= 0)
      select_of_row(block, p.n);
    else
      select_least(block, p.count_of(last - first), memory);
  };

  __syncthreads();  // columns and scale are complete
  const bool narrow = mask <= kGroup;
  const int span = narrow ? kGroup / mask * mask : min(mask, width);
  for (int begin = 0; begin < width; begin += span) {
    const int end = min(begin + span, width);
    for (int group = begin; begin > 0 && group < end; group += kGroup) {
      const int group_end = min(group + kGroup, end);
      load_group(b, group, group_end);
      take_errors(b, group, group_end, 0, begin);
    }
    if (!narrow && mask <= kLazy) select(begin, end);  // of wide ones `gone` is there already
    for (int group = begin; group < end; group += kGroup) {
      const int group_end = min(group + kGroup, end);
      load_group(b, group, group_end);
      if (group > begin) take_errors(b, group, group_end, begin, group);
      if (narrow)
        for (int first = group; first < group_end; first += mask) {
          const int last = min(first + mask, group_end);
          select(first, last);
          eliminate(b, group, group_end, first, last);
        }
      else
        eliminate(b, group, group_end, group, group_end);
    }
  }
}

}  // namespace spade::cuda::sparsegpt

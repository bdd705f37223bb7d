// SparseGPT inside one lazy block of at most 128 columns: choose the weights that go, mask block by
// mask block, and compensate to the right (Frantar & Alistarh, ICML 2023, Algorithm 1):
//     q_i = 0 or w_i,   e_i = (w_i - q_i) / U_ii,   w_k -= e_i U_ik for k > i.
//
// One thread block a sample; a thread keeps its rows, so only the selections need barriers. Columns
// go in groups of 16, whole mask blocks where these are no wider: a group takes the errors of all
// columns before it at once, 16 sums a row in registers, and the recurrence runs within it. U comes
// by groups through shared memory. Bound by the latency of the selections when mask blocks are
// narrow, else by L1. S samples fill S multiprocessors.
#pragma once

#include "cuda/product.cuh"
#include "cuda/sparsegpt_select.cuh"

namespace spade::cuda::sparsegpt {

constexpr int kLazy = 128;          // columns of a lazy block
constexpr int kGroup = 16;          // columns whose weights a thread holds at a time
constexpr int kBlockThreads = 512;  // at most

struct LazyStep {
  const float* v;       // [S, D, D]
  const float* u;       // U_bb of the lazy block, upper; sample s at u + s * u_stride
  const int32_t* info;  // [S]
  float* state;         // [S, kLazy, stride]: weights now; on return the pruned ones
  float* error;         // [S, kLazy, stride]: e of the columns so far
  uint8_t* gone;        // [S, gone_columns, stride]: 1 where the weight goes
  int64_t D, u_stride, gone_columns;
  int stride, rows;
  int64_t first;  // column of the lazy block
  int width;
  int mask;                    // columns of a mask block
  int gone_first;              // -1: choose; else `gone` is given from this column of it on
  int n;                       // of each mask block in a row go; -1: unstructured
  unsigned count, last_count;  // weights that go from a mask block, from a narrower one (W's last)
};

struct LazyColumns {  // one sample's, and the block's shared memory
  float *state, *error;
  uint8_t* gone;
  const float* u;
  const float* scale;  // shared [kLazy]: 1 / U_ii = V_ii
  Quad<float>* part;   // shared [kLazy, kGroup]: the columns of U of one group
  int stride, rows;
};

// part = rows [0, end) of columns [begin, end) of U, zeros up to kGroup columns.
__device__ __forceinline__ void load_group(const LazyColumns& b, int begin, int end) {
  __syncthreads();  // the last group is done with
  for (int i = static_cast<int>(threadIdx.x); i < end * kGroup; i += static_cast<int>(blockDim.x)) {
    const int column = begin + i % kGroup;
    reinterpret_cast<float*>(b.part)[i] = column < end ? b.u[i / kGroup * kLazy + column] : 0.0f;
  }
  __syncthreads();  // the group is complete
}

// w = entries of the group's columns from `first` to `end` at a row of `state`, else 0.
__device__ __forceinline__ void load_row(const float* state, int stride, int begin, int first,
                                         int end, float (&w)[kGroup]) {
  state += begin * stride;
#pragma unroll
  for (int c = 0; c < kGroup; ++c, state += stride)
    w[c] = begin + c >= first && begin + c < end ? *state : 0.0f;
}

__device__ __forceinline__ void store_row(float* state, int stride, int begin, int first, int end,
                                          const float (&w)[kGroup]) {
  state += begin * stride;
#pragma unroll
  for (int c = 0; c < kGroup; ++c, state += stride)
    if (begin + c >= first && begin + c < end) *state = w[c];
}

// Columns [begin, end) take the errors of columns [from, to). part holds the group.
__device__ __forceinline__ void take_errors(const LazyColumns& b, int begin, int end, int from,
                                            int to) {
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x); row < b.rows; row += static_cast<int>(blockDim.x)) {
    float w[kGroup];
    load_row(b.state + row, b.stride, begin, begin, end, w);
    const float* error = b.error + from * b.stride + row;
    for (int i = from; i < to; ++i, error += b.stride) {
      const float e = *error;
#pragma unroll
      for (int q = 0; q < kGroup / 4; ++q) {
        const Quad<float> u = b.part[i * (kGroup / 4) + q];
#pragma unroll
        for (int c = 0; c < 4; ++c) w[4 * q + c] -= e * u.at[c];
      }
    }
    store_row(b.state + row, b.stride, begin, begin, end, w);
  }
}

// Columns [first, last) of the group [begin, end) in order; those after them take their errors.
__device__ __forceinline__ void eliminate(const LazyColumns& b, int begin, int end, int first,
                                          int last) {
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x); row < b.rows; row += static_cast<int>(blockDim.x)) {
    float w[kGroup];
    load_row(b.state + row, b.stride, begin, first, end, w);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const int column = begin + i;
      if (column < first || column >= last) continue;
      const bool goes = b.gone[column * b.stride + row];
      const float e = goes ? w[i] * b.scale[column] : 0.0f;
      b.error[column * b.stride + row] = e;
      if (goes) w[i] = 0.0f;
#pragma unroll
      for (int q = 0; q < kGroup / 4; ++q) {
        if (4 * q + 3 <= i) continue;
        const Quad<float> u = b.part[column * (kGroup / 4) + q];
#pragma unroll
        for (int c = 0; c < 4; ++c)
          if (4 * q + c > i) w[4 * q + c] -= e * u.at[c];
      }
    }
    store_row(b.state + row, b.stride, begin, first, end, w);
  }
}

__global__ void __launch_bounds__(kBlockThreads) prune_lazy_block(LazyStep step) {
  SPADE_SHARED(Quad<float>, part, kLazy * kGroup / 4);
  SPADE_SHARED(float, scale, kLazy);
  SPADE_SELECTION_MEMORY(memory);
  const int64_t s = blockIdx.x;
  if (step.info[s] != 0) return;
  const int64_t at = s * kLazy * step.stride;
  const int64_t gone_at = s * step.gone_columns + max(step.gone_first, 0);
  const LazyColumns b{step.state + at,
                      step.error + at,
                      step.gone + gone_at * step.stride,
                      step.u + s * step.u_stride,
                      scale,
                      part,
                      step.stride,
                      step.rows};
  for (int i = static_cast<int>(threadIdx.x); i < step.width; i += static_cast<int>(blockDim.x)) {
    const int64_t column = step.first + i;
    scale[i] = step.v[(s * step.D + column) * step.D + column];
  }
  const auto select = [&](int first, int last) {
    const MaskBlock block{
        b.state + first * b.stride, scale + first, 1, b.stride, b.rows, last - first,
        b.gone + first * b.stride};
    if (step.n >= 0)
      select_of_row(block, step.n);
    else
      select_least(block, last - first == step.mask ? step.count : step.last_count, memory);
  };

  const bool narrow = step.mask <= kGroup;
  const int span = narrow ? kGroup / step.mask * step.mask : min(step.mask, step.width);
  for (int begin = 0; begin < step.width; begin += span) {
    const int end = min(begin + span, step.width);
    for (int group = begin; begin > 0 && group < end; group += kGroup) {
      const int group_end = min(group + kGroup, end);
      load_group(b, group, group_end);
      take_errors(b, group, group_end, 0, begin);
    }
    __syncthreads();  // scale is complete
    if (!narrow && step.gone_first < 0) select(begin, end);
    for (int group = begin; group < end; group += kGroup) {
      const int group_end = min(group + kGroup, end);
      load_group(b, group, group_end);
      if (group > begin) take_errors(b, group, group_end, begin, group);
      if (narrow)
        for (int first = group; first < group_end; first += step.mask) {
          const int last = min(first + step.mask, group_end);
          select(first, last);
          eliminate(b, group, group_end, first, last);
        }
      else
        eliminate(b, group, group_end, group, group_end);
    }
  }
}

}  // namespace spade::cuda::sparsegpt

// Which weights of a mask block go, decided by one thread block; each thread keeps the rows
// threadIdx.x, threadIdx.x + blockDim.x, ... and writes `gone` for them only.
//
// Unstructured: the exact order statistic of the scores' bits, eight bits at a time. A pass counts,
// among the scores that share the digits found so far, how many have each next digit; the passes
// end as soon as a whole bin goes. Scores that tie at the threshold go by lowest row-major index:
// their ranks come from a scan over the rows.
#pragma once

#include "cuda/launch.h"

namespace spade::cuda::sparsegpt {

constexpr int kBins = 256;      // of eight bits
constexpr int kMostWarps = 32;  // of a thread block

template <class T>
constexpr int kDigits = sizeof(T);

template <class T>
struct MaskBlock {
  const T* w;      // [width, stride]: weights now
  const T* scale;  // 1 / U_jj of column j at scale[j * scale_stride]
  int scale_stride, stride, rows, width;
  uint8_t* gone;  // [width, stride]: out
};

struct SelectionMemory {  // shared
  unsigned* bins;         // [kDigits<T>, kBins]
  unsigned* chosen;       // [3]: digit, scores below it, scores in its bin
  unsigned* warps;        // [kMostWarps]
};

#define SPADE_SELECTION_MEMORY(T, name)                                                \
  SPADE_SHARED(unsigned, name##_bins,                                                  \
               ::spade::cuda::sparsegpt::kDigits<T>* ::spade::cuda::sparsegpt::kBins); \
  SPADE_SHARED(unsigned, name##_chosen, 3);                                            \
  SPADE_SHARED(unsigned, name##_warps, ::spade::cuda::sparsegpt::kMostWarps);          \
  const ::spade::cuda::sparsegpt::SelectionMemory name { name##_bins, name##_chosen, name##_warps }

// Bits in the order of the scores |w / U_jj|, which is that of their squares; the sign is shifted
// out.
__device__ __forceinline__ unsigned ordered_bits(float score) {
  return __float_as_uint(score) << 1;
}
__device__ __forceinline__ uint64_t ordered_bits(double score) {
  return static_cast<uint64_t>(__double_as_longlong(score)) << 1;
}

template <class T>
__device__ __forceinline__ auto score_key(const MaskBlock<T>& b, int row, int column) {
  const T z = b.w[column * b.stride + row] * b.scale[int64_t{column} * b.scale_stride];
  return ordered_bits(z);
}

// For warp 0: the bin that holds the rank-th (from 1) of the scores counted in `bins`.
__device__ __forceinline__ void choose_digit(const unsigned* bins, unsigned rank,
                                             unsigned* chosen) {
  constexpr int kOwn = kBins / 32;
  const int lane = static_cast<int>(threadIdx.x);
  unsigned own[kOwn], sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) sum += own[i] = bins[lane * kOwn + i];
  unsigned upto = sum;  // of this lane's bins and all before
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const unsigned before = __shfl_up_sync(~0u, upto, static_cast<unsigned>(by));
    if (lane >= by) upto += before;
  }
  unsigned below = upto - sum;
  if (rank <= below || rank > upto) return;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (rank > below && rank <= below + own[i]) {
      chosen[0] = static_cast<unsigned>(lane * kOwn + i);
      chosen[1] = below;
      chosen[2] = own[i];
    }
    below += own[i];
  }
}

// Sum of `value` over the threads before this one; `total` over all. Every thread of the block.
__device__ __forceinline__ unsigned sum_before(unsigned value, unsigned* warps, unsigned* total) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  unsigned upto = value;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const unsigned before = __shfl_up_sync(~0u, upto, static_cast<unsigned>(by));
    if (lane >= by) upto += before;
  }
  if (lane == 31) warps[warp] = upto;
  __syncthreads();  // the sums of all warps are there
  unsigned sum = upto - value;
  *total = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / 32; ++i) {
    if (i < warp) sum += warps[i];
    *total += warps[i];
  }
  __syncthreads();  // they are read
  return sum;
}

// gone = 1 for the first `rank` scores equal to `key` in row-major order and for all below.
template <class T, class Key>
__device__ __forceinline__ void mark_with_ties(const MaskBlock<T>& b, Key key, unsigned rank,
                                               unsigned* warps) {
  unsigned taken = 0;  // ties in earlier rows
  for (int first = 0; first < b.rows; first += static_cast<int>(blockDim.x)) {
    const int row = first + static_cast<int>(threadIdx.x);
    unsigned ties = 0, total;
    if (row < b.rows)
      for (int c = 0; c < b.width; ++c) ties += score_key(b, row, c) == key;
    unsigned index = taken + sum_before(ties, warps, &total);
    taken += total;
    if (row >= b.rows) continue;
    for (int c = 0; c < b.width; ++c) {
      const Key own = score_key(b, row, c);
      b.gone[c * b.stride + row] = own < key || (own == key && index++ < rank);
    }
  }
}

// gone = 1 for the `count` least scores of the block; ties: lowest row-major index.
template <class T>
__device__ __forceinline__ void select_least(const MaskBlock<T>& b, unsigned count,
                                             const SelectionMemory& memory) {
  using Key = decltype(ordered_bits(T()));
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  Key digits = 0;             // of the threshold
  int shift = 8 * sizeof(T);  // bits of the key that are not among them
  if (count == 0 || count == static_cast<unsigned>(b.rows) * static_cast<unsigned>(b.width)) {
    for (int row = thread; row < b.rows; row += threads)
      for (int c = 0; c < b.width; ++c) b.gone[c * b.stride + row] = count > 0;
    return;
  }
  for (int i = thread; i < kDigits<T> * kBins; i += threads) memory.bins[i] = 0;
  __syncthreads();  // bins are empty
  unsigned rank = count, equal = 0;
  for (int digit = 0; digit < kDigits<T> && rank != equal; ++digit) {
    unsigned* bins = memory.bins + digit * kBins;
    for (int row = thread; row < b.rows; row += threads)
      for (int c = 0; c < b.width; ++c) {
        const Key key = score_key(b, row, c);
        if (digit == 0 || key >> shift == digits) atomicAdd(bins + (key >> (shift - 8) & 255), 1u);
      }
    __syncthreads();  // all are counted
    if (thread < 32) choose_digit(bins, rank, memory.chosen);
    __syncthreads();  // the digit is chosen
    digits = digits << 8 | memory.chosen[0];
    rank -= memory.chosen[1];
    equal = memory.chosen[2];
    shift -= 8;
  }
  if (rank != equal) {
    mark_with_ties(b, digits, rank, memory.warps);
    return;
  }
  for (int row = thread; row < b.rows; row += threads)
    for (int c = 0; c < b.width; ++c)
      b.gone[c * b.stride + row] = score_key(b, row, c) >> shift <= digits;
}

// gone = 1 for the n least scores of each row; ties: lowest column.
template <class T>
__device__ __forceinline__ void select_of_row(const MaskBlock<T>& b, int n) {
  for (int row = static_cast<int>(threadIdx.x); row < b.rows; row += static_cast<int>(blockDim.x))
    for (int c = 0; c < b.width; ++c) {
      const auto own = score_key(b, row, c);
      int before = 0;
      for (int k = 0; k < b.width; ++k) {
        const auto other = score_key(b, row, k);
        before += other < own || (other == own && k < c);
      }
      b.gone[c * b.stride + row] = before < n;
    }
}

}  // namespace spade::cuda::sparsegpt

// What the kernels of SparseGPT know of some samples of one layer. Arrays of rows are stored
// [column, row].
#pragma once

#include "cuda/spread.cuh"

namespace spade::cuda::sparsegpt {

constexpr int kLazy = 128;  // columns of a lazy block, at most

// Lazy blocks start anew at each span of columns: a wide mask block, or the lazy block itself. In
// unsigned 32 bits: D + span < 2^32, and 64-bit divisions would cost kernels a call.
struct Partition {
  unsigned D, span, lazy;

  __host__ __device__ unsigned per_span() const { return (span + lazy - 1) / lazy; }
  __host__ __device__ int count() const {
    return static_cast<int>(D / span * per_span() + (D % span + lazy - 1) / lazy);
  }
  __host__ __device__ int first(int index) const {
    const unsigned i = static_cast<unsigned>(index);
    return static_cast<int>(i / per_span() * span + i % per_span() * lazy);
  }
  __host__ __device__ int end_of_span(int index) const {
    return static_cast<int>(min(D, (static_cast<unsigned>(index) / per_span() + 1) * span));
  }
  __host__ __device__ int width(int index) const {
    return min(static_cast<int>(lazy), end_of_span(index) - first(index));
  }
};

template <class T>
struct Piece {
  const T* w;  // sample s at w + s * w_stride: [R, D]
  int64_t w_stride;
  const T* h;         // [S, D, D]
  T* out;             // [S, R, D]
  double* damp_used;  // [S]
  int32_t* info;      // [S]
  int64_t S, R, D;
  int64_t stride;  // of columns: R, or a little more
  int64_t mask;    // columns of a mask block
  Partition partition;
  int n;                       // of each mask block in a row go; -1: unstructured
  unsigned count, last_count;  // weights that go from a mask block, from a narrower one (W's last)
  // Scratch memory.
  T* v;              // [S, D, D]: V
  T* u;              // [S, lazy blocks, kLazy, kLazy]: U_bb
  T* dense;          // [1 or S, D, stride]: W^T
  T* product;        // [S, D, stride]: E V
  T* state;          // [S, kLazy, stride]: weights of the lazy block now, then the pruned ones
  T* error;          // [S, kLazy, stride]: e of its columns so far, then W - Q
  uint8_t* gone;     // [S, kLazy or mask, stride]: 1 where the weight goes
  T* trial_product;  // [S, mask, stride]: E V if nothing of the wide mask block goes
  T* trial;          // [S, mask, stride]: its weights then

  // A mask block is wider than a lazy block.
  __host__ __device__ bool wide() const { return mask > kLazy; }
  __host__ __device__ int64_t gone_columns() const { return wide() ? mask : kLazy; }
  __host__ __device__ int64_t dense_samples() const { return w_stride ? S : 1; }
  __host__ __device__ unsigned count_of(int width) const {
    return width == mask ? count : last_count;
  }
};

// Columns from `first` on of an array [S, columns, stride].
template <class T>
struct Columns {
  T* data;
  int64_t first, columns, stride;

  __device__ T* at(int64_t s, int64_t column) const {
    return data + (s * columns + column - first) * stride;
  }
};

template <class T>
__device__ __forceinline__ const T* dense_column(const Piece<T>& p, int64_t s, int64_t column) {
  return p.dense + ((p.w_stride ? s : 0) * p.D + column) * p.stride;
}

template <class T>
__device__ __forceinline__ bool is_dead(const Piece<T>& p, int64_t s, int64_t column) {
  return p.h[(s * p.D + column) * p.D + column] == 0;
}

template <class T>
__device__ __forceinline__ T* inverse_block(const Piece<T>& p, int64_t s, int index) {
  return p.u + (s * p.partition.count() + index) * kLazy * kLazy;
}

}  // namespace spade::cuda::sparsegpt

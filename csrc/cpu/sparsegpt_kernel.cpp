// SparseGPT inside a lazy block: q_i = w_i or 0, e_i = (w_i - q_i) / U_ii, w_k -= e_i U_ik for k >
// i.
//
// A call works on kRowChunk rows, contiguous in each column, so every operation is a full vector.
// The recurrence runs over a few columns at a time (eliminate); the rest of the lazy block takes
// their errors together (update): one load and store of a weight for a dozen FMA. Bound by L2.

#include "cpu/sparsegpt_kernel.h"

#include "cpu/simd.h"

namespace spade {
namespace SPADE_ISA {
namespace {

template <class T>
void eliminate(const LazyBlock<T>& b, int64_t first, int64_t last, int64_t end, int64_t row) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t i = first; i < last; ++i) {
    T* w = b.w + i * b.stride + row;
    T* error = b.error + i * b.stride + row;
    const uint8_t* gone = b.gone + i * b.stride + row;
    const T inverse = T(1) / b.u[i * b.width + i];
    for (int64_t r = 0; r < kRowChunk; ++r) {
      error[r] = gone[r] ? w[r] * inverse : T(0);
      w[r] = gone[r] ? T(0) : w[r];
    }
    for (int64_t k = i + 1; k < end; ++k) {
      T* to = b.w + k * b.stride + row;
      const Vec<T> u = splat(b.u[i * b.width + k]);
      for (int64_t r = 0; r < kRowChunk; r += L) store(to + r, load(to + r) - load(error + r) * u);
    }
  }
}

// kColumns columns at a time share the loads of the errors.
template <class T, int kColumns>
void update_columns(const LazyBlock<T>& b, int64_t first, int64_t end, int64_t k, int64_t row) {
  constexpr int L = Simd<T>::lanes, kVectors = 2;
  for (int64_t r = row; r < row + kRowChunk; r += kVectors * L) {
    Vec<T> sum[kColumns][kVectors];
#pragma GCC unroll 16
    for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[c][v] = load(b.w + (k + c) * b.stride + r + v * L);
    for (int64_t i = first; i < end; ++i) {
      Vec<T> e[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) e[v] = load(b.error + i * b.stride + r + v * L);
#pragma GCC unroll 16
      for (int c = 0; c < kColumns; ++c) {
        const Vec<T> u = splat(b.u[i * b.width + k + c]);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sum[c][v] -= e[v] * u;
      }
    }
#pragma GCC unroll 16
    for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) store(b.w + (k + c) * b.stride + r + v * L, sum[c][v]);
  }
}

template <class T>
void update(const LazyBlock<T>& b, int64_t first, int64_t end, int64_t row) {
  int64_t k = end;
  for (; k + 4 <= b.width; k += 4) update_columns<T, 4>(b, first, end, k, row);
  for (; k < b.width; ++k) update_columns<T, 1>(b, first, end, k, row);
}

template <class T>
void score(const T* w, T inverse, T* out) {
  constexpr int L = Simd<T>::lanes;
  const Vec<T> scale = splat(inverse);
  for (int64_t r = 0; r < kRowChunk; r += L) {
    const Vec<T> s = load(w + r) * scale;
    store(out + r, s * s);
  }
}

}  // namespace

#define SPADE_DEFINE_SPARSEGPT(T)                                                               \
  void sparsegpt_eliminate(const LazyBlock<T>& block, int64_t first, int64_t last, int64_t end, \
                           int64_t row) {                                                       \
    eliminate(block, first, last, end, row);                                                    \
  }                                                                                             \
  void sparsegpt_update(const LazyBlock<T>& block, int64_t first, int64_t end, int64_t row) {   \
    update(block, first, end, row);                                                             \
  }                                                                                             \
  void sparsegpt_score(const T* w, T inverse, T* out) { score(w, inverse, out); }
SPADE_DEFINE_SPARSEGPT(float)
SPADE_DEFINE_SPARSEGPT(double)
#undef SPADE_DEFINE_SPARSEGPT

}  // namespace SPADE_ISA
}  // namespace spade

// SparseGPT inside a lazy block: q_i = w_i or 0, e_i = (w_i - q_i) / U_ii, w_k -= e_i U_ik for k >
// i.
//
// A call works on kRowChunk rows, contiguous in each column, so every operation is a full vector.
// Bound by L1 and L2.

#include "cpu/sparsegpt_kernel.h"

#include <algorithm>
#include <limits>

#include "cpu/simd.h"

namespace spade {
namespace SPADE_ISA {
namespace {

template <class T>
void eliminate(const LazyBlock<T>& b, int64_t first, int64_t last) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t i = first; i < last; ++i) {
    T* __restrict w = b.w + i * kRowChunk;
    T* __restrict error = b.error + i * kRowChunk;
    const uint8_t* __restrict gone = b.gone + i * kRowChunk;
    const T inverse = T(1) / b.u[-i * kLazy - i];
    for (int64_t r = 0; r < kRowChunk; ++r) {
      error[r] = gone[r] ? w[r] * inverse : T(0);
      w[r] = gone[r] ? T(0) : w[r];
    }
    for (int64_t k = i + 1; k < last; ++k) {
      T* to = b.w + k * kRowChunk;
      const Vec<T> u = splat(b.u[-k * kLazy - i]);
      for (int64_t r = 0; r < kRowChunk; r += L) store(to + r, load(to + r) - load(error + r) * u);
    }
  }
}

template <class T>
void score(const T* w, T inverse, int64_t rows, T* out) {
  constexpr int L = Simd<T>::lanes;
  const Vec<T> scale = splat(inverse);
  for (int64_t r = 0; r < kRowChunk; r += L) {
    const Vec<T> s = load(w + r) * scale;
    store(out + r, s < Vec<T>{} ? -s : s);
  }
  std::fill(out + rows, out + kRowChunk, std::numeric_limits<T>::quiet_NaN());
}

// Comparisons give integers of all ones, which sum to the count; few enough a lane not to overflow.
template <class T>
int64_t count(const T* values, int64_t n, T limit) {
  constexpr int L = Simd<T>::lanes;
  constexpr int64_t kPiece = int64_t{1} << 30;
  const Vec<T> most = splat(limit);
  int64_t total = 0;
  for (int64_t first = 0; first < n; first += kPiece) {
    decltype(most <= most) sum[4] = {};
    for (int64_t i = first; i < std::min(n, first + kPiece); i += 4 * L)
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) sum[q] -= load(values + i + q * L) <= most;
    const auto all = sum[0] + sum[1] + (sum[2] + sum[3]);
    for (int l = 0; l < L; ++l) total += all[l];
  }
  return total;
}

template <class T>
void mark(const T* scores, T limit, uint8_t* gone) {
  for (int64_t r = 0; r < kRowChunk; ++r) gone[r] = scores[r] <= limit;
}

// Row i of U from those below it: V_ii U_i = e_i - sum_{k > i} V_ik U_k.
template <class T>
void invert(const T* v, int64_t n, T* u) {
  constexpr int L = Simd<T>::lanes, kVectors = 4;
  for (int64_t i = n - 1; i >= 0; --i) {
    const T scale = T(1) / v[i * kLazy + i];
    for (int64_t j = 0; j < kLazy; j += kVectors * L) {
      Vec<T> sum[kVectors] = {};
      for (int64_t k = i + 1; k < std::min(n, j + kVectors * L); ++k)
#pragma GCC unroll 16
        for (int q = 0; q < kVectors; ++q)
          sum[q] -= splat(v[i * kLazy + k]) * load(u + k * kLazy + j + q * L);
#pragma GCC unroll 16
      for (int q = 0; q < kVectors; ++q) store(u + i * kLazy + j + q * L, sum[q] * splat(scale));
    }
    u[i * kLazy + i] = scale;
  }
}

}  // namespace

#define SPADE_DEFINE_SPARSEGPT(T)                                                                  \
  void sparsegpt_eliminate(const LazyBlock<T>& block, int64_t first, int64_t last) {               \
    eliminate(block, first, last);                                                                 \
  }                                                                                                \
  void sparsegpt_score(const T* w, T inverse, int64_t rows, T* out) {                              \
    score(w, inverse, rows, out);                                                                  \
  }                                                                                                \
  int64_t sparsegpt_count(const T* values, int64_t n, T limit) { return count(values, n, limit); } \
  void sparsegpt_mark(const T* scores, T limit, uint8_t* gone) { mark(scores, limit, gone); }      \
  void sparsegpt_invert(const T* v, int64_t n, T* u) { invert(v, n, u); }
SPADE_DEFINE_SPARSEGPT(float)
SPADE_DEFINE_SPARSEGPT(double)
#undef SPADE_DEFINE_SPARSEGPT

}  // namespace SPADE_ISA
}  // namespace spade

// Products of packed panels (panels.h) in registers.
//
// A register tile holds M rows of a (broadcast) by W vectors of b: at AVX-512, 24 accumulators and
// 10 or 11 loads for 24 FMA a step. A panel of b of a few hundred rows comes from L2. Bound by FMA.

#include <algorithm>
#include <cmath>

#include "cpu/panels.h"
#include "cpu/simd.h"

namespace spade {
namespace SPADE_ISA {
namespace {

constexpr int64_t kFetchEvery = 2;  // steps of a register tile to one line of the next operands

template <class T, int M, int W>
inline void multiply(const Product<T>& p, Sum sum, int64_t i, int64_t j, const char*& next) {
  constexpr int L = Simd<T>::lanes;
  Vec<T> s[M][W];
#pragma GCC unroll 16
  for (int r = 0; r < M; ++r)
#pragma GCC unroll 16
    for (int q = 0; q < W; ++q) s[r][q] = Vec<T>{};
#pragma GCC unroll 16
  for (int r = 0; r < M; ++r)  // one entry's cache line each: all of them while the sums run
#pragma GCC unroll 16
    for (int q = 0; q < W; ++q) __builtin_prefetch(p.c + (i + r) * p.c_row + j + q * L, 1);
  const T *a = p.a + i * p.a_row, *b = p.b + j;
  const int64_t row = p.a_row, step = p.a_step, b_step = p.b_step;
  const char* fetched = next;
  for (int64_t k = 0; k < p.k; ++k, a += step, b += b_step) {
    if (k % kFetchEvery == 0) {
      __builtin_prefetch(fetched, 0, 2);
      fetched += 64;
    }
    Vec<T> v[W];
#pragma GCC unroll 16
    for (int q = 0; q < W; ++q) v[q] = load(b + q * L);
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r) {
      const Vec<T> x = splat(a[r * row]);
#pragma GCC unroll 16
      for (int q = 0; q < W; ++q) s[r][q] += x * v[q];
    }
  }
  next = fetched;
#pragma GCC unroll 16
  for (int r = 0; r < M; ++r)
#pragma GCC unroll 16
    for (int q = 0; q < W; ++q) {
      T* c = p.c + (i + r) * p.c_row + j + q * L;
      store(c, sum == Sum::set ? s[r][q] : sum == Sum::add ? load(c) + s[r][q] : load(c) - s[r][q]);
    }
}

template <class T, int M, int W>
void multiply_columns(const Product<T>& p, Sum sum, int64_t j, const char*& next) {
  int64_t i = 0;
  for (; i + M <= p.m; i += M) multiply<T, M, W>(p, sum, i, j, next);
  for (; i + 2 <= p.m; i += 2) multiply<T, 2, W>(p, sum, i, j, next);
  if (i < p.m) multiply<T, 1, W>(p, sum, i, j, next);
}

// Three vectors at a time for panels, four for rows in powers of two.
template <class T>
void multiply_all(const Product<T>& p, Sum sum) {
  constexpr int L = Simd<T>::lanes, kRegisters = kVectorBytes == 64 ? 24 : 12;
  const char* next = reinterpret_cast<const char*>(p.next ? p.next : p.b);
  int64_t j = 0;
  if (p.n % (3 * L) == 0)
    for (; j < p.n; j += 3 * L) multiply_columns<T, kRegisters / 3, 3>(p, sum, j, next);
  else
    for (; j < p.n; j += 4 * L) multiply_columns<T, kRegisters / 4, 4>(p, sum, j, next);
}

// to -= x * from over a row of a tile
template <class T>
inline void subtract(T* to, T x, const T* from) {
  constexpr int L = Simd<T>::lanes;
#pragma GCC unroll 16
  for (int64_t j = 0; j < kPanel; j += L) store(to + j, load(to + j) - splat(x) * load(from + j));
}

template <class T>
inline void scale(T* row, T x) {
  for (int64_t j = 0; j < kPanel; ++j) row[j] *= x;
}

template <class T>
bool factor(T* tile, T* inverse, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    T* row = tile + i * kPanel;
    if (!(row[i] > 0)) return false;
    std::fill(row, row + i, T(0));
    scale(row, T(1) / std::sqrt(row[i]));
    for (int64_t k = i + 1; k < n; ++k) subtract(tile + k * kPanel, row[k], row);
  }
  for (int64_t i = kPanel - 1; i >= 0; --i) {
    T* row = inverse + i * kPanel;
    std::fill(row, row + kPanel, T(0));
    row[i] = T(1);
    if (i >= n) continue;
    for (int64_t k = i + 1; k < n; ++k) subtract(row, tile[i * kPanel + k], inverse + k * kPanel);
    scale(row, T(1) / tile[i * kPanel + i]);
  }
  return true;
}

// U_sJ = U_ss^-T (A_sJ - sum_{t < s} U_ts^T U_tJ), tile by tile.
template <class T>
void solve(const T* const* left, const T* inverses, int64_t k, T* panel) {
  alignas(64) T right[kPanel * kPanel];
  for (int64_t s = 0; s < k / kPanel; ++s) {
    T* tile = panel + s * kPanel * kPanel;
    if (s > 0)
      multiply_all<T>({left[s], 1, kPanel, panel, kPanel, s * kPanel, tile, kPanel, kPanel, kPanel},
                      Sum::subtract);
    std::copy(tile, tile + kPanel * kPanel, right);
    multiply_all<T>({inverses + s * kPanel * kPanel, 1, kPanel, right, kPanel, kPanel, tile, kPanel,
                     kPanel, kPanel},
                    Sum::set);
  }
}

}  // namespace

#define SPADE_DEFINE_PANELS(T)                                                           \
  void product(const Product<T>& p, Sum sum) { multiply_all(p, sum); }                   \
  bool panel_factor(T* tile, T* inverse, int64_t n) { return factor(tile, inverse, n); } \
  void panel_solve(const T* const* left, const T* inverses, int64_t k, T* panel) {       \
    solve(left, inverses, k, panel);                                                     \
  }
SPADE_DEFINE_PANELS(float)
SPADE_DEFINE_PANELS(double)
#undef SPADE_DEFINE_PANELS

}  // namespace SPADE_ISA
}  // namespace spade

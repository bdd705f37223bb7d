// Gram of one output tile (gram.h): kGramRows rows of a segment at a time, every pair of packed
// tiles is multiplied into a partial sum.
//
// A register tile holds kM columns of a (broadcast) by three vectors of b: at AVX-512, 24
// accumulators and 11 loads for 24 FMA a row. Each starts at zero and is added to the partial sum
// at the end: chains of kGramRows and of kPromote / kGramRows terms round less than one of
// kPromote. Bound by FMA; segments shorter than about 16 rows by loads and stores of the partial
// sums.

#include "cpu/gram.h"
#include "cpu/simd.h"

namespace spade {
namespace SPADE_ISA {
namespace {

constexpr int kM = kVectorBytes == 64 ? 8 : 4;  // columns of a in a register tile
constexpr int64_t kTileSquare = kGramColumns * kGramColumns;

// to (row stride kGramColumns) = or += a^T b over k rows, `stride` apart: kM columns of a, W
// vectors of b. kM k entries from `next` are fetched into L2 meanwhile.
template <class T, int W>
inline void multiply(const T* a, const T* b, int64_t stride, int64_t k, bool first, T* to,
                     const T* next) {
  constexpr int L = Simd<T>::lanes;
  Vec<T> sum[kM][W];
#pragma GCC unroll 16
  for (int p = 0; p < kM; ++p)
#pragma GCC unroll 16
    for (int q = 0; q < W; ++q) {
      sum[p][q] = Vec<T>{};
      __builtin_prefetch(to + p * kGramColumns + q * L, 1);  // from L2 while the sums run
    }
  for (int64_t row = 0; row < k; ++row, a += stride, b += stride, next += kM) {
    __builtin_prefetch(next, 0, 2);
    Vec<T> v[W];
#pragma GCC unroll 16
    for (int q = 0; q < W; ++q) v[q] = load(b + q * L);
#pragma GCC unroll 16
    for (int p = 0; p < kM; ++p) {
      const Vec<T> x = splat(a[p]);
#pragma GCC unroll 16
      for (int q = 0; q < W; ++q) sum[p][q] += x * v[q];
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kM; ++p)
#pragma GCC unroll 16
    for (int q = 0; q < W; ++q) {
      T* cell = to + p * kGramColumns + q * L;
      store(cell, first ? sum[p][q] : load(cell) + sum[p][q]);
    }
}

// A pair of packed tiles, m columns of a by n of b; the register tiles that reach the lower
// triangle if `lower`.
template <class T>
void multiply_pair(const T* a, const T* b, int64_t stride, int64_t k, int64_t m, int64_t n,
                   bool lower, bool first, T* partial, const T* next) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t i = 0; i < m; i += kM) {
    const int64_t columns = lower ? std::min(n, i + kM) : n;
    T* to = partial + i * kGramColumns;
    for (int64_t j = 0; j < columns; j += 3 * L) {
      if (columns - j > 2 * L)
        multiply<T, 3>(a + i, b + j, stride, k, first, to + j, next + i * k);
      else if (columns - j > L)
        multiply<T, 2>(a + i, b + j, stride, k, first, to + j, next + i * k);
      else
        multiply<T, 1>(a + i, b + j, stride, k, first, to + j, next + i * k);
    }
  }
}

// fn(i, j, m, n) of every pair of packed tiles; of the lower ones if symmetric.
template <class T, class Fn>
void each_pair(const GramTask<T>& task, Fn&& fn) {
  const int64_t width = task.rows.width;
  for (int64_t i = 0; i * width < task.m; ++i)
    for (int64_t j = 0; j * width < task.n && (j <= i || !task.symmetric); ++j)
      fn(i, j, std::min(width, task.m - i * width), std::min(width, task.n - j * width));
}

inline int64_t partial_offset(int64_t i, int64_t j) {
  return (i * (kGramWidth / kGramColumns) + j) * kTileSquare;
}

// Meanwhile pair (j, j) brings tile j of b of the rows that follow to L2, and its neighbour one of
// a: packed rows are as many entries as the steps of a pair take.
template <class T>
void multiply_block(const GramTask<T>& task, int64_t row_a, int64_t row_b, int64_t k, bool first,
                    T* partial) {
  const TiledRows<T>& rows = task.rows;
  const int64_t count = (task.n + rows.width - 1) / rows.width, ahead = k * rows.row_stride;
  each_pair(task, [&](int64_t i, int64_t j, int64_t m, int64_t n) {
    const T* a = rows.at(row_a, task.a + i * rows.width);
    const T* b = rows.at(row_b, task.b + j * rows.width);
    const T* next = i == j ? b + ahead : j == (i + 1) % count ? a + ahead : b;
    multiply_pair(a, b, rows.row_stride, k, m, n, task.symmetric && i == j, first,
                  partial + partial_offset(i, j), next);
  });
}

template <class T>
void promote(const GramTask<T>& task, const T* partial) {
  const int64_t width = task.rows.width;
  each_pair(task, [&](int64_t i, int64_t j, int64_t m, int64_t n) {
    const T* from = partial + partial_offset(i, j);
    double* to = task.out + i * width * task.ldo + j * width;
    for (int64_t r = 0; r < m; ++r) {
      const int64_t columns = task.symmetric && i == j ? r + 1 : n;
      for (int64_t c = 0; c < columns; ++c)
        to[r * task.ldo + c] += static_cast<double>(from[r * kGramColumns + c]);
    }
  });
}

template <class T>
void gram_of(const GramTask<T>& task, const std::vector<Segment>& segments, T* partial) {
  int64_t summed = 0;  // rows in partial
  for (const Segment& segment : segments)
    for (int64_t k = 0; k < segment.length;) {
      const int64_t count = std::min({segment.length - k, kGramRows, kPromote - summed});
      multiply_block(task, segment.a + k, segment.b + k, count, summed == 0, partial);
      k += count;
      summed += count;
      if (summed == kPromote && task.out) {
        promote(task, partial);
        summed = 0;
      }
    }
  if (summed && task.out) promote(task, partial);
}

}  // namespace

void gram(const GramTask<float>& task, const std::vector<Segment>& segments, float* partial) {
  gram_of(task, segments, partial);
}

void gram(const GramTask<double>& task, const std::vector<Segment>& segments, double* partial) {
  gram_of(task, segments, partial);
}

}  // namespace SPADE_ISA
}  // namespace spade

// Gram of one output tile (gram.h): kGramRows rows of a segment at a time, every pair of packed
// tiles is multiplied into a partial sum.
//
// A register tile holds M columns of a (broadcast) by W vectors of b: at AVX-512, 16 accumulators
// and 10 loads for 16 FMA a row. Two packed tiles come from L2 for 32 x 32 products a row. Bound by
// FMA; segments shorter than about 16 rows by loads and stores of the partial sums.

#include "cpu/gram.h"
#include "cpu/simd.h"

namespace spade {
namespace SPADE_ISA {
namespace {

constexpr int kM = kVectorBytes == 64 ? 8 : 4;  // columns of a in a register tile
constexpr int64_t kTileSquare = kGramColumns * kGramColumns;

// partial (row stride 32) = or += a^T b over k rows, `stride` apart; W vectors of b at a time.
template <class T, int W>
void multiply(const T* a, const T* b, int64_t stride, int64_t k, int64_t m, int64_t n, bool first,
              T* partial) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t j = 0; j < n; j += W * L)
    for (int64_t i = 0; i < m; i += kM) {
      T* to = partial + i * kGramColumns + j;
      Vec<T> sum[kM][W];
#pragma GCC unroll 16
      for (int p = 0; p < kM; ++p)
#pragma GCC unroll 16
        for (int q = 0; q < W; ++q)
          sum[p][q] = first ? Vec<T>{} : load(to + p * kGramColumns + q * L);
      const T *left = a + i, *right = b + j;
      for (int64_t row = 0; row < k; ++row, left += stride, right += stride) {
        Vec<T> v[W];
#pragma GCC unroll 16
        for (int q = 0; q < W; ++q) v[q] = load(right + q * L);
#pragma GCC unroll 16
        for (int p = 0; p < kM; ++p)
#pragma GCC unroll 16
          for (int q = 0; q < W; ++q) sum[p][q] += splat(left[p]) * v[q];
      }
#pragma GCC unroll 16
      for (int p = 0; p < kM; ++p)
#pragma GCC unroll 16
        for (int q = 0; q < W; ++q) store(to + p * kGramColumns + q * L, sum[p][q]);
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

template <class T>
void multiply_block(const GramTask<T>& task, int64_t row_a, int64_t row_b, int64_t k, bool first,
                    T* partial) {
  const TiledRows<T>& rows = task.rows;
  each_pair(task, [&](int64_t i, int64_t j, int64_t m, int64_t n) {
    const T* a = rows.at(row_a, task.a + i * rows.width);
    const T* b = rows.at(row_b, task.b + j * rows.width);
    if (n <= Simd<T>::lanes)
      multiply<T, 1>(a, b, rows.row_stride, k, m, n, first, partial + partial_offset(i, j));
    else
      multiply<T, 2>(a, b, rows.row_stride, k, m, n, first, partial + partial_offset(i, j));
  });
}

template <class T>
void promote(const GramTask<T>& task, const T* partial) {
  const int64_t width = task.rows.width;
  each_pair(task, [&](int64_t i, int64_t j, int64_t m, int64_t n) {
    const T* from = partial + partial_offset(i, j);
    double* to = task.out + i * width * task.ldo + j * width;
    for (int64_t r = 0; r < m; ++r)
      for (int64_t c = 0; c < n; ++c)
        to[r * task.ldo + c] += static_cast<double>(from[r * kGramColumns + c]);
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
      if (summed == kPromote) {
        promote(task, partial);
        summed = 0;
      }
    }
  if (summed) promote(task, partial);
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

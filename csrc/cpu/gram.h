// Grams of rows: out += sum_k a_k b_k^T in double, from products of T summed over short runs.
//
// One tile of the output belongs to one caller and its sum has one order, so that threads do not change a
// bit. A run of kPromote rows is a BLAS product; its result goes to double, which keeps the error of H
// near that of a single run however many samples there are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/blas.h"

namespace spade {

constexpr int64_t kPromote = 1024;  // rows summed in T; the promotion then costs 4 % of a 128 x 128 product
constexpr int64_t kGramTile = 192;  // widest tile: its sums in T and double stay in L2

// `length` rows from row `a` of the left operand and row `b` of the right one.
struct Segment {
  int64_t a, b, length;
};

// Width of equal tiles, at most kGramTile, that cover n columns.
inline int64_t gram_width(int64_t n) {
  const int64_t count = std::max<int64_t>(1, (n + kGramTile - 1) / kGramTile);
  return std::max<int64_t>(1, ((n + count - 1) / count + 15) / 16 * 16);
}

// Tile pairs (I, J), I >= J, of n columns.
inline std::vector<std::pair<int64_t, int64_t>> lower_tiles(int64_t n) {
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t I = 0; I * gram_width(n) < n; ++I)
    for (int64_t J = 0; J <= I; ++J) pairs.emplace_back(I, J);
  return pairs;
}

// out (m x n, row stride ldo) += sum over segments of A^T B; rows of a and b are ld apart.
// partial: m x n, contents lost.
template <class T>
void gram(const T* a, const T* b, int64_t ld, const std::vector<Segment>& segments, int64_t m,
          int64_t n, double* out, int64_t ldo, T* partial) {
  int64_t summed = 0;
  const auto promote = [&] {
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) out[i * ldo + j] += static_cast<double>(partial[i * n + j]);
    summed = 0;
  };
  for (const Segment& s : segments)
    for (int64_t k = 0; k < s.length;) {
      const int64_t rows = std::min(s.length - k, kPromote - summed);
      blas::gemm(blas::kYes, blas::kNo, m, n, rows, T(1), a + (s.a + k) * ld, ld,
                 b + (s.b + k) * ld, ld, summed ? T(1) : T(0), partial, n);
      k += rows;
      summed += rows;
      if (summed == kPromote) promote();
    }
  if (summed) promote();
}

// Copy the lower tile (I, J) of h to the upper triangle.
inline void mirror_tile(double* h, int64_t n, int64_t I, int64_t J) {
  const int64_t width = gram_width(n), rows = std::min(n, (I + 1) * width),
                columns = std::min(n, (J + 1) * width);
  for (int64_t j = J * width; j < columns; ++j)
    for (int64_t i = std::max(I * width, j + 1); i < rows; ++i) h[j * n + i] = h[i * n + j];
}

}  // namespace spade

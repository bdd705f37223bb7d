// Which weights of a mask block go.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace spade {

// floor(sparsity * n) where rounding must not lose one: 0.95 x 20 counts as 19.
inline int64_t block_count(double sparsity, int64_t n, int64_t extra) {
  const double exact = sparsity * static_cast<double>(n);
  return std::min(n, static_cast<int64_t>(std::floor(exact + 1e-6)) + extra);
}

// Set gone for the `count` least scores of rows x width; ties: lowest row-major index.
// scores, gone: [width, stride]. values: scratch.
template <class T>
void select_block(const T* scores, int64_t rows, int64_t width, int64_t stride, int64_t count,
                  uint8_t* gone, std::vector<T>& values) {
  for (int64_t c = 0; c < width; ++c) std::fill_n(gone + c * stride, rows, uint8_t(0));
  if (count == 0) return;
  values.clear();
  for (int64_t c = 0; c < width; ++c)
    values.insert(values.end(), scores + c * stride, scores + c * stride + rows);
  std::nth_element(values.begin(), values.begin() + (count - 1), values.end());
  const T threshold = values[count - 1];
  int64_t below = 0, equal = 0;
  for (int64_t c = 0; c < width; ++c) {
    int64_t b = 0, e = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const T s = scores[c * stride + r];
      gone[c * stride + r] = s <= threshold;
      b += s < threshold;
      e += s == threshold;
    }
    below += b;
    equal += e;
  }
  // Of the weights at the threshold, the last ones in row-major order stay.
  int64_t surplus = below + equal - count;
  for (int64_t r = rows - 1; r >= 0 && surplus > 0; --r)
    for (int64_t c = width - 1; c >= 0 && surplus > 0; --c)
      if (scores[c * stride + r] == threshold) {
        gone[c * stride + r] = 0;
        --surplus;
      }
}

// Set gone for the n least of the m scores of each row; ties: lowest column. scores, gone: [m,
// stride].
template <class T>
void select_nm(const T* scores, int64_t rows, int64_t n, int64_t m, int64_t stride, uint8_t* gone) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < m; ++c) {
      const T s = scores[c * stride + r];
      int64_t before = 0;  // weights of the group that go earlier
      for (int64_t k = 0; k < m; ++k)
        before += scores[k * stride + r] < s || (scores[k * stride + r] == s && k < c);
      gone[c * stride + r] = before < n;
    }
}

}  // namespace spade

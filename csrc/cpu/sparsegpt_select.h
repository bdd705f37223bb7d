// Which weights of a mask block go.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace spade {

// floor(sparsity * n) where rounding must not lose one: 0.95 x 20 counts as 19.
inline int64_t block_count(double sparsity, int64_t n, int64_t extra) {
  const double exact = sparsity * static_cast<double>(n);
  return std::min(n, static_cast<int64_t>(std::floor(exact + 1e-6)) + extra);
}

constexpr int kRadixBits = 11;  // sign excluded: the exponent, and three bits more of a float

template <class T>
struct SelectionScratch {
  std::vector<int32_t> histogram = std::vector<int32_t>(size_t{1} << kRadixBits);
  std::vector<T> values;
};

// Bits of a score >= 0 that order it roughly.
template <class T>
size_t radix(T score) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Bits bits;
  std::memcpy(&bits, &score, sizeof bits);
  return (bits >> (8 * sizeof(T) - 1 - kRadixBits)) & ((size_t{1} << kRadixBits) - 1);
}

template <class T>
struct Threshold {
  T value;          // the count-th least score
  int64_t surplus;  // scores up to it, less count: ties that stay
};

// The count-th least of rows x width scores >= 0, 1 <= count: counted by leading bits, then exactly
// among those that share its leading bits.
template <class T>
Threshold<T> find_threshold(const T* scores, int64_t rows, int64_t width, int64_t stride,
                            int64_t count, SelectionScratch<T>& scratch) {
  auto& histogram = scratch.histogram;
  std::fill(histogram.begin(), histogram.end(), 0);
  for (int64_t c = 0; c < width; ++c)
    for (int64_t r = 0; r < rows; ++r) ++histogram[radix(scores[c * stride + r])];
  size_t bucket = 0;
  int64_t below = 0;  // scores in earlier buckets
  for (; below + histogram[bucket] < count; ++bucket) below += histogram[bucket];
  auto& values = scratch.values;
  values.resize(static_cast<size_t>(histogram[bucket]) + 1);
  size_t n = 0;
  for (int64_t c = 0; c < width; ++c)
    for (int64_t r = 0; r < rows; ++r) {
      values[n] = scores[c * stride + r];
      n += radix(values[n]) == bucket;
    }
  const auto end = values.begin() + histogram[bucket];
  const auto kth = values.begin() + (count - below - 1);
  std::nth_element(values.begin(), kth, end);
  const auto equal = std::count(kth, end, *kth);  // besides those before it
  return {*kth, below + (kth - values.begin()) + equal - count};
}

// Set gone for the `count` least scores of rows x width; ties: lowest row-major index.
// scores, gone: [width, stride].
template <class T>
void select_block(const T* scores, int64_t rows, int64_t width, int64_t stride, int64_t count,
                  uint8_t* gone, SelectionScratch<T>& scratch) {
  if (count == 0) {
    for (int64_t c = 0; c < width; ++c) std::fill_n(gone + c * stride, rows, uint8_t(0));
    return;
  }
  Threshold<T> threshold = find_threshold(scores, rows, width, stride, count, scratch);
  for (int64_t c = 0; c < width; ++c)
    for (int64_t r = 0; r < rows; ++r)
      gone[c * stride + r] = scores[c * stride + r] <= threshold.value;
  // Of the weights at the threshold, the last ones in row-major order stay.
  for (int64_t r = rows - 1; r >= 0 && threshold.surplus > 0; --r)
    for (int64_t c = width - 1; c >= 0 && threshold.surplus > 0; --c)
      if (scores[c * stride + r] == threshold.value) {
        gone[c * stride + r] = 0;
        --threshold.surplus;
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

// Which weights of a mask block go.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/isa.h"
#include "cpu/sparsegpt_kernel.h"

namespace spade {

// Scores >= 0 of a mask block and where its choice goes; scores beyond the last row are NaN.
template <class T>
struct MaskBlock {
  const T* scores;  // [chunks, width, kRowChunk]
  uint8_t* gone;    // [chunks, span, kRowChunk]
  int64_t rows, width, span;

  int64_t chunks() const { return (rows + kRowChunk - 1) / kRowChunk; }
  const T& score(int64_t r, int64_t c) const {
    return scores[(r / kRowChunk * width + c) * kRowChunk + r % kRowChunk];
  }
  uint8_t& goes(int64_t r, int64_t c) const {
    return gone[(r / kRowChunk * span + c) * kRowChunk + r % kRowChunk];
  }
};

// The bits of a number >= 0, in the order of numbers, and back.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
template <class To, class From>
To same_bits(From from) {
  To to;
  static_assert(sizeof to == sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// The `count` least scores go; ties: lowest row-major index. Bisection of the bits of the limit:
// passes over the scores cost a compare each, and about log2(n) + 8 of them isolate it.
template <class T>
void select_least(const MaskBlock<T>& block, int64_t count) {
  const int64_t n = block.chunks() * block.width * kRowChunk;
  // low: fewer than `count` scores are at most that (or none may go); high: at least as many.
  Bits<T> low = 0, high = same_bits<Bits<T>>(std::numeric_limits<T>::infinity());
  int64_t at_most = block.rows * block.width;
  T limit = same_bits<T>(high);
  if (count == 0) limit = T(-1), at_most = 0;
  while (at_most > count && low < high) {
    const Bits<T> middle = low + (high - low) / 2;
    const int64_t found = SPADE_DISPATCH(sparsegpt_count(block.scores, n, same_bits<T>(middle)));
    if (found >= count) {
      high = middle;
      at_most = found;
      limit = same_bits<T>(high);
    } else {
      low = middle + 1;
    }
  }
  for (int64_t chunk = 0; chunk < block.chunks(); ++chunk)
    for (int64_t c = 0; c < block.width; ++c)
      SPADE_DISPATCH(sparsegpt_mark(block.scores + (chunk * block.width + c) * kRowChunk, limit,
                                    block.gone + (chunk * block.span + c) * kRowChunk));
  // Of the weights at the limit, the last ones in row-major order stay.
  int64_t surplus = at_most - count;
  for (int64_t r = block.rows - 1; r >= 0 && surplus > 0; --r)
    for (int64_t c = block.width - 1; c >= 0 && surplus > 0; --c)
      if (block.score(r, c) == limit) {
        block.goes(r, c) = 0;
        --surplus;
      }
}

// The n least scores of each row go; ties: lowest column.
template <class T>
void select_nm(const MaskBlock<T>& block, int64_t n) {
  for (int64_t r = 0; r < block.rows; ++r)
    for (int64_t c = 0; c < block.width; ++c) {
      const T s = block.score(r, c);
      int64_t before = 0;  // weights of the group that go earlier
      for (int64_t k = 0; k < block.width; ++k)
        before += block.score(r, k) < s || (block.score(r, k) == s && k < c);
      block.goes(r, c) = before < n;
    }
}

}  // namespace spade

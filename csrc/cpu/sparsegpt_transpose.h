// Transposes between rows of a matrix, D apart, and columns of kRowChunk rows.
//
// Both walk four rows of the matrix from end to end: rows whose distance is a power of two share
// cache sets, so few of them may be open at once, and each line is read or written whole.
#pragma once

#include <algorithm>

#include "cpu/sparsegpt_kernel.h"
#include "cpu/transpose4.h"

namespace spade {

// to [width, kRowChunk] = `rows` rows of w, and zeros.
template <class T>
void transpose_in(const T* w, int64_t D, int64_t rows, int64_t width, T* to) {
  const int64_t whole_rows = rows / 4 * 4, whole = width / 4 * 4;
  for (int64_t r = 0; r < whole_rows; r += 4)
    for (int64_t c = 0; c < whole; c += 4)
      transpose4(w + r * D + c, D, to + c * kRowChunk + r, kRowChunk);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = r < whole_rows ? whole : 0; c < width; ++c)
      to[c * kRowChunk + r] = w[r * D + c];
  for (int64_t c = 0; c < width; ++c)
    std::fill(to + c * kRowChunk + rows, to + (c + 1) * kRowChunk, T(0));
}

// `rows` rows of out = from [width, kRowChunk].
template <class T>
void transpose_out(const T* from, int64_t D, int64_t rows, int64_t width, T* out) {
  const int64_t whole_rows = rows / 4 * 4, whole = width / 4 * 4;
  for (int64_t r = 0; r < whole_rows; r += 4)
    for (int64_t c = 0; c < whole; c += 4)
      transpose4(from + c * kRowChunk + r, kRowChunk, out + r * D + c, D);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = r < whole_rows ? whole : 0; c < width; ++c)
      out[r * D + c] = from[c * kRowChunk + r];
}

}  // namespace spade

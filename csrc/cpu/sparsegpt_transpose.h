// Transposes between rows of a matrix, D apart, and columns of kRowChunk rows.
//
// Both walk four rows of the matrix from end to end: rows whose distance is a power of two share
// cache sets, so few of them may be open at once, and each line is read or written whole.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/sparsegpt_kernel.h"

namespace spade {

// to[c * to_row + r] = from[r * from_row + c] for 4 x 4 entries.
template <class T>
inline void transpose4(const T* from, int64_t from_row, T* to, int64_t to_row) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index;
  typedef Index Order __attribute__((vector_size(4 * sizeof(T))));
  constexpr Order low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5},
                  second = {2, 3, 6, 7};
  Four row[4];
  for (int r = 0; r < 4; ++r) std::memcpy(&row[r], from + r * from_row, sizeof(Four));
  const Four a = __builtin_shuffle(row[0], row[1], low), b = __builtin_shuffle(row[2], row[3], low),
             c = __builtin_shuffle(row[0], row[1], high),
             d = __builtin_shuffle(row[2], row[3], high);
  const Four column[4] = {__builtin_shuffle(a, b, first), __builtin_shuffle(a, b, second),
                          __builtin_shuffle(c, d, first), __builtin_shuffle(c, d, second)};
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_row, &column[i], sizeof(Four));
}

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

// Transposes by 4 x 4 entries in registers.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

// Four entries of a and b; 4 to 7 are b's. A macro, as GCC before 12 and Clang name this
// differently and a function would pass double vectors wider than the registers of a plain build.
#if defined(__clang__)
#define SPADE_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SPADE_PICK(a, b, ...) __builtin_shuffle(a, b, Order{__VA_ARGS__})
#endif

namespace spade {

template <class T>
struct Four {
  typedef T type __attribute__((vector_size(4 * sizeof(T))));
};

// to[c * to_row + r] = from[r][c], r and c below 4.
template <class T>
inline void transpose4(const T* const (&from)[4], T* to, int64_t to_row) {
  using V = typename Four<T>::type;
  using Order [[maybe_unused]] =
      typename Four<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>::type;
  V r[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&r[i], from[i], sizeof(V));
  const V a = SPADE_PICK(r[0], r[1], 0, 4, 1, 5), b = SPADE_PICK(r[2], r[3], 0, 4, 1, 5),
          c = SPADE_PICK(r[0], r[1], 2, 6, 3, 7), d = SPADE_PICK(r[2], r[3], 2, 6, 3, 7);
  const V columns[4] = {SPADE_PICK(a, b, 0, 1, 4, 5), SPADE_PICK(a, b, 2, 3, 6, 7),
                        SPADE_PICK(c, d, 0, 1, 4, 5), SPADE_PICK(c, d, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_row, &columns[i], sizeof(V));
}

// The same of rows `from_row` apart.
template <class T>
inline void transpose4(const T* from, int64_t from_row, T* to, int64_t to_row) {
  transpose4({from, from + from_row, from + 2 * from_row, from + 3 * from_row}, to, to_row);
}

// to[c * to_row + r] = from[r * from_row + c], r < rows and c < columns.
template <class T>
inline void transpose(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to,
                      int64_t to_row) {
  const int64_t whole_rows = rows / 4 * 4, whole = columns / 4 * 4;
  for (int64_t c = 0; c < whole; c += 4)
    for (int64_t r = 0; r < whole_rows; r += 4)
      transpose4(from + r * from_row + c, from_row, to + c * to_row + r, to_row);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = r < whole_rows ? whole : 0; c < columns; ++c)
      to[c * to_row + r] = from[r * from_row + c];
}

}  // namespace spade

#undef SPADE_PICK

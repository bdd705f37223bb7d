// Columns of a packed symmetric matrix (obc_kernel.h).
//
// Column p is row p of the tiles left of the diagonal and column p of those below it; in both, a
// tile holds its 16 entries in four lines. Those of a matrix beyond L2 are asked for some tiles
// early.
#pragma once

#include "cpu/obc_kernel.h"
#include "cpu/simd.h"

namespace spade {
namespace SPADE_ISA {

// How many tiles: of a matrix of m columns within L2, none.
template <class T>
int64_t tiles_ahead(int64_t m) {
  constexpr int64_t l2 = 1 << 20;
  return packed_size(m) * static_cast<int64_t>(sizeof(T)) < l2 ? m : 8;
}

// Walks down column p: the four lines of tile I start at `lines`, `stride` apart.
template <class T>
struct ColumnWalk {
  ColumnWalk(T* matrix, int64_t p)
      : P(p / kObcTile),
        lane(static_cast<int>(p % 4)),
        row(matrix + tile_offset(P, 0) + p % kObcTile / 4 * 64 + lane * 4),
        column(matrix + tile_offset(P, P) + p % kObcTile / 4 * 16) {}

  T* row_lines(int64_t I) const { return row + I * kObcTileSize; }
  T* column_lines(int64_t I) const { return column + (tile_offset(I, 0) - tile_offset(P, 0)); }

  // Inlined by force: GCC takes a function that only prefetches for one without effect and drops
  // the calls.
  __attribute__((always_inline)) void prefetch(int64_t I) const {
    const T* lines = I < P ? row_lines(I) : column_lines(I);
    const int64_t stride = I < P ? 16 : 64;
    for (int q = 0; q < 4; ++q) __builtin_prefetch(lines + q * stride);
  }

  int64_t P;
  int lane;  // p % 4
  T *row, *column;
};

// out[0, 16) = the column's entries in tile I, left of the diagonal (a row of the tile) or not.
// With AVX-512 a line of floats is one register: four masked loads, or four loads and three
// permutes. With AVX2 it is half of one. Whole registers are written, because a load that spans
// several stores waits for them.
template <bool left, class T>
inline void read_tile(const ColumnWalk<const T>& walk, int64_t I, T* out) {
  const T* lines = left ? walk.row_lines(I) : walk.column_lines(I);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    __m512 entries;
    if (left) {
      entries = _mm512_castps128_ps512(_mm_loadu_ps(lines));
      entries = _mm512_mask_broadcast_f32x4(entries, 0x00f0, _mm_loadu_ps(lines + 16));
      entries = _mm512_mask_broadcast_f32x4(entries, 0x0f00, _mm_loadu_ps(lines + 32));
      entries = _mm512_mask_broadcast_f32x4(entries, 0xf000, _mm_loadu_ps(lines + 48));
    } else {
      const __m512i lanes = _mm512_add_epi32(
          _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28),
          _mm512_set1_epi32(walk.lane));
      entries = _mm512_mask_blend_ps(
          0xff00,
          _mm512_permutex2var_ps(_mm512_loadu_ps(lines), lanes, _mm512_loadu_ps(lines + 64)),
          _mm512_permutex2var_ps(_mm512_loadu_ps(lines + 128), lanes,
                                 _mm512_loadu_ps(lines + 192)));
    }
    _mm512_storeu_ps(out, entries);
    return;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    for (int q = 0; q < 4; q += 2) {
      __m256 entries;
      if (left) {
        entries = _mm256_loadu2_m128(lines + (q + 1) * 16, lines + q * 16);
      } else {
        const __m256i lanes = _mm256_add_epi32(_mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4),
                                               _mm256_set1_epi32(walk.lane));
        const auto two = [&](int at) {
          return _mm256_permutevar8x32_ps(_mm256_loadu_ps(lines + at), lanes);
        };
        entries = _mm256_blend_ps(_mm256_blend_ps(two(q * 64), two(q * 64 + 8), 0x0c),
                                  _mm256_blend_ps(two(q * 64 + 64), two(q * 64 + 72), 0xc0), 0xf0);
      }
      _mm256_storeu_ps(out + q * 4, entries);
    }
    return;
  }
#endif
  for (int q = 0; q < 4; ++q)
    for (int k = 0; k < 4; ++k)
      out[q * 4 + k] = left ? lines[q * 16 + k] : lines[q * 64 + k * 4 + walk.lane];
}

// The column's entries in tile I = in[0, 16), left of the diagonal or not.
template <bool left, class T>
inline void write_tile(const ColumnWalk<T>& walk, int64_t I, const T* in) {
  T* lines = left ? walk.row_lines(I) : walk.column_lines(I);
#if defined(__AVX512F__)
  if constexpr (!left && sizeof(T) == 4) {
    const __m512 entries = _mm512_loadu_ps(in);
    const __mmask16 mask = static_cast<__mmask16>(0x1111 << walk.lane);
    __m512i from = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    for (int q = 0; q < 4; ++q, from = _mm512_add_epi32(from, _mm512_set1_epi32(4)))
      _mm512_mask_storeu_ps(lines + q * 64, mask, _mm512_maskz_permutexvar_ps(mask, from, entries));
    return;
  }
#endif
  for (int q = 0; q < 4; ++q)
    for (int k = 0; k < 4; ++k)
      lines[left ? q * 16 + k : q * 64 + k * 4 + walk.lane] = in[q * 4 + k];
}

// Column `from` takes the place of column `to` < `from`. Row `from` of the tiles left of its
// diagonal goes to row `to` and, below the diagonal of `to`, to its column; the two tiles that are
// both read and written are read first.
template <class T>
inline void move_column(T* matrix, int64_t from, int64_t to, int64_t ahead) {
  const ColumnWalk<const T> source(matrix, from);
  const ColumnWalk<T> target(matrix, to);
  const int64_t P = target.P, last = source.P;
  alignas(64) T entries[kObcTile], first[kObcTile], corner[kObcTile];
  P < last ? read_tile<true>(source, P, first) : read_tile<false>(source, P, first);
  read_tile<false>(source, last, corner);
  for (int64_t I = 0; I < P; ++I) {
    if (I + ahead < last) source.prefetch(I + ahead);
    for (int q = 0; q < 4; ++q)
      std::memcpy(target.row_lines(I) + q * 16, source.row_lines(I) + q * 16, 4 * sizeof(T));
  }
  for (int64_t I = P + 1; I < last; ++I) {
    if (I + ahead < last) source.prefetch(I + ahead);
    read_tile<true>(source, I, entries);
    write_tile<false>(target, I, entries);
  }
  write_tile<true>(target, P, first);
  write_tile<false>(target, P, first);
  if (P < last) write_tile<false>(target, last, corner);
}

}  // namespace SPADE_ISA
}  // namespace spade

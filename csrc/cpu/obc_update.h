// The trailing update of blocked OBC: A <- A - U U^T on packed lower tiles (SYRK of rank b).
//
// A 4 x 4 block of A is one AVX-512 register of floats: block += (rows of U, each entry four times)
// * (columns of U, the four repeated). Expanded rows are built once per tile row and stay in L1;
// columns are broadcast from the panel in L2. Work m^2 b flop for m^2/2 entries read and written:
// bound by FMA as long as memory gives 16 / b bytes a flop.
#pragma once

#include <algorithm>

#include "cpu/obc_kernel.h"
#include "cpu/simd.h"

namespace spade {
namespace SPADE_ISA {

constexpr int kBlockBytesOfPanel = 256 * 1024;  // columns of U kept in L2 while tile rows go by
constexpr int kFetchEvery = 2;                  // 32 steps fetch the 16 lines of a tile of floats

// dst = src - U_I U_J^T on P x Q blocks of a tile, from block (p0, q0). expanded: [b, 4, 16],
// columns: [b, 16]. Meanwhile what the next tile needs is fetched: its own `columns`, from L2, and
// one line of the matrix every kFetchEvery steps.
template <class T, int P, int Q>
inline void update_blocks(const T* src, T* dst, const T* expanded, const T* columns,
                          const T* next_columns, int64_t b, int p0, int q0) {
  constexpr int L = Simd<T>::lanes, N = 16 / L;  // N vectors a block
  Vec<T> sum[P][Q][N];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 16
      for (int v = 0; v < N; ++v) sum[p][q][v] = Vec<T>{};
  const T* e = expanded + p0 * 16;
  const T* c = columns + q0 * 4;
  constexpr int line = 64 / static_cast<int>(sizeof(T));
  const T* next = src + kObcTileSize;
  for (int64_t t = 0; t < b; t += kFetchEvery, next += line) {
    __builtin_prefetch(next, 1);
#pragma GCC unroll 4
    for (int i = 0; i < kFetchEvery * kObcTile; i += line, next_columns += line)
      __builtin_prefetch(next_columns);
#pragma GCC unroll 16
    for (int k = 0; k < kFetchEvery; ++k, e += 64, c += 16)
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
        for (int v = 0; v < N; ++v) {
          const Vec<T> a = load(e + p * 16 + v * L);
#pragma GCC unroll 16
          for (int q = 0; q < Q; ++q) sum[p][q][v] -= a * load4(c + q * 4, v % 2);
        }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 16
      for (int v = 0; v < N; ++v) {
        const int64_t at = ((p0 + p) * 4 + q0 + q) * 16 + v * L;
        store(dst + at, sum[p][q][v] + load(src + at));
      }
}

// Accumulators fill at most half (AVX-512) or two thirds of the registers.
template <class T>
inline void update_tile(const T* src, T* dst, const T* expanded, const T* columns,
                        const T* next_columns, int64_t b) {
  constexpr int N = 16 / Simd<T>::lanes;
  constexpr int blocks = (kVectorBytes == 64 ? 16 : 8) / N;
  constexpr int Q = blocks >= 4 ? 4 : blocks, P = blocks / Q;
  for (int p = 0; p < 4; p += P)
    for (int q = 0; q < 4; q += Q)
      update_blocks<T, P, Q>(src, dst, expanded, columns, next_columns, b, p, q);
}

// rows of U, each entry four times
template <class T>
inline void expand(const T* rows, int64_t b, T* expanded) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t t = 0; t < b; ++t, rows += kObcTile, expanded += 64)
    for (int i = 0; i < 64; i += L) {
      Vec<T> four;
      for (int l = 0; l < L; ++l) four[l] = rows[(i + l) / 4];
      store(expanded + i, four);
    }
}

// dst = src - U U^T for the leading `count` tile rows. panel: [tiles, stride, 16], first b used.
template <class T>
void update_matrix(const T* src, T* dst, const T* panel, int64_t stride, int64_t b, int64_t count,
                   T* expanded) {
  const int64_t chunk =
      std::max<int64_t>(1, kBlockBytesOfPanel / (b * kObcTile * static_cast<int64_t>(sizeof(T))));
  for (int64_t first = 0; first < count; first += chunk)
    for (int64_t I = first; I < count; ++I) {
      const T* columns = panel + first * stride * kObcTile;
      expand(panel + I * stride * kObcTile, b, expanded);
      for (int64_t J = first; J < std::min(first + chunk, I + 1); ++J, columns += stride * kObcTile)
        update_tile(src + tile_offset(I, J), dst + tile_offset(I, J), expanded, columns,
                    columns + stride * kObcTile, b);
    }
}

}  // namespace SPADE_ISA
}  // namespace spade

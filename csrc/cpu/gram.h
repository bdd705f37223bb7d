// Grams of rows: out += sum_k a_k b_k^T in double, from float sums over at most kPromote rows.
//
// One tile of the output belongs to one caller and its sum has one order, so that threads do not
// change a bit. Promotion to double keeps the error of H near that of one short run however many
// samples there are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/buffer.h"
#include "core/isa.h"

namespace spade {

constexpr int64_t kGramRows = 64;     // rows multiplied at a time: two tiles of them stay in L1
constexpr int64_t kGramColumns = 48;  // widest packed tile
constexpr int64_t kGramWidth =
    192;  // widest output tile: kGramRows of its columns and its sums stay in L2
constexpr int64_t kPromote = 4096;  // rows summed in T before they go to double

// `length` rows from row `a` of the left operand and row `b` of the right one.
struct Segment {
  int64_t a, b, length;
};

// Rows in tiles of `width` columns: where entry (row, column) lies, and nothing beyond the last
// column but zeros up to a full tile.
template <class T>
struct TiledRows {
  const T* data;
  int64_t width, row_stride, tile_stride;

  const T* at(int64_t row, int64_t column) const {
    return data + column / width * tile_stride + row * row_stride + column % width;
  }
};

// Width of equal packed tiles, at most kGramColumns, that cover n columns: whole vectors.
inline int64_t packed_width(int64_t n) {
  const int64_t count = std::max<int64_t>(1, (n + kGramColumns - 1) / kGramColumns);
  return std::max<int64_t>(16, ((n + count - 1) / count + 15) / 16 * 16);
}

// Rows packed as [tiles, rows, width]: a walk down the rows of a tile is contiguous.
template <class T>
struct PackedRows {
  PackedRows(int64_t row_count, int64_t column_count)
      : rows(row_count),
        columns(column_count),
        width(packed_width(column_count)),
        tiles((column_count + width - 1) / width),
        data(tiles * rows * width) {}

  int64_t rows, columns, width, tiles;
  Buffer<T> data;

  TiledRows<T> view() const { return {data.get(), width, width, rows * width}; }
  T* at(int64_t row, int64_t column) const { return const_cast<T*>(view().at(row, column)); }
  // Zero what is beyond the last column, in rows [first, last).
  void clear_rest(int64_t first, int64_t last) const {
    for (int64_t column = columns; column < tiles * width; ++column)
      for (int64_t row = first; row < last; ++row) *at(row, column) = T(0);
  }
};

// The products of one output tile: m columns of `rows` from column a, n from column b (multiples of
// the packed width).
template <class T>
struct GramTask {
  TiledRows<T> rows;
  int64_t a, b, m, n;
  bool symmetric;  // a = b and the same rows on both sides: the lower triangle is enough
  double* out;     // [m, ldo], added to; or null: sums stay in `partial`, see gram()
  int64_t ldo;
};

// Width of equal output tiles, at most kGramWidth, that cover n columns.
inline int64_t gram_width(int64_t n) {
  if (n == 0) return kGramColumns;
  const int64_t count = (n + kGramWidth - 1) / kGramWidth;
  return ((n + count - 1) / count + kGramColumns - 1) / kGramColumns * kGramColumns;
}

// Output tiles (I, J), I >= J, of n columns, `width` of them a tile.
inline std::vector<std::pair<int64_t, int64_t>> lower_tiles(int64_t n, int64_t width) {
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t I = 0; I * width < n; ++I)
    for (int64_t J = 0; J <= I; ++J) pairs.emplace_back(I, J);
  return pairs;
}

// Copy the lower tile (I, J) of h to the upper triangle, by 8 x 8 entries: whole cache lines.
template <class T>
void mirror_tile(T* h, int64_t n, int64_t I, int64_t J) {
  const int64_t width = gram_width(n), rows = std::min(n, (I + 1) * width),
                columns = std::min(n, (J + 1) * width);
  for (int64_t i0 = I * width; i0 < rows; i0 += 8)
    for (int64_t j0 = J * width; j0 < std::min(columns, i0 + 8); j0 += 8)
      for (int64_t i = i0; i < std::min(rows, i0 + 8); ++i)
        for (int64_t j = j0; j < std::min({columns, j0 + 8, i}); ++j) h[j * n + i] = h[i * n + j];
}

// partial: kGramWidth x kGramWidth, contents lost. Without task.out the product of two packed tiles
// over at most kPromote rows: partial is the sum, [m, n] of row stride kGramColumns.
#define SPADE_DECLARE_GRAM(isa)                                                                   \
  namespace isa {                                                                                 \
  void gram(const GramTask<float>& task, const std::vector<Segment>& segments, float* partial);   \
  void gram(const GramTask<double>& task, const std::vector<Segment>& segments, double* partial); \
  }
SPADE_FOR_EACH_ISA(SPADE_DECLARE_GRAM)
#undef SPADE_DECLARE_GRAM

}  // namespace spade

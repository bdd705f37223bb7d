// Which grams the tap-offset Hessian of a convolution needs, and how H is assembled from them: on
// the CPU and on CUDA.
//
// Of taps (a, a') with offset dy = (a' - a) dl, the lines o s + a dl - p count that lie inside the
// image with their partners at +dy: a progression of step s. Pairs of equal dy and equal residue of
// the lines mod s count nearly the same lines. The ends of all their progressions cut these into
// cells, so that each pair counts a run of whole cells: one large one, and border lines of one or
// few. The same holds for columns, so
//   H[(c, t), (d, u)] = sum over cells of rows and of columns of G(cell of rows, cell of columns),
// G the C x C gram of the rectangle's pixels with those (dy, dx) away. For taps t <= u, dy >= 0;
// H[(c, u), (d, t)] is the transpose. No product is computed twice and nothing is subtracted:
// entries keep their digits, and a column of zeros gives exact zeros, wherever in the image the
// large values lie. (Exact for every kernel, stride, padding and dilation.)
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv.h"

namespace spade {

// Rows or columns of the input: `count` from `first`, one stride apart.
struct Lines {
  int64_t first, count;
};

// Lines that the same pairs of taps count, all of this offset. Between far runs no pair may.
struct Cell {
  Lines lines;
  int64_t offset;
  bool counted;
};

// The cells [begin, end) that a pair of taps counts.
struct AxisPair {
  int64_t begin, end;
};

// The pairs of taps of one dimension and the cells of their lines.
struct Axis {
  Axis(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation);

  std::vector<AxisPair> pairs;  // [kernel, kernel]
  std::vector<Cell> cells;
};

// The gram of the pixels of rows ys and columns xs with those at (+dy, +dx).
struct OffsetGram {
  Lines ys, xs;
  int64_t dy, dx;

  int64_t pixels() const { return ys.count * xs.count; }
  bool symmetric() const { return dy == 0 && dx == 0; }
  // Few columns and many rows: summed along packed columns.
  bool by_columns() const { return 4 * xs.count <= ys.count; }
};

// Both dimensions of a convolution.
struct TapAxes {
  explicit TapAxes(const spade_conv2d_t& conv);

  // fn(cell of rows, cell of columns, gram) of each gram that pairs of taps t <= u count: dy > 0
  // with every dx, dy = 0 with dx >= 0.
  template <class Fn>
  void each_gram(Fn&& fn) const {
    for (size_t i = 0; i < rows.cells.size(); ++i) {
      const Cell& y = rows.cells[i];
      if (!y.counted || y.offset < 0) continue;
      for (size_t j = 0; j < columns.cells.size(); ++j) {
        const Cell& x = columns.cells[j];
        if (x.counted && (y.offset > 0 || x.offset >= 0))
          fn(i, j, OffsetGram{y.lines, x.lines, y.offset, x.offset});
      }
    }
  }

  int64_t kernel_h, kernel_w;
  Axis rows, columns;
};

class TapPlan {
 public:
  explicit TapPlan(const TapAxes& axes);

  // The largest first.
  const std::vector<OffsetGram>& grams() const { return grams_; }

  // fn(place in grams()) of each gram in the sum for taps t <= u (kernel row-major).
  template <class Fn>
  void each_term(int64_t t, int64_t u, Fn&& fn) const {
    const int64_t h = axes_.kernel_h, w = axes_.kernel_w;
    const AxisPair& y = axes_.rows.pairs[t / w * h + u / w];
    const AxisPair& x = axes_.columns.pairs[t % w * w + u % w];
    for (int64_t i = y.begin; i < y.end; ++i)
      for (int64_t j = x.begin; j < x.end; ++j) fn(place_[i * axes_.columns.cells.size() + j]);
  }

 private:
  const TapAxes axes_;
  std::vector<OffsetGram> grams_;
  std::vector<int64_t> place_;  // [cells of rows, cells of columns] in grams_, where each_gram is
};

}  // namespace spade

// Which grams the tap-offset Hessian of a convolution needs, and how H is assembled from them.
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

// One dimension of a pair of taps: its offset, and the cells [begin, end) that it counts.
struct AxisPair {
  int64_t offset, begin, end;
};

// The pairs of taps of one dimension and the cells of their lines.
struct Axis {
  Axis(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation);

  std::vector<AxisPair> pairs;  // [kernel, kernel]
  std::vector<Lines> cells;
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

class TapPlan {
 public:
  explicit TapPlan(const spade_conv2d_t& conv);

  // The largest first.
  const std::vector<OffsetGram>& grams() const { return grams_; }

  // fn(place in grams()) of each gram in the sum for taps t <= u (kernel row-major).
  template <class Fn>
  void each_term(int64_t t, int64_t u, Fn&& fn) const {
    const AxisPair& y = rows_.pairs[t / kernel_w_ * kernel_h_ + u / kernel_w_];
    const AxisPair& x = columns_.pairs[t % kernel_w_ * kernel_w_ + u % kernel_w_];
    for (int64_t i = y.begin; i < y.end; ++i)
      for (int64_t j = x.begin; j < x.end; ++j) fn(place(i, j));
  }

 private:
  int64_t& place(int64_t i, int64_t j) { return place_[i * columns_.cells.size() + j]; }
  int64_t place(int64_t i, int64_t j) const { return place_[i * columns_.cells.size() + j]; }

  const int64_t kernel_h_, kernel_w_;
  const Axis rows_, columns_;
  std::vector<OffsetGram> grams_;
  std::vector<int64_t> place_;  // [cells of rows, cells of columns] in grams_, or -1
};

}  // namespace spade

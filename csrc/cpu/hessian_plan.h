// Which grams the tap-offset Hessian of a convolution needs, and how H is assembled from them.
//
// Tap a reads the input rows Y_a = {o s + a dl - p}. For taps (a, a') with Dy = (a' - a) dl, the
// pairs of equal (Dy, (a dl - p) mod s) sum the same products up to a few border rows, and likewise
// in x:
//   H[(c,a,b),(c',a',b')] = R - sum_{y in excl_y} Row_y - sum_{x in excl_x} Col_x + sum_{y,x}
//   Corner_yx, base_y = union over the class of {y in Y_a : 0 <= y < H, 0 <= y + Dy < H},  excl_y =
//   base_y \ Y_a.
// Each term is one C x C gram of the input with itself shifted by (Dy, Dx). (SPADE, Hessian of a
// convolution without unfold; exact for every kernel, stride, padding and dilation.)
#pragma once

#include <map>
#include <tuple>
#include <vector>

#include "cpu/gram.h"
#include "cpu/hessian.h"

namespace spade {

// The gram of pixels (y, x), y in ys, x in xs, with those at (y + dy, x + dx).
struct OffsetGram {
  std::vector<int64_t> ys, xs;
  int64_t dy, dx;
  bool by_columns;  // few columns and many rows: summed along packed columns

  bool symmetric() const { return dy == 0 && dx == 0; }
};

// sign * gram, or its transpose: a part of one pair of taps.
struct TapTerm {
  int64_t gram;
  bool transposed;
  double sign;
};

class TapPlan {
 public:
  explicit TapPlan(const spade_conv2d_t& conv);

  const std::vector<OffsetGram>& grams() const { return grams_; }
  // Terms of H between tap t and tap u (kernel row-major).
  const std::vector<TapTerm>& terms(int64_t t, int64_t u) const { return terms_[t * taps_ + u]; }

 private:
  using Key = std::tuple<std::vector<int64_t>, std::vector<int64_t>, int64_t, int64_t>;
  void add_term(int64_t pair, const std::vector<int64_t>& ys, const std::vector<int64_t>& xs,
                int64_t dy, int64_t dx, double sign, bool by_columns);

  int64_t taps_;
  std::vector<OffsetGram> grams_;
  std::vector<std::vector<TapTerm>> terms_;
  std::map<Key, int64_t> index_;
};

// The input packed so that the lines of an offset gram are contiguous: line, slot, image, channel,
// where the slots of a line hold the pixels 0, s, 2 s, ..., then 1, s + 1, ... of it.
class PackedLines {
 public:
  // `along` pixels a line at stride s.
  PackedLines(int64_t along, int64_t stride, int64_t batch)
      : along_(along), stride_(stride), batch_(batch), slot_(static_cast<size_t>(along)) {
    int64_t next = 0;
    for (int64_t residue = 0; residue < stride; ++residue)
      for (int64_t z = residue; z < along; z += stride) slot_[z] = next++;
  }

  int64_t row(int64_t line, int64_t z) const { return (line * along_ + slot_[z]) * batch_; }

  // Rows of the products between pixels zs of line `line` and zs + dz of line `other`.
  void add_segments(int64_t line, int64_t other, const std::vector<int64_t>& zs, int64_t dz,
                    std::vector<Segment>& out) const {
    for (const int64_t z : zs) {
      const int64_t a = row(line, z), b = row(other, z + dz);
      if (!out.empty() && out.back().a + out.back().length == a &&
          out.back().b + out.back().length == b)
        out.back().length += batch_;
      else
        out.push_back({a, b, batch_});
    }
  }

 private:
  int64_t along_, stride_, batch_;
  std::vector<int64_t> slot_;
};

}  // namespace spade

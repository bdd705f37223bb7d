#include "cpu/hessian_plan.h"

#include <set>

namespace spade {
namespace {

using Lines = std::vector<int64_t>;

// One dimension: for each pair of taps its offset, the lines of its class and those it must not
// count.
struct AxisPair {
  int64_t offset;
  Lines base, excluded;
};

std::vector<AxisPair> axis_pairs(int64_t size, int64_t out, int64_t kernel, int64_t stride,
                                 int64_t pad, int64_t dilation) {
  struct Pair {
    std::pair<int64_t, int64_t> group;  // (offset, residue)
    std::set<int64_t> used;
  };
  std::vector<Pair> pairs;
  std::map<std::pair<int64_t, int64_t>, std::set<int64_t>> bases;
  for (int64_t a = 0; a < kernel; ++a)
    for (int64_t b = 0; b < kernel; ++b) {
      const int64_t offset = (b - a) * dilation, first = a * dilation - pad;
      Pair pair{{offset, ((first % stride) + stride) % stride}, {}};
      for (int64_t o = 0; o < out; ++o) {
        const int64_t y = o * stride + first;
        if (y >= 0 && y < size && y + offset >= 0 && y + offset < size) pair.used.insert(y);
      }
      bases[pair.group].insert(pair.used.begin(), pair.used.end());
      pairs.push_back(std::move(pair));
    }
  std::vector<AxisPair> result;
  for (const Pair& pair : pairs) {
    const std::set<int64_t>& base = bases[pair.group];
    AxisPair axis{pair.group.first, Lines(base.begin(), base.end()), {}};
    for (const int64_t y : base)
      if (!pair.used.count(y)) axis.excluded.push_back(y);
    result.push_back(std::move(axis));
  }
  return result;
}

Lines shifted(Lines lines, int64_t offset) {
  for (int64_t& y : lines) y += offset;
  return lines;
}

}  // namespace

TapPlan::TapPlan(const spade_conv2d_t& c) : taps_(c.kernel_h * c.kernel_w) {
  const ConvSizes sizes(c);
  const auto rows =
      axis_pairs(c.height, sizes.out_h, c.kernel_h, c.stride_h, c.pad_top, c.dilation_h);
  const auto columns =
      axis_pairs(c.width, sizes.out_w, c.kernel_w, c.stride_w, c.pad_left, c.dilation_w);
  terms_.resize(static_cast<size_t>(taps_ * taps_));
  for (int64_t t = 0; t < taps_; ++t)
    for (int64_t u = 0; u < taps_; ++u) {
      const AxisPair& y = rows[t / c.kernel_w * c.kernel_h + u / c.kernel_w];
      const AxisPair& x = columns[t % c.kernel_w * c.kernel_w + u % c.kernel_w];
      const int64_t pair = t * taps_ + u;
      add_term(pair, y.base, x.base, y.offset, x.offset, 1, false);
      for (const int64_t row : y.excluded)
        add_term(pair, {row}, x.base, y.offset, x.offset, -1, false);
      for (const int64_t column : x.excluded)
        add_term(pair, y.base, {column}, y.offset, x.offset, -1, true);
      for (const int64_t row : y.excluded)
        for (const int64_t column : x.excluded)
          add_term(pair, {row}, {column}, y.offset, x.offset, 1, false);
    }
  index_.clear();
}

void TapPlan::add_term(int64_t pair, const Lines& ys, const Lines& xs, int64_t dy, int64_t dx,
                       double sign, bool by_columns) {
  if (ys.empty() || xs.empty()) return;
  const auto found = index_.find(Key(ys, xs, dy, dx));
  if (found != index_.end()) return terms_[pair].push_back({found->second, false, sign});
  const auto mirrored = index_.find(Key(shifted(ys, dy), shifted(xs, dx), -dy, -dx));
  if (mirrored != index_.end()) return terms_[pair].push_back({mirrored->second, true, sign});
  const int64_t gram = static_cast<int64_t>(grams_.size());
  grams_.push_back({ys, xs, dy, dx, by_columns});
  index_.emplace(Key(ys, xs, dy, dx), gram);
  terms_[pair].push_back({gram, false, sign});
}

}  // namespace spade

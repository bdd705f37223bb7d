#include "core/tap_plan.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

namespace spade {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return a / b + (a % b != 0); }

}  // namespace

Axis::Axis(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad,
           int64_t dilation) {
  struct Class {             // line = residue + q stride
    std::set<int64_t> cuts;  // q where a pair begins or ends
    int64_t first_cell = 0;
  };
  std::map<std::pair<int64_t, int64_t>, Class> classes;  // of (offset, residue)
  struct Range {
    Class* of;
    int64_t begin, end;  // q
  };
  std::vector<Range> ranges;
  for (int64_t a = 0; a < kernel; ++a)
    for (int64_t b = 0; b < kernel; ++b) {
      const int64_t offset = (b - a) * dilation, origin = a * dilation - pad;
      const int64_t low = std::max<int64_t>(0, -offset), high = std::min(size, size - offset);
      const int64_t begin = low > origin ? divide_up(low - origin, stride) : 0;
      const int64_t end = high > origin ? std::min(out, divide_up(high - origin, stride)) : 0;
      pairs.push_back({0, 0});
      ranges.push_back({nullptr, 0, 0});
      if (begin >= end) continue;
      const int64_t line = origin + begin * stride, q = line / stride;
      Class& of = classes[{offset, line % stride}];
      ranges.back() = {&of, q, q + end - begin};
      of.cuts.insert({q, q + end - begin});
    }
  for (auto& [key, of] : classes) {
    of.first_cell = static_cast<int64_t>(cells.size());
    for (auto cut = of.cuts.begin(), next = std::next(cut); next != of.cuts.end(); ++cut, ++next)
      cells.push_back({{key.second + *cut * stride, *next - *cut}, key.first, false});
  }
  for (size_t pair = 0; pair < pairs.size(); ++pair) {
    const Range& range = ranges[pair];
    if (!range.of) continue;
    const auto cell = [&](int64_t q) {
      const std::set<int64_t>& cuts = range.of->cuts;
      return range.of->first_cell + std::distance(cuts.begin(), cuts.find(q));
    };
    pairs[pair].begin = cell(range.begin);
    pairs[pair].end = cell(range.end);
    for (int64_t i = pairs[pair].begin; i < pairs[pair].end; ++i) cells[i].counted = true;
  }
}

TapAxes::TapAxes(const spade_conv2d_t& c)
    : kernel_h(c.kernel_h),
      kernel_w(c.kernel_w),
      rows(c.height, ConvSizes(c).out_h, c.kernel_h, c.stride_h, c.pad_top, c.dilation_h),
      columns(c.width, ConvSizes(c).out_w, c.kernel_w, c.stride_w, c.pad_left, c.dilation_w) {}

TapPlan::TapPlan(const TapAxes& axes)
    : axes_(axes), place_(axes.rows.cells.size() * axes.columns.cells.size()) {
  struct Found {
    size_t place;
    OffsetGram gram;
  };
  std::vector<Found> found;
  axes_.each_gram([&](size_t i, size_t j, const OffsetGram& gram) {
    found.push_back({i * axes_.columns.cells.size() + j, gram});
  });
  std::stable_sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
    return a.gram.pixels() > b.gram.pixels();
  });
  for (const Found& each : found) {
    place_[each.place] = static_cast<int64_t>(grams_.size());
    grams_.push_back(each.gram);
  }
}

}  // namespace spade

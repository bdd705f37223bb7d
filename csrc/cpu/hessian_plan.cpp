#include "cpu/hessian_plan.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <numeric>
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
      pairs.push_back({offset, 0, 0});
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
      cells.push_back({key.second + *cut * stride, *next - *cut});
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
  }
}

TapPlan::TapPlan(const spade_conv2d_t& c)
    : kernel_h_(c.kernel_h),
      kernel_w_(c.kernel_w),
      rows_(c.height, ConvSizes(c).out_h, c.kernel_h, c.stride_h, c.pad_top, c.dilation_h),
      columns_(c.width, ConvSizes(c).out_w, c.kernel_w, c.stride_w, c.pad_left, c.dilation_w),
      place_(rows_.cells.size() * columns_.cells.size(), -1) {
  std::vector<OffsetGram> found;
  const int64_t taps = kernel_h_ * kernel_w_;
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t u = t; u < taps; ++u) {
      const AxisPair& y = rows_.pairs[t / kernel_w_ * kernel_h_ + u / kernel_w_];
      const AxisPair& x = columns_.pairs[t % kernel_w_ * kernel_w_ + u % kernel_w_];
      for (int64_t i = y.begin; i < y.end; ++i)
        for (int64_t j = x.begin; j < x.end; ++j) {
          if (place(i, j) >= 0) continue;
          place(i, j) = static_cast<int64_t>(found.size());
          found.push_back({rows_.cells[i], columns_.cells[j], y.offset, x.offset});
        }
    }
  std::vector<int64_t> order(found.size()), sorted(found.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return found[a].pixels() > found[b].pixels(); });
  for (const int64_t gram : order) {
    sorted[gram] = static_cast<int64_t>(grams_.size());
    grams_.push_back(found[gram]);
  }
  for (int64_t& gram : place_)
    if (gram >= 0) gram = sorted[gram];
}

}  // namespace spade

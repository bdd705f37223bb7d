// Which grams the Hessian of a convolution needs, how they are cut into blocks, and how H is put
// together from them (host).
//
// Tap a reads the input rows {o s + a dl - p}. Of taps (a, b), dy = (b - a) dl, count those with y
// and y + dy inside the image: a progression of step s. Pairs of equal dy and equal residue of
// y mod s share most of their lines: a core that all have, and each a few lines before and after
// it. The same holds for columns, so
//   H[(c, t), (d, u)] = sum over rows {core, before, after} x columns {core, before, after}
// of C x C grams of a rectangle's pixels with those (dy, dx) away; grams of (-dy, -dx) are
// transposes. Rectangles that several pairs of taps need are computed once, 13 large ones for the
// 81 pairs of a 3 x 3 kernel at stride 1. Nothing is subtracted: entries keep their digits, and a
// column of zeros gives exact zeros, wherever in the image the large values lie.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "core/conv.h"

namespace spade::cuda {

// Pixels (y + i s_h, x + j s_w), i < rows, j < columns, with those at (+dy, +dx).
struct Rectangle {
  int32_t y, rows, x, columns, dy, dx;
};

// One gram: blocks first + split * tiles + tile of the launch sum it, each over `span` pixels of
// all images. A symmetric one has its lower tiles only.
struct GramJob {
  Rectangle at;
  int32_t symmetric, tiles, splits, first;
};

constexpr int kJobWords = sizeof(GramJob) / sizeof(int32_t);

// A part of one pair of taps, in one word: 2 job + transposed.
using Term = int32_t;

// What the kernels read of a plan, as one array: jobs, then for each pair of taps (t, u) the place
// of its first term, then the terms.
struct GramPlan {
  int32_t taps, channels, width;  // of one group; side of a tile
  int32_t jobs;
  int64_t span, blocks;        // pixels a block; blocks of one group of one sample
  std::vector<int32_t> words;  // [jobs * kJobWords + taps^2 + 1 + terms]
};

namespace plan {

constexpr int64_t kBlocks = 1024;  // blocks that keep a GPU busy
// Pixels a block sums: enough to pay for its tile of partial sums, and at most so many that their
// float32 sum, promoted every 64 pixels, keeps seven digits.
constexpr int64_t kLeastSpan = 512, kMostSpan = 8192;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Lines {
  int64_t first, count;
};

// One dimension of a pair of taps: the lines it counts, of which `core` are its class's.
struct AxisPair {
  int64_t offset;
  Lines lines, core;
};

inline std::vector<AxisPair> axis_pairs(int64_t size, int64_t out, int64_t kernel, int64_t stride,
                                        int64_t pad, int64_t dilation) {
  std::vector<AxisPair> pairs;
  std::map<std::pair<int64_t, int64_t>, std::pair<int64_t, int64_t>> cores;  // first, last line
  const auto key = [&](int64_t offset, int64_t line) {
    return std::make_pair(offset, (line % stride + stride) % stride);
  };
  for (int64_t a = 0; a < kernel; ++a)
    for (int64_t b = 0; b < kernel; ++b) {
      const int64_t offset = (b - a) * dilation, first = a * dilation - pad;
      const int64_t low = std::max<int64_t>(0, -offset), high = std::min(size, size - offset);
      const int64_t begin = low > first ? divide_up(low - first, stride) : 0;
      const int64_t end = high > first ? std::min(out, divide_up(high - first, stride)) : 0;
      const Lines lines{first + begin * stride, std::max<int64_t>(0, end - begin)};
      pairs.push_back({offset, lines, lines});
      if (!lines.count) continue;
      const int64_t last = lines.first + (lines.count - 1) * stride;
      const auto [core, is_new] = cores.insert({key(offset, lines.first), {lines.first, last}});
      if (!is_new)
        core->second = {std::max(core->second.first, lines.first),
                        std::min(core->second.second, last)};
    }
  for (AxisPair& pair : pairs) {
    if (!pair.lines.count) continue;
    const auto [first, last] = cores[key(pair.offset, pair.lines.first)];
    const int64_t count = last < first ? 0 : (last - first) / stride + 1;
    if (2 * count >= pair.lines.count) pair.core = {first, count};  // else nothing to share
  }
  return pairs;
}

// The pair's core and the lines before and after it.
inline std::vector<Lines> parts(const AxisPair& pair, int64_t stride) {
  if (!pair.lines.count) return {};
  std::vector<Lines> out{pair.core};
  const int64_t before = (pair.core.first - pair.lines.first) / stride;
  const int64_t after = pair.lines.count - before - pair.core.count;
  if (before) out.push_back({pair.lines.first, before});
  if (after) out.push_back({pair.core.first + pair.core.count * stride, after});
  return out;
}

// The distinct rectangles, and the terms of each pair of taps.
struct Rectangles {
  std::vector<Rectangle> distinct;
  std::vector<std::vector<Term>> terms;  // [taps^2]
};

inline Rectangles rectangles(const spade_conv2d_t& c, const ConvSizes& sizes) {
  const auto rows =
      axis_pairs(c.height, sizes.out_h, c.kernel_h, c.stride_h, c.pad_top, c.dilation_h);
  const auto columns =
      axis_pairs(c.width, sizes.out_w, c.kernel_w, c.stride_w, c.pad_left, c.dilation_w);
  Rectangles out;
  std::map<std::array<int64_t, 6>, int32_t> index;
  for (int64_t t = 0; t < sizes.taps; ++t)
    for (int64_t u = 0; u < sizes.taps; ++u) {
      const AxisPair& y = rows[t / c.kernel_w * c.kernel_h + u / c.kernel_w];
      const AxisPair& x = columns[t % c.kernel_w * c.kernel_w + u % c.kernel_w];
      const bool transposed = y.offset < 0 || (y.offset == 0 && x.offset < 0);
      const int64_t dy = transposed ? -y.offset : y.offset, dx = transposed ? -x.offset : x.offset;
      std::vector<Term>& terms = out.terms.emplace_back();
      for (const Lines& v : parts(y, c.stride_h))
        for (const Lines& h : parts(x, c.stride_w)) {
          const int64_t top = v.first + (transposed ? y.offset : 0);
          const int64_t left = h.first + (transposed ? x.offset : 0);
          const std::array<int64_t, 6> at{top, v.count, left, h.count, dy, dx};
          const auto [found, is_new] =
              index.insert({at, static_cast<int32_t>(out.distinct.size())});
          if (is_new)
            out.distinct.push_back({static_cast<int32_t>(top), static_cast<int32_t>(at[1]),
                                    static_cast<int32_t>(left), static_cast<int32_t>(at[3]),
                                    static_cast<int32_t>(dy), static_cast<int32_t>(dx)});
          terms.push_back(2 * found->second + transposed);
        }
    }
  return out;
}

// Cut the grams into blocks that sum `images` images of one sample each.
inline GramPlan cut(const char* function, const Rectangles& from, int64_t images, int64_t groups,
                    int64_t taps, int64_t channels, int64_t width) {
  const int64_t tiles = divide_up(channels, width);
  std::vector<GramJob> jobs;
  double work = 0;
  for (const Rectangle& at : from.distinct) {
    const bool symmetric = at.dy == 0 && at.dx == 0;
    const int64_t count = symmetric ? tiles * (tiles + 1) / 2 : tiles * tiles;
    jobs.push_back({at, symmetric, static_cast<int32_t>(count), 0, 0});
    work += static_cast<double>(count) * static_cast<double>(images * at.rows * at.columns);
  }
  work *= static_cast<double>(groups) / kBlocks;
  GramPlan out{};
  out.taps = static_cast<int32_t>(taps);
  out.channels = static_cast<int32_t>(channels);
  out.width = static_cast<int32_t>(width);
  out.jobs = static_cast<int32_t>(jobs.size());
  out.span = static_cast<int64_t>(std::min(work, static_cast<double>(kMostSpan)));
  out.span = divide_up(std::max(out.span, kLeastSpan), kLeastSpan) * kLeastSpan;
  for (GramJob& job : jobs) {
    const int64_t splits = divide_up(images * job.at.rows * job.at.columns, out.span);
    SPADE_CHECK(splits <= (INT32_MAX - out.blocks) / job.tiles,
                "%s: the input is too large for one call", function);
    job.splits = static_cast<int32_t>(splits);
    job.first = static_cast<int32_t>(out.blocks);
    out.blocks += splits * job.tiles;
  }
  out.words.resize(jobs.size() * kJobWords);
  if (!jobs.empty()) std::memcpy(out.words.data(), jobs.data(), jobs.size() * sizeof(GramJob));
  int32_t place = 0;
  for (const auto& terms : from.terms) {
    out.words.push_back(place);
    place += static_cast<int32_t>(terms.size());
  }
  out.words.push_back(place);
  for (const auto& terms : from.terms)
    out.words.insert(out.words.end(), terms.begin(), terms.end());
  return out;
}

}  // namespace plan
}  // namespace spade::cuda

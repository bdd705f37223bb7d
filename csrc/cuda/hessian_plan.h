// How the grams of a convolution's Hessian are cut into blocks, and how H is put together from them
// (host). core/tap_plan.h says which grams; here each is a rectangle of pixels: 13 large ones for
// the 81 pairs of taps of a 3 x 3 kernel at stride 1.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/tap_plan.h"

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
  int64_t span, blocks;        // pixels per block; blocks of one group of one sample
  std::vector<int32_t> words;  // [jobs * kJobWords + taps^2 + 1 + terms]
};

namespace plan {

constexpr int64_t kBlocks = 1024;  // blocks that keep a GPU busy
// Pixels a block sums: enough to pay for its tile of partial sums, and at most so many that their
// float32 sum, promoted every 64 pixels, keeps seven digits.
constexpr int64_t kLeastSpan = 512, kMostSpan = 8192;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The distinct rectangles, and the terms of each pair of taps.
struct Rectangles {
  std::vector<Rectangle> distinct;
  std::vector<std::vector<Term>> terms;  // [taps^2]
};

inline Rectangles rectangles(const spade_conv2d_t& conv) {
  const TapPlan plan{TapAxes(conv)};
  Rectangles out;
  const auto number = [](int64_t x) { return static_cast<int32_t>(x); };
  for (const OffsetGram& g : plan.grams())
    out.distinct.push_back({number(g.ys.first), number(g.ys.count), number(g.xs.first),
                            number(g.xs.count), number(g.dy), number(g.dx)});
  const int64_t taps = conv.kernel_h * conv.kernel_w;
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t u = 0; u < taps; ++u) {
      std::vector<Term>& terms = out.terms.emplace_back();
      plan.each_term(std::min(t, u), std::max(t, u),
                     [&](int64_t gram) { terms.push_back(2 * number(gram) + (t > u)); });
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

// The tap-offset Hessian of a convolution: one gram a distinct offset of two taps and rectangle of
// pixels, then H as sums of grams.
//
// Per group: pack the input so that the lines of each offset are contiguous; then compute all grams
// of the plan (tap_plan.h) between two tiles of channels and assemble their part of H while
// they are in cache. Few rows and many channels: each thread takes pairs of packed tiles, whose
// grams stay in its L2. Otherwise all threads share the grams of a few pairs of wide tiles, in
// double. For a 3 x 3 convolution at stride 1 13 grams replace 45; the rest is borders. Bound by
// the products and, for few samples, by the D^2 entries of H.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "core/isa.h"
#include "core/tap_plan.h"
#include "cpu/hessian.h"
#include "cpu/hessian_assembly.h"
#include "cpu/hessian_rows.h"

namespace spade {
namespace {

constexpr int64_t kPad =
    16;  // entries between rows and tiles: equal places are in other cache sets
constexpr int64_t kRoundJobs = 64;  // grams of tiles that keep the threads busy
constexpr int64_t kOwnPairs = 3;    // least pairs of tiles a thread that balance

// In multiply-adds of the products, fitted together with those of direct_cost to the times of both
// forms: 3 x 3, stride 1 and 2, 16 to 512 channels, 7 to 56 pixels, 1 to 32 images.
constexpr double kSegmentCost = 4;    // rows that starting a product costs
constexpr double kChannelCost = 5;    // of packing operands, a channel and row
constexpr double kAssemblyCost = 20;  // of an entry of H
constexpr double kGramCost = 50000;   // of a gram, whatever its size

// Whether each thread computes the grams of its own pairs of packed tiles. Their sums are not
// promoted to double, so that there may be no more than kPromote rows.
bool own_pairs(const spade_conv2d_t& conv, int threads) {
  const int64_t C = ConvSizes(conv).channels, tiles = (C + packed_width(C) - 1) / packed_width(C);
  return conv.batch * conv.height * conv.width <= kPromote &&
         tiles * (tiles + 1) / 2 >= kOwnPairs * threads;
}

// The plan on one group's input: packed rows, grams, H. Tiles of grams are of type P, entries of H
// of type S, added to or, if not `add`, written.
template <class T, class P, class S>
class TapHessian {
 public:
  TapHessian(const spade_conv2d_t& conv, const TapPlan& plan, bool add, bool own, int threads)
      : plan_(plan),
        add_(add),
        own_(own),
        threads_(threads),
        C_(ConvSizes(conv).channels),
        D_(ConvSizes(conv).D),
        rows_(conv, plan),
        width_(own ? rows_.width() : gram_width(C_)),
        ld_(own ? kGramColumns : width_ + kPad),
        tile_((width_ + 1) * ld_ + kPad),
        count_(static_cast<int64_t>(plan.grams().size())),
        pairs_(lower_tiles(C_, width_)),
        tables_(plan, ConvSizes(conv).taps, tile_),
        side_((width_ + tables_.block - 1) / tables_.block) {
    for (const OffsetGram& gram : plan.grams()) {
      segments_.push_back(rows_.segments(gram));
      segments_.push_back(segments_.back());
      for (Segment& segment : segments_.back()) std::swap(segment.a, segment.b);
    }
  }

  void run(const T* x, S* h, Progress& done) const {
    rows_.pack(x, threads_);
    if (own_)
      by_own_pairs(h, done);
    else
      by_shared_pairs(h, done);
  }

  // Jobs that run() reports.
  int64_t jobs() const { return static_cast<int64_t>(pairs_.size()) * 2 * count_; }

 private:
  void by_own_pairs(S* h, Progress& done) const {
    struct Scratch {
      Buffer<P> tiles;
      Buffer<S> assembly;
    };
    parallel_for(
        threads_, static_cast<int64_t>(pairs_.size()),
        [&] { return Scratch{Buffer<P>(2 * count_ * tile_), Buffer<S>(tables_.scratch())}; },
        [&](Scratch& scratch, int64_t pair) {
          for (int64_t job = 0; job < 2 * count_ && !done.cancelled(); ++job)
            sum_gram(pair, job / 2, job % 2, scratch.tiles.get(), nullptr, done);
          for (int64_t piece = 0; piece < side_ * side_ && !done.cancelled(); ++piece)
            assemble_piece(pair, piece, scratch.tiles.get(), scratch.assembly.get(), h);
        });
  }

  void by_shared_pairs(S* h, Progress& done) const {
    const int64_t pairs = static_cast<int64_t>(pairs_.size());
    const int64_t round = std::clamp<int64_t>(kRoundJobs / std::max<int64_t>(1, count_), 1, pairs);
    const Buffer<P> tiles(round * 2 * count_ * tile_);
    const auto tiles_of = [&](int64_t pair) { return tiles.get() + pair * 2 * count_ * tile_; };
    for (int64_t first = 0; first < pairs && !done.cancelled(); first += round) {
      const int64_t count = std::min(round, pairs - first);
      parallel_for(
          threads_, count * 2 * count_, [] { return Buffer<T>(kGramWidth * kGramWidth); },
          [&](Buffer<T>& partial, int64_t job) {
            const int64_t gram = job / (2 * count), pair = job % (2 * count) / 2;
            if (!done.cancelled())
              sum_gram(first + pair, gram, job % 2, tiles_of(pair), partial.get(), done);
          });
      if (done.cancelled()) return;
      parallel_for(
          threads_, count * side_ * side_, [&] { return Buffer<S>(tables_.scratch()); },
          [&](Buffer<S>& scratch, int64_t job) {
            const int64_t pair = job / (side_ * side_);
            assemble_piece(first + pair, job % (side_ * side_), tiles_of(pair), scratch.get(), h);
          });
    }
  }

  // A gram, or its transpose, between the channels of a pair of tiles (I, J), to its place in
  // `tiles` [2, grams]. A symmetric gram needs no transpose; where I = J the transpose is copied.
  void sum_gram(int64_t pair, int64_t place, bool transpose, P* tiles, T* partial,
                Progress& done) const {
    const OffsetGram& gram = plan_.grams()[place];
    const auto [I, J] = pairs_[pair];
    if (!transpose || (I != J && !gram.symmetric())) {
      P* to = tiles + (transpose * count_ + place) * tile_;
      GramTask<T> task{rows_.view(gram),
                       I * width_,
                       J * width_,
                       std::min(width_, C_ - I * width_),
                       std::min(width_, C_ - J * width_),
                       I == J && gram.symmetric(),
                       nullptr,
                       ld_};
      const std::vector<Segment>& segments = segments_[2 * place + transpose];
      if constexpr (std::is_same_v<P, T>)
        if (own_) partial = to;
      if constexpr (std::is_same_v<P, double>)
        if (!own_) {
          task.out = to;
          std::fill_n(to, task.m * ld_, 0.0);
        }
      SPADE_DISPATCH(gram(task, segments, partial));
      if (I == J) transpose_tile(to, gram.symmetric() ? to : to + count_ * tile_, task.m);
    }
    done.add(1);
  }

  // to = the transpose of from [m, m], or, in place, of its lower triangle.
  void transpose_tile(const P* from, P* to, int64_t m) const {
    constexpr int64_t kSide = 8;
    for (int64_t i0 = 0; i0 < m; i0 += kSide)
      for (int64_t j0 = 0; j0 < (from == to ? i0 + 1 : m); j0 += kSide)
        for (int64_t j = j0; j < std::min(m, j0 + kSide); ++j)
          for (int64_t i = from == to ? std::max(i0, j) : i0; i < std::min(m, i0 + kSide); ++i)
            to[j * ld_ + i] = from[i * ld_ + j];
  }

  // Piece number `piece` of side_^2 of the block of H of a pair of tiles, and its mirror image.
  void assemble_piece(int64_t pair, int64_t piece, const P* tiles, S* scratch, S* h) const {
    const auto [I, J] = pairs_[pair];
    const int64_t block = tables_.block, taps = tables_.taps;
    const int64_t i = piece / side_ * block, j = piece % side_ * block;
    const int64_t c = I * width_ + i, d = J * width_ + j;
    if (c < d || c >= C_ || d >= C_) return;
    const AssemblyTask<P, S> task{tables_,
                                  tiles + i * ld_ + j,
                                  ld_,
                                  std::min({block, width_ - i, C_ - c}),
                                  std::min({block, width_ - j, C_ - d}),
                                  D_,
                                  h + c * taps * D_ + d * taps,
                                  c == d ? nullptr : h + d * taps * D_ + c * taps,
                                  add_};
    SPADE_DISPATCH(assemble(task, scratch));
  }

  const TapPlan& plan_;
  const bool add_, own_;
  const int threads_;
  const int64_t C_, D_;  // of the group
  const TapRows<T> rows_;
  const int64_t width_;      // of a tile of channels
  const int64_t ld_, tile_;  // entries of a row of a tile and of a tile
  const int64_t count_;      // grams
  const std::vector<std::pair<int64_t, int64_t>> pairs_;  // of tiles, I >= J
  const AssemblyTables tables_;
  const int64_t side_;                          // pieces a side of a pair's block of H
  std::vector<std::vector<Segment>> segments_;  // of each gram and of its transpose
};

// TapHessian on every group.
template <class P, class T, class S>
void of_groups(const T* x, const spade_conv2d_t& conv, const TapPlan& plan, S* h, bool add,
               bool own, int threads, const spade_progress_t* progress) {
  const TapHessian<T, P, S> hessian(conv, plan, add, own, threads);
  const ConvSizes sizes(conv);
  Progress done(progress, conv.groups * hessian.jobs());
  for (int64_t group = 0; group < conv.groups && !done.cancelled(); ++group)
    hessian.run(x + group * sizes.channels * conv.stride_channel, h + group * sizes.D * sizes.D,
                done);
  done.finish();
}

}  // namespace

double taps_cost(const spade_conv2d_t& conv, const TapAxes& axes) {
  const ConvSizes sizes(conv);
  const double C = static_cast<double>(sizes.channels), D = static_cast<double>(sizes.D);
  const double batch = static_cast<double>(conv.batch);
  const double products = std::max(C, 8.) * std::max(C, 16.);  // register tiles are 8 x 16 or more
  double cost = kAssemblyCost * D * D;
  axes.each_gram([&](size_t, size_t, const OffsetGram& gram) {
    const double lines = static_cast<double>(gram.by_columns() ? gram.xs.count : gram.ys.count);
    const double rows = batch * static_cast<double>(gram.pixels());
    cost += kGramCost + (products / (gram.symmetric() ? 2 : 1) + kChannelCost * C) *
                            (rows + kSegmentCost * lines);
  });
  return static_cast<double>(conv.groups) * cost;
}

template <class T, class S>
void hessian_taps(const T* x, const spade_conv2d_t& conv, const TapPlan& plan, S* h, bool add,
                  int threads, const spade_progress_t* progress) {
  if (own_pairs(conv, threads))
    of_groups<T>(x, conv, plan, h, add, true, threads, progress);
  else
    of_groups<double>(x, conv, plan, h, add, false, threads, progress);
}

template void hessian_taps(const float*, const spade_conv2d_t&, const TapPlan&, double*, bool, int,
                           const spade_progress_t*);
template void hessian_taps(const float*, const spade_conv2d_t&, const TapPlan&, float*, bool, int,
                           const spade_progress_t*);
template void hessian_taps(const double*, const spade_conv2d_t&, const TapPlan&, double*, bool, int,
                           const spade_progress_t*);

}  // namespace spade

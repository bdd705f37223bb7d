// The tap-offset Hessian of a convolution: one gram a distinct offset of two taps and rectangle of
// pixels, then H as sums of grams.
//
// Per group: pack the input so that the lines of each offset are contiguous; then, a few tiles of
// channels at a time, compute all grams of the plan (hessian_plan.h) and assemble their part of H
// while they are in cache. For a 3 x 3 convolution at stride 1 13 grams replace 45; the rest is
// borders. Bound by the products and, for few samples, by the D^2 entries of H.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/isa.h"
#include "cpu/hessian.h"
#include "cpu/hessian_assembly.h"
#include "cpu/hessian_plan.h"

namespace spade {
namespace {

constexpr int64_t kBlock = 16;   // most channels a side of one piece of the assembly
constexpr int64_t kPiece = 180;  // most columns of H a side of a piece: it stays in L2
constexpr int64_t kPad = 8;  // doubles between rows and tiles: equal places are in other cache sets
constexpr int64_t kRoundJobs = 64;    // grams of tiles that keep the threads busy
constexpr double kSegmentCost = 24;   // rows that starting a product costs
constexpr double kChannelCost = 40;   // multiply-adds a channel and row that packing operands costs
constexpr double kAssemblyCost = 40;  // multiply-adds that one entry of H costs

// Pack one line of one group from row `first` of `to`.
template <class T>
void pack_line(const T* x, const spade_conv2d_t& c, int64_t along, int64_t stride_along,
               const PackedLines& lines, int64_t first, const PackedRows<T>& to) {
  for (int64_t image = 0; image < c.batch; ++image)
    for (int64_t channel = 0; channel < to.columns; channel += to.width) {
      const int64_t count = std::min(to.width, to.columns - channel);
      const T* from = x + image * c.stride_batch + channel * c.stride_channel;
      for (int64_t z = 0; z < along; ++z) {
        T* pixel = to.at(first + lines.row(0, z) + image, channel);
        for (int64_t k = 0; k < count; ++k)
          pixel[k] = from[z * stride_along + k * c.stride_channel];
        std::fill(pixel + count, pixel + to.width, T(0));
      }
    }
}

// The plan on one group's input: packed rows, packed columns where needed, grams, H. Entries of H
// are of type S, added to or, if not `add`, written.
template <class T, class S>
class TapHessian {
 public:
  TapHessian(const spade_conv2d_t& conv, const TapPlan& plan, bool add, int threads)
      : conv_(conv),
        plan_(plan),
        add_(add),
        threads_(threads),
        sizes_(conv),
        C_(sizes_.channels),
        width_(gram_width(C_)),
        ld_(width_ + kPad),
        tile_((width_ + 1) * ld_ + kPad),
        block_(std::max<int64_t>(1, std::min(kBlock, kPiece / sizes_.taps))),
        count_(static_cast<int64_t>(plan.grams().size())),
        pairs_(lower_tiles(C_)),
        round_(std::clamp<int64_t>(kRoundJobs / std::max<int64_t>(1, count_), 1,
                                   static_cast<int64_t>(pairs_.size()))),
        row_lines_(conv.width, conv.stride_w, conv.batch),
        column_lines_(conv.height, conv.stride_h, conv.batch),
        column_(static_cast<size_t>(conv.width), -1),
        rows_(conv.batch * conv.height * conv.width, C_),
        columns_(place_columns() * conv.height * conv.batch, C_),
        tiles_(round_ * 2 * count_ * tile_) {
    for (const OffsetGram& gram : plan.grams()) {
      segments_.push_back(segments(gram));
      segments_.push_back(segments_.back());
      for (Segment& segment : segments_.back()) std::swap(segment.a, segment.b);
    }
    list_terms();
  }

  void run(const T* x, S* h, Progress& done) {
    pack(x);
    for (int64_t first = 0; first < static_cast<int64_t>(pairs_.size()); first += round_) {
      const int64_t count = std::min(round_, static_cast<int64_t>(pairs_.size()) - first);
      sum_grams(first, count, done);
      if (done.cancelled()) return;
      assemble(first, count, h);
    }
  }

  // Jobs that run() reports.
  int64_t jobs() const { return static_cast<int64_t>(pairs_.size()) * 2 * count_; }

 private:
  // Give each column of a gram summed along columns its place in columns_.
  int64_t place_columns() {
    int64_t count = 0;
    for (const OffsetGram& gram : plan_.grams())
      if (gram.by_columns())
        for (int64_t i = 0; i < gram.xs.count; ++i)
          for (const int64_t dx : {int64_t{0}, gram.dx}) {
            int64_t& place = column_[gram.xs.first + i * conv_.stride_w + dx];
            if (place < 0) place = count++;
          }
    return count;
  }

  std::vector<Segment> segments(const OffsetGram& gram) const {
    std::vector<Segment> out;
    if (gram.by_columns()) {
      for (int64_t i = 0; i < gram.xs.count; ++i) {
        const int64_t x = gram.xs.first + i * conv_.stride_w;
        column_lines_.add_segment(column_[x], column_[x + gram.dx], gram.ys, gram.dy, out);
      }
    } else {
      for (int64_t i = 0; i < gram.ys.count; ++i) {
        const int64_t y = gram.ys.first + i * conv_.stride_h;
        row_lines_.add_segment(y, y + gram.dy, gram.xs, gram.dx, out);
      }
    }
    return out;
  }

  void pack(const T* x) {
    const auto none = [] { return 0; };
    parallel_for(threads_, conv_.height, none, [&](int, int64_t y) {
      pack_line(x + y * conv_.stride_row, conv_, conv_.width, conv_.stride_col, row_lines_,
                row_lines_.row(y, 0), rows_);
    });
    parallel_for(threads_, conv_.width, none, [&](int, int64_t z) {
      if (column_[z] >= 0)
        pack_line(x + z * conv_.stride_col, conv_, conv_.height, conv_.stride_row, column_lines_,
                  column_lines_.row(column_[z], 0), columns_);
    });
  }

  // The tile [width, width] of a gram, or its transpose, for a pair of tiles of channels of this
  // round.
  double* tile(int64_t pair, bool transpose, int64_t gram) const {
    return tiles_.get() + ((pair * 2 + transpose) * count_ + gram) * tile_;
  }

  // All grams and their transposes between channels of tiles I and J, for `count` pairs (I, J) from
  // pairs_[first]. A symmetric gram needs no transpose.
  void sum_grams(int64_t first, int64_t count, Progress& done) {
    parallel_for(
        threads_, count * 2 * count_, [] { return Buffer<T>(kGramWidth * kGramWidth); },
        [&](Buffer<T>& partial, int64_t job) {
          if (done.cancelled()) return;
          const int64_t place = job / (2 * count), pair = job % (2 * count) / 2;
          const bool transpose = job % 2, symmetric = plan_.grams()[place].symmetric();
          const auto [I, J] = pairs_[first + pair];
          if (!transpose || (I != J && !symmetric)) {
            const int64_t m = std::min(width_, C_ - I * width_);
            double* out = tile(pair, transpose, place);
            std::fill_n(out, m * ld_, 0.0);
            const GramTask<T> task{(plan_.grams()[place].by_columns() ? columns_ : rows_).view(),
                                   I * width_,
                                   J * width_,
                                   m,
                                   std::min(width_, C_ - J * width_),
                                   I == J && symmetric,
                                   out,
                                   ld_};
            SPADE_DISPATCH(gram(task, segments_[2 * place + transpose], partial.get()));
            if (I == J) transpose_tile(out, symmetric ? out : tile(pair, true, place), m);
          }
          done.add(1);
        });
  }

  // to = the transpose of from [m, m], or, in place, of its lower triangle.
  void transpose_tile(const double* from, double* to, int64_t m) const {
    constexpr int64_t kSide = 8;
    for (int64_t i0 = 0; i0 < m; i0 += kSide)
      for (int64_t j0 = 0; j0 < (from == to ? i0 + 1 : m); j0 += kSide)
        for (int64_t j = j0; j < std::min(m, j0 + kSide); ++j)
          for (int64_t i = from == to ? std::max(i0, j) : i0; i < std::min(m, i0 + kSide); ++i)
            to[j * ld_ + i] = from[i * ld_ + j];
  }

  // What assemblies read of the plan.
  void list_terms() {
    const int64_t taps = sizes_.taps;
    AssemblyTask<S> piece{};
    piece.block = block_;
    const int64_t stride = piece.stride(), area = piece.area();
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t u = 0; u < taps; ++u) {
        first_.push_back(static_cast<int64_t>(terms_.size()));
        plan_.each_term(std::min(t, u), std::max(t, u),
                        [&](int64_t gram) { terms_.push_back(((t > u) * count_ + gram) * tile_); });
      }
    first_.push_back(static_cast<int64_t>(terms_.size()));
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t i = 0; i < block_; ++i)
        for (int64_t u = 0; u < taps; ++u) {
          row_places_.push_back(static_cast<int32_t>((t * taps + u) * area + i));
          column_places_.push_back(static_cast<int32_t>((u * taps + t) * area + i * stride));
        }
  }

  // The blocks of H of `count` pairs of tiles from pairs_[first], and their mirror images.
  void assemble(int64_t first, int64_t count, S* h) const {
    const int64_t side = (width_ + block_ - 1) / block_, taps = sizes_.taps, D = sizes_.D;
    AssemblyTask<S> piece{};
    piece.ld = ld_;
    piece.first = first_.data();
    piece.terms = terms_.data();
    piece.taps = taps;
    piece.block = block_;
    piece.rows = row_places_.data();
    piece.columns = column_places_.data();
    piece.D = D;
    piece.add = add_;
    parallel_for(
        threads_, count * side * side, [&] { return Buffer<S>(taps * taps * piece.area()); },
        [&](Buffer<S>& entries, int64_t job) {
          const int64_t pair = job / (side * side);
          const auto [I, J] = pairs_[first + pair];
          const int64_t i = job / side % side * block_, j = job % side * block_;
          const int64_t c = I * width_ + i, d = J * width_ + j;
          if (c < d || c >= C_) return;
          AssemblyTask<S> task = piece;
          task.tiles = tile(pair, false, 0) + i * ld_ + j;
          task.m = std::min({block_, width_ - i, C_ - c});
          task.n = std::min({block_, width_ - j, C_ - d});
          task.h = h + c * taps * D + d * taps;
          task.mirror = c == d ? nullptr : h + d * taps * D + c * taps;
          SPADE_DISPATCH(assemble(task, entries.get()));
        });
  }

  const spade_conv2d_t& conv_;
  const TapPlan& plan_;
  const bool add_;
  const int threads_;
  const ConvSizes sizes_;
  const int64_t C_;          // channels of the group
  const int64_t width_;      // of a tile of channels
  const int64_t ld_, tile_;  // doubles of a row of a tile and of a tile
  const int64_t block_;      // channels a side of one piece of the assembly
  const int64_t count_;      // grams
  const std::vector<std::pair<int64_t, int64_t>> pairs_;  // of tiles, I >= J
  const int64_t round_;                                   // pairs at a time
  PackedLines row_lines_, column_lines_;
  std::vector<int64_t> column_;                 // place of an image column in columns_, or -1
  PackedRows<T> rows_;                          // [height, width, batch] x C
  PackedRows<T> columns_;                       // [columns needed, height, batch] x C
  Buffer<double> tiles_;                        // [round, 2, grams, width, width]
  std::vector<std::vector<Segment>> segments_;  // of each gram and of its transpose
  std::vector<int64_t> first_, terms_;          // of AssemblyTask, as the places
  std::vector<int32_t> row_places_, column_places_;
};

}  // namespace

double taps_cost(const spade_conv2d_t& conv, const TapPlan& plan) {
  const ConvSizes sizes(conv);
  const double C = static_cast<double>(sizes.channels), D = static_cast<double>(sizes.D);
  const double batch = static_cast<double>(conv.batch);
  double cost = kAssemblyCost * D * D;
  for (const OffsetGram& gram : plan.grams()) {
    const double lines = static_cast<double>(gram.by_columns() ? gram.xs.count : gram.ys.count);
    const double rows = batch * static_cast<double>(gram.pixels());
    cost += (C * C / (gram.symmetric() ? 2 : 1) + kChannelCost * C) * (rows + kSegmentCost * lines);
  }
  return static_cast<double>(conv.groups) * cost;
}

template <class T, class S>
void hessian_taps(const T* x, const spade_conv2d_t& conv, const TapPlan& plan, S* h, bool add,
                  int threads, const spade_progress_t* progress) {
  TapHessian<T, S> hessian(conv, plan, add, threads);
  const ConvSizes sizes(conv);
  Progress done(progress, conv.groups * hessian.jobs());
  for (int64_t group = 0; group < conv.groups && !done.cancelled(); ++group)
    hessian.run(x + group * sizes.channels * conv.stride_channel, h + group * sizes.D * sizes.D,
                done);
  done.finish();
}

template void hessian_taps(const float*, const spade_conv2d_t&, const TapPlan&, double*, bool, int,
                           const spade_progress_t*);
template void hessian_taps(const float*, const spade_conv2d_t&, const TapPlan&, float*, bool, int,
                           const spade_progress_t*);
template void hessian_taps(const double*, const spade_conv2d_t&, const TapPlan&, double*, bool, int,
                           const spade_progress_t*);

}  // namespace spade

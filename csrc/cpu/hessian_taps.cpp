// The tap-offset Hessian of a convolution: one gram a distinct offset of two taps and rectangle of
// pixels, then H as sums of grams.
//
// Per group: pack the input so that the lines of each offset are contiguous; then, a few tiles of
// channels at a time, compute all grams of the plan (hessian_plan.h) and assemble their part of H
// while they are in cache. For a 3 x 3 convolution at stride 1 13 grams replace 45; the rest is
// borders. Bound by the products and, for few samples, by the D^2 entries of H.

#include <algorithm>
#include <array>
#include <cstring>

#include "core/isa.h"
#include "cpu/hessian.h"
#include "cpu/hessian_plan.h"

namespace spade {
namespace {

constexpr int64_t kBlock = 16;       // most channels a side of one piece of the assembly
constexpr int64_t kPiece = 180;      // most columns of H a side of a piece: it stays in L2
constexpr int64_t kRoundJobs = 64;   // grams of tiles that keep the threads busy
constexpr double kSegmentCost = 24;  // rows that starting a product costs
constexpr double kChannelCost = 40;  // multiply-adds a channel and row that packing operands costs
constexpr double kAssemblyCost = 100;  // multiply-adds that one entry of H costs

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
        width_(std::min(gram_width(C_), C_)),
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
        tiles_(round_ * 2 * count_ * width_ * width_) {
    for (const OffsetGram& gram : plan.grams()) segments_.push_back(segments(gram));
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

  // The tile [width, width] of a gram for a pair of tiles of channels (I, J) of this round, or for
  // (J, I) if swapped.
  double* tile(int64_t pair, bool swapped, int64_t gram) const {
    return tiles_.get() + ((pair * 2 + swapped) * count_ + gram) * width_ * width_;
  }

  // All grams for `count` pairs of tiles from pairs_[first]. A symmetric gram has no swapped tiles,
  // nor has any where I = J.
  void sum_grams(int64_t first, int64_t count, Progress& done) {
    parallel_for(
        threads_, count * 2 * count_, [] { return Buffer<T>(kGramWidth * kGramWidth); },
        [&](Buffer<T>& partial, int64_t job) {
          if (done.cancelled()) return;
          const int64_t place = job / (2 * count), pair = job % (2 * count) / 2;
          const bool swapped = job % 2;
          const OffsetGram& gram_of = plan_.grams()[place];
          const auto [I, J] = pairs_[first + pair];
          if (!swapped || (I != J && !gram_of.symmetric())) {
            const int64_t a = (swapped ? J : I) * width_, b = (swapped ? I : J) * width_;
            double* out = tile(pair, swapped, place);
            std::fill_n(out, width_ * width_, 0.0);
            const GramTask<T> task{(gram_of.by_columns() ? columns_ : rows_).view(),
                                   a,
                                   b,
                                   std::min(width_, C_ - a),
                                   std::min(width_, C_ - b),
                                   I == J && gram_of.symmetric(),
                                   out,
                                   width_};
            SPADE_DISPATCH(gram(task, segments_[place], partial.get()));
            if (task.symmetric) mirror(out);
          }
          done.add(1);
        });
  }

  void mirror(double* out) const {
    for (int64_t j = 0; j < width_; ++j)
      for (int64_t i = j + 1; i < width_; ++i) out[j * width_ + i] = out[i * width_ + j];
  }

  // The blocks of H of `count` pairs of tiles from pairs_[first], and their mirror images.
  void assemble(int64_t first, int64_t count, S* h) const {
    const int64_t side = (width_ + block_ - 1) / block_, piece = block_ * sizes_.taps;
    parallel_for(
        threads_, count * side * side, [&] { return Buffer<S>(piece * piece); },
        [&](Buffer<S>& entries, int64_t job) {
          const int64_t pair = job / (side * side);
          const auto [I, J] = pairs_[first + pair];
          const int64_t c = job / side % side * block_, d = job % side * block_;
          if (I == J && c < d) return;
          const int64_t m = std::min({block_, width_ - c, C_ - I * width_ - c});
          const int64_t n = std::min({block_, width_ - d, C_ - J * width_ - d});
          if (m <= 0 || n <= 0) return;
          sum_terms(pair, I == J, c, d, m, n, entries.get());
          const int64_t c0 = I * width_ + c, d0 = J * width_ + d;
          write(entries.get(), c0, d0, m, n, block_, 1, sizes_.taps, 1, h);
          if (c0 != d0) write(entries.get(), d0, c0, n, m, 1, block_, 1, sizes_.taps, h);
        });
  }

  // entries [taps, taps, block, block] = H[(c, t), (d, u)] at [t, u, c, d], for m channels from c
  // of tile I and n from d of tile J.
  void sum_terms(int64_t pair, bool diagonal, int64_t c, int64_t d, int64_t m, int64_t n,
                 S* entries) const {
    double sum[kBlock][kBlock];
    const auto add_terms = [&](int64_t t, int64_t u, bool swapped, int64_t row, int64_t column,
                               int64_t rows, int64_t columns) {
      std::memset(sum, 0, sizeof sum);
      plan_.each_term(t, u, [&](int64_t gram) {
        const double* from = tile(pair, swapped && !diagonal, gram) + row * width_ + column;
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < columns; ++j) sum[i][j] += from[i * width_ + j];
      });
    };
    const int64_t taps = sizes_.taps;
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t u = t; u < taps; ++u) {
        S* upper = entries + (t * taps + u) * block_ * block_;
        add_terms(t, u, false, c, d, m, n);
        for (int64_t i = 0; i < m; ++i)
          for (int64_t j = 0; j < n; ++j) upper[i * block_ + j] = static_cast<S>(sum[i][j]);
        if (t == u) continue;
        S* lower = entries + (u * taps + t) * block_ * block_;
        add_terms(t, u, true, d, c, n, m);
        for (int64_t i = 0; i < m; ++i)
          for (int64_t j = 0; j < n; ++j) lower[i * block_ + j] = static_cast<S>(sum[j][i]);
      }
  }

  // H[(c0 + i, t), (d0 + j, u)] from entries [t, u, i, j] with the given strides; t and u in
  // blocks, i and j in entries.
  void write(const S* entries, int64_t c0, int64_t d0, int64_t m, int64_t n, int64_t stride_i,
             int64_t stride_j, int64_t stride_t, int64_t stride_u, S* h) const {
    const int64_t taps = sizes_.taps, D = sizes_.D, area = block_ * block_;
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t i = 0; i < m; ++i) {
        const S* from = entries + t * stride_t * area + i * stride_i;
        S* row = h + ((c0 + i) * taps + t) * D + d0 * taps;
        for (int64_t j = 0; j < n; ++j)
          for (int64_t u = 0; u < taps; ++u) {
            const S value = from[j * stride_j + u * stride_u * area];
            row[j * taps + u] = add_ ? row[j * taps + u] + value : value;
          }
      }
  }

  const spade_conv2d_t& conv_;
  const TapPlan& plan_;
  const bool add_;
  const int threads_;
  const ConvSizes sizes_;
  const int64_t C_;      // channels of the group
  const int64_t width_;  // of a tile of channels
  const int64_t block_;  // channels a side of one piece of the assembly
  const int64_t count_;  // grams
  const std::vector<std::pair<int64_t, int64_t>> pairs_;  // of tiles, I >= J
  const int64_t round_;                                   // pairs at a time
  PackedLines row_lines_, column_lines_;
  std::vector<int64_t> column_;                 // place of an image column in columns_, or -1
  PackedRows<T> rows_;                          // [height, width, batch] x C
  PackedRows<T> columns_;                       // [columns needed, height, batch] x C
  Buffer<double> tiles_;                        // [round, 2, grams, width, width]
  std::vector<std::vector<Segment>> segments_;  // of each gram
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

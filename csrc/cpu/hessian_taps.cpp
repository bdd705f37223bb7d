// The tap-offset Hessian of a convolution: one gram a distinct offset of two taps, borders
// corrected.
//
// Per group: pack the input so that the lines of each offset are contiguous, compute the grams of
// the plan (hessian_plan.h) by tiles, add each pair of taps to H from its terms. For a 3 x 3
// convolution at stride 1 13 grams replace 45; the rest is borders. Bound by the BLAS product and,
// for few samples, by the D^2 entries of H.

#include <cstring>

#include "core/isa.h"
#include "cpu/hessian.h"
#include "cpu/hessian_plan.h"

namespace spade {
namespace {

constexpr int64_t kBlock =
    16;  // channels a side of one piece of the assembly: H's lines stay in L1
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

// The plan on one group's input: packed rows, packed columns where needed, grams, H.
template <class T>
class TapHessian {
 public:
  TapHessian(const spade_conv2d_t& conv, const TapPlan& plan, int threads)
      : conv_(conv),
        plan_(plan),
        threads_(threads),
        sizes_(conv),
        C_(sizes_.channels),
        row_lines_(conv.width, conv.stride_w, conv.batch),
        column_lines_(conv.height, conv.stride_h, conv.batch),
        column_(static_cast<size_t>(conv.width), -1),
        rows_(conv.batch * conv.height * conv.width, C_),
        columns_(count_columns() * conv.height * conv.batch, C_),
        grams_(static_cast<int64_t>(plan.grams().size()) * C_ * C_) {}

  void add(const T* x, double* h, Progress& done) {
    pack(x);
    sum_grams(done);
    if (!done.cancelled()) assemble(h);
  }

  // Jobs that add() reports.
  int64_t jobs() const {
    return static_cast<int64_t>(plan_.grams().size() * lower_tiles(C_).size());
  }

 private:
  // Give each column of a gram summed along columns its place in columns_.
  int64_t count_columns() {
    int64_t count = 0;
    for (const OffsetGram& gram : plan_.grams())
      if (gram.by_columns)
        for (const int64_t x : {gram.xs[0], gram.xs[0] + gram.dx})
          if (column_[x] < 0) column_[x] = count++;
    return count;
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

  std::vector<Segment> segments(const OffsetGram& gram) const {
    std::vector<Segment> out;
    if (gram.by_columns) {
      column_lines_.add_segments(column_[gram.xs[0]], column_[gram.xs[0] + gram.dx], gram.ys,
                                 gram.dy, out);
    } else {
      for (const int64_t y : gram.ys)
        row_lines_.add_segments(y, y + gram.dy, gram.xs, gram.dx, out);
    }
    return out;
  }

  void sum_grams(Progress& done) {
    const auto pairs = lower_tiles(C_);
    const int64_t width = gram_width(C_), count = static_cast<int64_t>(pairs.size());
    std::memset(grams_.get(), 0, plan_.grams().size() * C_ * C_ * sizeof(double));
    parallel_for(
        threads_, jobs(), [] { return Buffer<T>(kGramWidth * kGramWidth); },
        [&](Buffer<T>& partial, int64_t job) {
          if (done.cancelled()) return;
          const OffsetGram& gram_of = plan_.grams()[job / count];
          const auto [I, J] = pairs[job % count];
          double* out = grams_.get() + job / count * C_ * C_;
          const TiledRows<T> from = (gram_of.by_columns ? columns_ : rows_).view();
          const auto rows = segments(gram_of);
          const auto tile = [&](int64_t i, int64_t j) {
            const GramTask<T> task{from,
                                   i * width,
                                   j * width,
                                   std::min(width, C_ - i * width),
                                   std::min(width, C_ - j * width),
                                   i == j && gram_of.symmetric(),
                                   out + i * width * C_ + j * width,
                                   C_};
            SPADE_DISPATCH(gram(task, rows, partial.get()));
          };
          tile(I, J);
          if (gram_of.symmetric())
            mirror_tile(out, C_, I, J);
          else if (I != J)
            tile(J, I);
          done.add(1);
        });
  }

  // h[(c, t), (d, u)] += sum of the terms of (t, u), by blocks of channels c and d.
  void assemble(double* h) const {
    const int64_t taps = sizes_.taps, D = sizes_.D, blocks = (C_ + kBlock - 1) / kBlock;
    parallel_for(
        threads_, blocks, [] { return 0; },
        [&](int, int64_t block) {
          const int64_t c0 = block * kBlock, m = std::min(kBlock, C_ - c0);
          double sum[kBlock][kBlock];
          for (int64_t d0 = 0; d0 < C_; d0 += kBlock) {
            const int64_t n = std::min(kBlock, C_ - d0);
            for (int64_t t = 0; t < taps; ++t)
              for (int64_t u = 0; u < taps; ++u) {
                std::memset(sum, 0, sizeof sum);
                for (const TapTerm& term : plan_.terms(t, u)) {
                  const double* g = grams_.get() + term.gram * C_ * C_;
                  if (term.transposed) {
                    for (int64_t j = 0; j < n; ++j)
                      for (int64_t i = 0; i < m; ++i)
                        sum[i][j] += term.sign * g[(d0 + j) * C_ + c0 + i];
                  } else {
                    for (int64_t i = 0; i < m; ++i)
                      for (int64_t j = 0; j < n; ++j)
                        sum[i][j] += term.sign * g[(c0 + i) * C_ + d0 + j];
                  }
                }
                for (int64_t i = 0; i < m; ++i)
                  for (int64_t j = 0; j < n; ++j)
                    h[((c0 + i) * taps + t) * D + (d0 + j) * taps + u] += sum[i][j];
              }
          }
        });
  }

  const spade_conv2d_t& conv_;
  const TapPlan& plan_;
  const int threads_;
  const ConvSizes sizes_;
  const int64_t C_;  // channels of the group
  PackedLines row_lines_, column_lines_;
  std::vector<int64_t> column_;  // place of an image column in columns_, or -1
  PackedRows<T> rows_;           // [height, width, batch] x C
  PackedRows<T> columns_;        // [columns needed, height, batch] x C
  Buffer<double> grams_;         // [grams, C, C]
};

}  // namespace

double taps_cost(const spade_conv2d_t& conv) {
  const ConvSizes sizes(conv);
  const double C = static_cast<double>(sizes.channels), D = static_cast<double>(sizes.D);
  const double batch = static_cast<double>(conv.batch);
  double cost = kAssemblyCost * D * D;
  const TapPlan plan(conv);
  for (const OffsetGram& gram : plan.grams()) {
    const double lines = static_cast<double>(gram.by_columns ? 1 : gram.ys.size());
    const double rows = batch * static_cast<double>(gram.ys.size() * gram.xs.size());
    cost += (C * C / (gram.symmetric() ? 2 : 1) + kChannelCost * C) * (rows + kSegmentCost * lines);
  }
  return static_cast<double>(conv.groups) * cost;
}

template <class T>
void hessian_taps(const T* x, const spade_conv2d_t& conv, double* h, int threads,
                  const spade_progress_t* progress) {
  const TapPlan plan(conv);
  TapHessian<T> hessian(conv, plan, threads);
  const ConvSizes sizes(conv);
  Progress done(progress, conv.groups * hessian.jobs());
  for (int64_t group = 0; group < conv.groups && !done.cancelled(); ++group)
    hessian.add(x + group * sizes.channels * conv.stride_channel, h + group * sizes.D * sizes.D,
                done);
  done.finish();
}

template void hessian_taps(const float*, const spade_conv2d_t&, double*, int,
                           const spade_progress_t*);
template void hessian_taps(const double*, const spade_conv2d_t&, double*, int,
                           const spade_progress_t*);

}  // namespace spade

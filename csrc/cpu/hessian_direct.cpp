// The direct Hessian: rows of X (given, or unfolded a cache-sized piece at a time) times
// themselves.
//
// Pieces are packed by all threads, then multiplied by lower tiles; one thread owns a tile and a
// slot. Few tiles are made enough for all threads by slots: interleaved blocks of rows with sums of
// their own, added in order at the end. Work N D (D + 1) flop; bound by FMA, and for D below about
// 64 by packing.

#include "core/isa.h"
#include "cpu/gram.h"
#include "cpu/hessian.h"

namespace spade {
namespace {

constexpr int64_t kPacked = 1 << 20;    // entries of a packed piece: they stay in the shared cache
constexpr int64_t kJobs = 16;           // jobs that keep the threads busy
constexpr int64_t kPackRows = 64;       // rows a packing task
constexpr int64_t kNarrow = 256;        // row stride up to which rows are multiplied where they lie
constexpr int64_t kInPlaceRows = 4096;  // rows of a slot then
constexpr double kUnfoldCost = 24;      // multiply-adds that unfolding one entry costs

// H of `groups` blocks of D columns each; groups other than one have D small.
template <class T>
class DirectHessian {
 public:
  DirectHessian(int64_t N, int64_t groups, int64_t D, double* h, int threads,
                const spade_progress_t* progress)
      : N_(N),
        groups_(groups),
        D_(D),
        h_(h),
        threads_(threads),
        pairs_(lower_tiles(D)),
        jobs_(groups * static_cast<int64_t>(pairs_.size())),
        slots_(std::max<int64_t>(1, std::min(kJobs / jobs_, N / kPromote))),
        slot_rows_(std::min(
            std::max<int64_t>(256, kPacked / (groups * D * slots_) / kGramRows * kGramRows),
            kPromote)),
        sums_((slots_ - 1) * groups * D * D),
        done_(progress, N) {
    std::fill_n(sums_.get(), (slots_ - 1) * groups * D * D, 0.0);
  }

  // pack(first, count, group, packed, row) writes rows [first, first + count) of a group's X to
  // packed rows from `row`.
  template <class Pack>
  void add(Pack&& pack) {
    const int64_t piece = slots_ * slot_rows_;
    std::vector<PackedRows<T>> packed;
    std::vector<TiledRows<T>> views;
    for (int64_t g = 0; g < groups_; ++g) {
      packed.emplace_back(std::min(piece, N_), D_);
      packed.back().clear_rest(0, packed.back().rows);
    }
    for (const PackedRows<T>& rows : packed) views.push_back(rows.view());
    for (int64_t first = 0; first < N_ && !done_.cancelled(); first += piece) {
      const int64_t rows = std::min(piece, N_ - first);
      const int64_t tasks = (rows + kPackRows - 1) / kPackRows;
      parallel_for(
          threads_, tasks * groups_, [] { return 0; },
          [&](int, int64_t task) {
            const int64_t row = task % tasks * kPackRows, g = task / tasks;
            pack(first + row, std::min(kPackRows, rows - row), g, packed[g], row);
          });
      multiply(views, rows, slot_rows_);
      done_.add(rows);
    }
    finish();
  }

  // As add() for the rows of x where they lie; D is a multiple of kGramColumns.
  void add_in_place(const T* x, int64_t ldx) {
    const int64_t piece = slots_ * kInPlaceRows;
    for (int64_t first = 0; first < N_ && !done_.cancelled(); first += piece) {
      const int64_t rows = std::min(piece, N_ - first);
      multiply({{x + first * ldx, kGramColumns, ldx, kGramColumns}}, rows, kInPlaceRows);
      done_.add(rows);
    }
    finish();
  }

 private:
  // Add up the slots and fill the upper triangle.
  void finish() {
    for (int64_t s = 1; s < slots_; ++s)
      for (int64_t i = 0; i < groups_ * D_ * D_; ++i) h_[i] += slot(s)[i];
    for (int64_t g = 0; g < groups_; ++g)
      for (const auto& [I, J] : pairs_) mirror_tile(h_ + g * D_ * D_, D_, I, J);
    done_.finish();
  }

  double* slot(int64_t s) const { return s ? sums_.get() + (s - 1) * groups_ * D_ * D_ : h_; }

  // Add the products of `rows` rows, slot_rows to a slot.
  void multiply(const std::vector<TiledRows<T>>& views, int64_t rows, int64_t slot_rows) {
    const int64_t width = gram_width(D_), count = static_cast<int64_t>(pairs_.size());
    parallel_for(
        threads_, slots_ * jobs_, [] { return Buffer<T>(kGramWidth * kGramWidth); },
        [&](Buffer<T>& partial, int64_t job) {
          const int64_t s = job / jobs_, g = job % jobs_ / count, first = s * slot_rows;
          if (first >= rows) return;
          const auto [I, J] = pairs_[job % count];
          const GramTask<T> task{views[g],
                                 I * width,
                                 J * width,
                                 std::min(width, D_ - I * width),
                                 std::min(width, D_ - J * width),
                                 I == J,
                                 slot(s) + (g * D_ + I * width) * D_ + J * width,
                                 D_};
          const std::vector<Segment> segment{{first, first, std::min(slot_rows, rows - first)}};
          SPADE_DISPATCH(gram(task, segment, partial.get()));
        });
  }

  const int64_t N_, groups_, D_;
  double* const h_;
  const int threads_;
  const std::vector<std::pair<int64_t, int64_t>> pairs_;
  const int64_t jobs_, slots_, slot_rows_;
  Buffer<double> sums_;  // [slots - 1, groups, D, D]
  Progress done_;
};

// Unfold positions [first, first + count) of one group to rows of `to`, from row `row`.
template <class T>
void unfold(const T* x, const spade_conv2d_t& c, const ConvSizes& sizes, int64_t first,
            int64_t count, const PackedRows<T>& to, int64_t row) {
  const int64_t pixels = sizes.out_h * sizes.out_w;
  for (int64_t column = 0; column < sizes.D; ++column) {
    const int64_t a = column % sizes.taps / c.kernel_w * c.dilation_h - c.pad_top;
    const int64_t b = column % c.kernel_w * c.dilation_w - c.pad_left;
    const T* channel = x + column / sizes.taps * c.stride_channel;
    T* out = to.at(row, column);
    for (int64_t i = 0; i < count;) {
      const int64_t position = first + i, o = position % pixels;
      const int64_t run =
          std::min(count - i, sizes.out_w - o % sizes.out_w);  // to the output row's end
      const int64_t y = o / sizes.out_w * c.stride_h + a;
      const T* line = channel + position / pixels * c.stride_batch + y * c.stride_row;
      const bool outside = y < 0 || y >= c.height;
      int64_t z = o % sizes.out_w * c.stride_w + b;
      for (int64_t k = 0; k < run; ++k, z += c.stride_w)
        out[(i + k) * to.width] = outside || z < 0 || z >= c.width ? T(0) : line[z * c.stride_col];
      i += run;
    }
  }
}

}  // namespace

template <class T>
void hessian_linear(const T* x, int64_t N, int64_t D, int64_t ldx, double* h, int threads,
                    const spade_progress_t* progress) {
  DirectHessian<T> hessian(N, 1, D, h, threads, progress);
  if (D % kGramColumns == 0 && ldx <= kNarrow) return hessian.add_in_place(x, ldx);
  hessian.add([&](int64_t first, int64_t count, int64_t, const PackedRows<T>& to, int64_t row) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < D; j += to.width)
        std::copy_n(x + (first + i) * ldx + j, std::min(to.width, D - j), to.at(row + i, j));
  });
}

double direct_cost(const spade_conv2d_t& conv) {
  const ConvSizes sizes(conv);
  const double rows = static_cast<double>(sizes.positions), D = static_cast<double>(sizes.D);
  return static_cast<double>(conv.groups) * rows * D *
         (D / 2 + static_cast<double>(gram_width(sizes.D)) / 4 + kUnfoldCost);
}

template <class T>
void hessian_direct(const T* x, const spade_conv2d_t& conv, double* h, int threads,
                    const spade_progress_t* progress) {
  const ConvSizes sizes(conv);
  const bool rows_in_place = sizes.taps == 1 && conv.groups == 1 && conv.stride_channel == 1 &&
                             conv.stride_h == 1 && conv.stride_w == 1 &&
                             conv.stride_row == conv.width * conv.stride_col &&
                             conv.stride_batch == conv.height * conv.stride_row &&
                             sizes.out_h == conv.height && sizes.out_w == conv.width;
  if (rows_in_place)
    return hessian_linear(x, sizes.positions, sizes.D, conv.stride_col, h, threads, progress);
  DirectHessian<T> hessian(sizes.positions, conv.groups, sizes.D, h, threads, progress);
  hessian.add([&](int64_t first, int64_t count, int64_t g, const PackedRows<T>& to, int64_t row) {
    unfold(x + g * sizes.channels * conv.stride_channel, conv, sizes, first, count, to, row);
  });
}

template void hessian_linear(const float*, int64_t, int64_t, int64_t, double*, int,
                             const spade_progress_t*);
template void hessian_linear(const double*, int64_t, int64_t, int64_t, double*, int,
                             const spade_progress_t*);
template void hessian_direct(const float*, const spade_conv2d_t&, double*, int,
                             const spade_progress_t*);
template void hessian_direct(const double*, const spade_conv2d_t&, double*, int,
                             const spade_progress_t*);

}  // namespace spade

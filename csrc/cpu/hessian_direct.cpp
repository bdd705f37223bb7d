// The direct Hessian: rows of X, given or copied from the image a cache-sized piece at a time,
// times themselves.
//
// Narrow (D up to one output tile): rows are cut into slots with sums of their own, and a thread
// copies and multiplies a slot's rows piece by piece in its own cache. Wide: a piece of rows is
// packed by all threads, then multiplied by lower tiles, one thread a tile; few tiles are made
// enough by slots. Slots are added in order at the end. Work N D (D + 1) flop; bound by FMA, and
// for D below about 64 by reading X.

#include "core/isa.h"
#include "cpu/gram.h"
#include "cpu/hessian.h"
#include "cpu/patches.h"

namespace spade {
namespace {

constexpr int64_t kJobs = 16;                // jobs that keep the threads busy
constexpr int64_t kSlotRows = 256;           // least rows that are worth a slot
constexpr int64_t kNarrowEntries = 1 << 17;  // of a narrow piece: it stays in a thread's L2
constexpr int64_t kWideRows = 2048;          // of a wide piece: D^2 sums go to double once a piece
constexpr int64_t kPackRows = 64;            // of a packing task
constexpr int64_t kPackEntries = 1 << 14;    // copied at a time then: they stay in L1 or L2
constexpr double kCopyCost = 3;              // multiply-adds that copying one entry costs,
constexpr double kRowCost = 300;             // finding a row,
constexpr double kEntryCost = 30;            // and clearing, mirroring and writing an entry of H

// A row stride for D columns that does not map rows to few sets of the cache.
int64_t row_stride(int64_t D) { return ((D + 15) / 16 | 1) * 16; }

template <class T>
Buffer<T> zeros(int64_t count) {
  Buffer<T> buffer(count);
  std::fill_n(buffer.get(), count, T(0));
  return buffer;
}

// H of `groups` blocks of D columns each.
template <class T>
class DirectHessian {
 public:
  DirectHessian(const T* x, const spade_conv2d_t& conv, double* h, int threads,
                const spade_progress_t* progress)
      : rows_(x, conv),
        sizes_(conv),
        N_(sizes_.positions),
        D_(sizes_.D),
        groups_(conv.groups),
        h_(h),
        threads_(threads),
        tiles_(lower_tiles(D_, gram_width(D_))),
        jobs_(groups_ * static_cast<int64_t>(tiles_.size())),
        slots_(std::max<int64_t>(1, std::min(kJobs / jobs_, N_ / std::max(kSlotRows, 2 * D_)))),
        sums_((slots_ - !rows_.taps_first()) * groups_ * D_ * D_),
        done_(progress, groups_ * N_) {}

  void add() {
    parallel_for(
        threads_, slots_ * groups_, [] { return 0; },
        [&](int, int64_t i) {
          double* sum = slot(i / groups_, i % groups_);
          if (i / groups_ || rows_.taps_first()) std::fill_n(sum, D_ * D_, 0.0);
        });
    if (tiles_.size() == 1)
      add_narrow();
    else
      for (int64_t g = 0; g < groups_; ++g) add_wide(g);
    if (!done_.cancelled()) finish();
    done_.finish();
  }

 private:
  // Sums of a slot and group: H itself, or to be added to it.
  double* slot(int64_t s, int64_t g) const {
    const int64_t own = rows_.taps_first() ? s : s - 1;
    return (own < 0 ? h_ : sums_.get() + own * groups_ * D_ * D_) + g * D_ * D_;
  }

  void multiply(const TiledRows<T>& view, int64_t first, int64_t rows, int64_t tile, double* sum,
                T* partial) const {
    const auto [I, J] = tiles_[tile];
    const int64_t width = gram_width(D_), i = I * width, j = J * width;
    const GramTask<T> task{
        view, i, j, std::min(width, D_ - i), std::min(width, D_ - j), I == J, sum + i * D_ + j, D_};
    const std::vector<Segment> segment{{first, first, rows}};
    SPADE_DISPATCH(gram(task, segment, partial));
  }

  void add_narrow() {
    const int64_t ldx = rows_.in_place_stride(), ld = row_stride(D_);
    const int64_t width = packed_width(D_);
    const bool in_place = ldx && D_ % 16 == 0;
    const int64_t piece = in_place ? kPromote : kNarrowEntries / ld;
    struct State {
      Buffer<T> partial, rows;
    };
    parallel_for(
        threads_, slots_ * groups_,
        [&] {
          return State{Buffer<T>(kGramWidth * kGramWidth),
                       zeros<T>(in_place ? 0 : std::min(piece, N_) * ld + kOverrun)};
        },
        [&](State& state, int64_t i) {
          const int64_t s = i / groups_, g = i % groups_, end = (s + 1) * N_ / slots_;
          for (int64_t first = s * N_ / slots_; first < end && !done_.cancelled(); first += piece) {
            const int64_t count = std::min(piece, end - first);
            TiledRows<T> view{state.rows.get(), width, ld, width};
            if (in_place)
              view = {rows_.rows() + first * ldx, width, ldx, width};
            else
              rows_.fill(g, first, count, state.rows.get(), ld);
            multiply(view, 0, count, 0, slot(s, g), state.partial.get());
            done_.add(count);
          }
        });
  }

  void add_wide(int64_t g) {
    const int64_t pieces = (N_ + slots_ * kWideRows - 1) / (slots_ * kWideRows);
    const int64_t slot_rows = (N_ + slots_ * pieces - 1) / (slots_ * pieces);
    const int64_t piece = slots_ * slot_rows, count = static_cast<int64_t>(tiles_.size());
    PackedRows<T> packed(std::min(piece, N_), D_);
    packed.clear_rest(0, packed.rows);
    for (int64_t first = 0; first < N_ && !done_.cancelled(); first += piece) {
      const int64_t rows = std::min(piece, N_ - first);
      pack(g, first, rows, packed);
      parallel_for(
          threads_, slots_ * count, [] { return Buffer<T>(kGramWidth * kGramWidth); },
          [&](Buffer<T>& partial, int64_t job) {
            const int64_t s = job / count, start = s * slot_rows;
            if (start < rows)
              multiply(packed.view(), start, std::min(slot_rows, rows - start), job % count,
                       slot(s, g), partial.get());
          });
      done_.add(rows);
    }
  }

  // Rows [first, first + rows) to packed tiles.
  void pack(int64_t g, int64_t first, int64_t rows, const PackedRows<T>& packed) const {
    const int64_t ldx = rows_.in_place_stride(), ld = row_stride(D_);
    const int64_t lines = std::clamp<int64_t>(kPackEntries / ld / 8 * 8, 8, kPackRows);
    parallel_for(
        threads_, (rows + kPackRows - 1) / kPackRows,
        [&] { return Buffer<T>(ldx ? 0 : lines * ld + kOverrun); },
        [&](Buffer<T>& line, int64_t task) {
          const int64_t end = std::min(rows, (task + 1) * kPackRows);
          for (int64_t row = task * kPackRows; row < end; row += lines) {
            const int64_t count = std::min(lines, end - row);
            if (!ldx) rows_.fill(g, first + row, count, line.get(), ld);
            const T* from = ldx ? rows_.rows() + (first + row) * ldx : line.get();
            for (int64_t j = 0; j < D_; j += kGramColumns)
              for (int64_t i = 0; i < count; ++i) {
                const T* columns = from + i * (ldx ? ldx : ld) + j;
                if (j + kGramColumns <= D_)  // a constant size is a few vector moves
                  std::copy_n(columns, kGramColumns, packed.at(row + i, j));
                else
                  std::copy_n(columns, D_ - j, packed.at(row + i, j));
              }
          }
        });
  }

  // Add up the slots, fill the upper triangle, and bring columns to the order of H.
  void finish() const {
    const int64_t count = static_cast<int64_t>(tiles_.size()), width = gram_width(D_);
    const auto none = [] { return 0; };
    parallel_for(threads_, jobs_, none, [&](int, int64_t job) {
      const int64_t g = job / count;
      const auto [I, J] = tiles_[job % count];
      double* sum = slot(0, g);
      const int64_t j = J * width, n = std::min(width, D_ - j);
      for (int64_t s = 1; s < slots_; ++s)
        for (int64_t i = I * width; i < std::min(D_, (I + 1) * width); ++i) {
          const double* from = slot(s, g) + i * D_ + j;
          for (int64_t k = 0; k < n; ++k) sum[i * D_ + j + k] += from[k];
        }
      mirror_tile(sum, D_, I, J);
    });
    if (!rows_.taps_first()) return;
    const int64_t C = sizes_.channels, taps = sizes_.taps;
    parallel_for(threads_, groups_ * D_, none, [&](int, int64_t row) {
      const int64_t g = row / D_, c = row % D_ / taps, t = row % taps;
      const double* from = slot(0, g) + (t * C + c) * D_;
      double* to = h_ + row * D_;
      for (int64_t u = 0; u < taps; ++u)
        for (int64_t d = 0; d < C; ++d) to[d * taps + u] += from[u * C + d];
    });
  }

  const PatchRows<T> rows_;
  const ConvSizes sizes_;
  const int64_t N_, D_, groups_;
  double* const h_;
  const int threads_;
  const std::vector<std::pair<int64_t, int64_t>> tiles_;
  const int64_t jobs_, slots_;
  Buffer<double> sums_;  // [slots beside H, groups, D, D]
  Progress done_;
};

}  // namespace

template <class T>
void hessian_linear(const T* x, int64_t N, int64_t D, int64_t ldx, double* h, int threads,
                    const spade_progress_t* progress) {
  const spade_conv2d_t one_line{1, D, 1, N, N * ldx, 1, N * ldx, ldx, 1, 1,
                                1, 1, 0, 0, 0,       0, 1,       1,   1};
  hessian_direct(x, one_line, h, threads, progress);
}

double direct_cost(const spade_conv2d_t& conv) {
  const ConvSizes sizes(conv);
  const double rows = static_cast<double>(sizes.positions), D = static_cast<double>(sizes.D);
  return static_cast<double>(conv.groups) *
         (rows * (D * (D / 2 + kGramColumns / 4. + kCopyCost) + kRowCost) + kEntryCost * D * D);
}

template <class T>
void hessian_direct(const T* x, const spade_conv2d_t& conv, double* h, int threads,
                    const spade_progress_t* progress) {
  if (conv.groups > 1 && conv.groups == conv.channels)
    return hessian_depthwise(x, conv, h, threads, progress);
  DirectHessian<T>(x, conv, h, threads, progress).add();
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

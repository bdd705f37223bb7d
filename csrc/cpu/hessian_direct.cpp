// The direct Hessian: rows of X, given or copied from the image a cache-sized piece at a time,
// times themselves.
//
// Narrow (D up to one output tile): rows are cut into slots with sums of their own, and a thread
// copies and multiplies a slot's rows piece by piece in its own cache. Wide: a piece of rows is
// packed by all threads, then multiplied by lower tiles, one thread a tile; few tiles are made
// enough by slots. Slots are added in order at the end. Work N D (D + 1) flop; bound by FMA, and
// for D below about 64 by reading X.

#include <type_traits>

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
constexpr double kCopyCost = 3;              // multiply-adds that copying one entry costs,
constexpr double kRowCost = 300;             // finding a row,
constexpr double kEntryCost = 30;            // and clearing, mirroring and writing an entry of H

template <class T>
Buffer<T> zeros(int64_t count) {
  Buffer<T> buffer(count);
  std::fill_n(buffer.get(), count, T(0));
  return buffer;
}

// fn(begin, end) for pieces of [0, count), in parallel.
template <class Fn>
void each_piece(int64_t count, int threads, Fn&& fn) {
  constexpr int64_t kPiece = 1 << 18;
  parallel_for(
      threads, (count + kPiece - 1) / kPiece, [] { return 0; },
      [&](int, int64_t i) { fn(i * kPiece, std::min(count, (i + 1) * kPiece)); });
}

// H of `count` entries += (add) or = what sum(double*) adds.
template <class S, class Sum>
void sum_in_double(S* h, int64_t count, bool add, int threads, Sum&& sum) {
  const auto clear = [&](double* to) {
    each_piece(count, threads,
               [&](int64_t begin, int64_t end) { std::fill(to + begin, to + end, 0.0); });
  };
  if constexpr (std::is_same_v<S, double>) {
    if (!add) clear(h);
    sum(h);
  } else {
    const Buffer<double> own(count);
    clear(own.get());
    sum(own.get());
    each_piece(count, threads, [&](int64_t begin, int64_t end) {
      std::copy(own.get() + begin, own.get() + end, h + begin);
    });
  }
}

// H of `groups` blocks of D columns each.
template <class T>
class DirectHessian {
 public:
  DirectHessian(const T* x, const spade_conv2d_t& conv, int threads,
                const spade_progress_t* progress)
      : rows_(x, conv),
        sizes_(conv),
        N_(sizes_.positions),
        D_(sizes_.D),
        groups_(conv.groups),
        threads_(threads),
        tiles_(lower_tiles(D_, gram_width(D_))),
        jobs_(groups_ * static_cast<int64_t>(tiles_.size())),
        slots_(std::max<int64_t>(1, std::min(kJobs / jobs_, N_ / std::max(kSlotRows, 2 * D_)))),
        sums_((slots_ - !rows_.taps_first()) * groups_ * D_ * D_),
        done_(progress, groups_ * N_) {}

  // H += the sum.
  void add(double* h) {
    h_ = h;
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

  // Whether write() serves: a packed piece holds all rows, and columns are in the order of H.
  bool once() const {
    return tiles_.size() > 1 && N_ <= kWideRows && slots_ == 1 && !rows_.taps_first();
  }

  // H = the sum: each tile and its mirror image are written by one thread.
  void write(T* h) {
    for (int64_t g = 0; g < groups_ && !done_.cancelled(); ++g) write_wide(g, h + g * D_ * D_);
    done_.finish();
  }

 private:
  // Sums of a slot and group: H itself, or to be added to it.
  double* slot(int64_t s, int64_t g) const {
    const int64_t own = rows_.taps_first() ? s : s - 1;
    return (own < 0 ? h_ : sums_.get() + own * groups_ * D_ * D_) + g * D_ * D_;
  }

  // Entry of H where a tile begins.
  int64_t corner(int64_t tile) const {
    return (tiles_[tile].first * D_ + tiles_[tile].second) * gram_width(D_);
  }

  void multiply(const TiledRows<T>& view, int64_t first, int64_t rows, int64_t tile, double* out,
                int64_t ldo, T* partial) const {
    const auto [I, J] = tiles_[tile];
    const int64_t width = gram_width(D_), i = I * width, j = J * width;
    const GramTask<T> task{view,   i,   j,  std::min(width, D_ - i), std::min(width, D_ - j),
                           I == J, out, ldo};
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
            multiply(view, 0, count, 0, slot(s, g), D_, state.partial.get());
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
      rows_.pack(g, first, rows, packed, threads_);
      parallel_for(
          threads_, slots_ * count, [] { return Buffer<T>(kGramWidth * kGramWidth); },
          [&](Buffer<T>& partial, int64_t job) {
            const int64_t s = job / count, start = s * slot_rows;
            if (start < rows)
              multiply(packed.view(), start, std::min(slot_rows, rows - start), job % count,
                       slot(s, g) + corner(job % count), D_, partial.get());
          });
      done_.add(rows);
    }
  }

  void write_wide(int64_t g, T* h) {
    const int64_t width = gram_width(D_);
    PackedRows<T> packed(N_, D_);
    packed.clear_rest(0, N_);
    rows_.pack(g, 0, N_, packed, threads_);
    struct Sums {
      Buffer<T> partial;
      Buffer<double> tile;
    };
    parallel_for(
        threads_, static_cast<int64_t>(tiles_.size()),
        [&] { return Sums{Buffer<T>(kGramWidth * kGramWidth), Buffer<double>(width * width)}; },
        [&](Sums& sums, int64_t job) {
          if (done_.cancelled()) return;
          const auto [I, J] = tiles_[job];
          double* tile = sums.tile.get();
          std::fill_n(tile, width * width, 0.0);
          multiply(packed.view(), 0, N_, job, tile, width, sums.partial.get());
          const int64_t m = std::min(width, D_ - I * width), n = std::min(width, D_ - J * width);
          for (int64_t i = 0; i < m; ++i)
            std::copy_n(tile + i * width, I == J ? i + 1 : n, h + corner(job) + i * D_);
          mirror_tile(h, D_, I, J);
        });
    done_.add(N_);
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
  double* h_ = nullptr;  // of add()
  const int threads_;
  const std::vector<std::pair<int64_t, int64_t>> tiles_;
  const int64_t jobs_, slots_;
  Buffer<double> sums_;  // [slots beside H, groups, D, D]
  Progress done_;
};

}  // namespace

double direct_cost(const spade_conv2d_t& conv) {
  const ConvSizes sizes(conv);
  const double rows = static_cast<double>(sizes.positions), D = static_cast<double>(sizes.D);
  return static_cast<double>(conv.groups) *
         (rows * (D * (D / 2 + kGramColumns / 4. + kCopyCost) + kRowCost) + kEntryCost * D * D);
}

template <class T, class S>
void hessian_direct(const T* x, const spade_conv2d_t& conv, S* h, bool add, int threads,
                    const spade_progress_t* progress) {
  const int64_t D = ConvSizes(conv).D, count = conv.groups * D * D;
  if (conv.groups > 1 && conv.groups == conv.channels)
    return sum_in_double(h, count, add, threads,
                         [&](double* sum) { hessian_depthwise(x, conv, sum, threads, progress); });
  DirectHessian<T> hessian(x, conv, threads, progress);
  if constexpr (std::is_same_v<S, T>)
    if (!add && hessian.once()) return hessian.write(h);
  sum_in_double(h, count, add, threads, [&](double* sum) { hessian.add(sum); });
}

template void hessian_direct(const float*, const spade_conv2d_t&, double*, bool, int,
                             const spade_progress_t*);
template void hessian_direct(const float*, const spade_conv2d_t&, float*, bool, int,
                             const spade_progress_t*);
template void hessian_direct(const double*, const spade_conv2d_t&, double*, bool, int,
                             const spade_progress_t*);

}  // namespace spade

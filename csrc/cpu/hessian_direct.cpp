// The direct Hessian: rows of X (given, or unfolded a cache-sized piece at a time) times themselves.
//
// Work N D (D + 1) flop, by lower tiles; one thread owns a tile. Bound by the BLAS product; an unfolded
// piece of kUnfolded entries stays in the shared cache while all tiles read it.

#include "core/buffer.h"
#include "cpu/gram.h"
#include "cpu/hessian.h"

namespace spade {
namespace {

constexpr int64_t kRows = 16384;           // rows of a linear input between two reports
constexpr int64_t kUnfolded = 1 << 20;     // entries of an unfolded piece
constexpr double kUnfoldCost = 8;          // multiply-adds that unfolding one entry costs

// h (groups x D x D) += X^T X of one piece: N rows of groups x D columns, ldx apart.
template <class T>
void add_piece(const T* x, int64_t N, int64_t groups, int64_t D, int64_t ldx, double* h,
               int threads, Progress& done) {
  const auto pairs = lower_tiles(D);
  const int64_t width = gram_width(D), count = static_cast<int64_t>(pairs.size());
  const std::vector<Segment> rows{{0, 0, N}};
  parallel_for(threads, groups * count, [&] { return Buffer<T>(width * width); },
               [&](Buffer<T>& partial, int64_t job) {
                 if (done.cancelled()) return;
                 const auto [I, J] = pairs[job % count];
                 const T* group = x + job / count * D;
                 double* to = h + job / count * D * D;
                 gram(group + I * width, group + J * width, ldx, rows,
                      std::min(width, D - I * width), std::min(width, D - J * width),
                      to + I * width * D + J * width, D, partial.get());
                 mirror_tile(to, D, I, J);
                 done.add(N);
               });
}

// Unfold positions [first, first + count) to rows of `out`: [count, channels x taps].
template <class T>
void unfold(const T* x, const spade_conv2d_t& c, const ConvSizes& sizes, int64_t first,
            int64_t count, T* out, int threads) {
  constexpr int64_t kTask = 64;
  parallel_for(threads, (count + kTask - 1) / kTask, [] { return 0; }, [&](int, int64_t task) {
    for (int64_t i = task * kTask; i < std::min(count, (task + 1) * kTask); ++i) {
      const int64_t position = first + i, pixels = sizes.out_h * sizes.out_w;
      const T* image = x + position / pixels * c.stride_batch;
      const int64_t top = position % pixels / sizes.out_w * c.stride_h - c.pad_top;
      const int64_t left = position % sizes.out_w * c.stride_w - c.pad_left;
      T* row = out + i * c.channels * sizes.taps;
      for (int64_t a = 0; a < c.kernel_h; ++a)
        for (int64_t b = 0; b < c.kernel_w; ++b) {
          const int64_t y = top + a * c.dilation_h, z = left + b * c.dilation_w;
          const bool inside = y >= 0 && y < c.height && z >= 0 && z < c.width;
          const T* from = image + y * c.stride_row + z * c.stride_col;
          T* to = row + a * c.kernel_w + b;
          for (int64_t channel = 0; channel < c.channels; ++channel)
            to[channel * sizes.taps] = inside ? from[channel * c.stride_channel] : T(0);
        }
    }
  });
}

}  // namespace

template <class T>
void hessian_linear(const T* x, int64_t N, int64_t D, int64_t ldx, double* h, int threads,
                    const spade_progress_t* progress) {
  blas::use_one_thread();
  Progress done(progress, N * static_cast<int64_t>(lower_tiles(D).size()));
  for (int64_t first = 0; first < N && !done.cancelled(); first += kRows)
    add_piece(x + first * ldx, std::min(kRows, N - first), 1, D, ldx, h, threads, done);
  done.finish();
}

double direct_cost(const spade_conv2d_t& conv) {
  const ConvSizes sizes(conv);
  const double rows = static_cast<double>(sizes.positions), D = static_cast<double>(sizes.D);
  return static_cast<double>(conv.groups) * rows * D * (D / 2 + gram_width(sizes.D) / 2. + kUnfoldCost);
}

template <class T>
void hessian_direct(const T* x, const spade_conv2d_t& conv, double* h, int threads,
                    const spade_progress_t* progress) {
  const ConvSizes sizes(conv);
  const int64_t columns = conv.groups * sizes.D;
  const bool rows_in_place = sizes.taps == 1 && conv.stride_channel == 1 && conv.stride_h == 1 &&
                             conv.stride_w == 1 && conv.stride_row == conv.width * conv.stride_col &&
                             conv.stride_batch == conv.height * conv.stride_row &&
                             sizes.out_h == conv.height && sizes.out_w == conv.width;
  if (rows_in_place && conv.groups == 1)
    return hessian_linear(x, sizes.positions, sizes.D, conv.stride_col, h, threads, progress);
  blas::use_one_thread();
  const int64_t piece = std::min<int64_t>(
      std::max<int64_t>(kUnfolded / columns, 512), std::max<int64_t>(sizes.positions, 1));
  Buffer<T> rows(piece * columns);
  Progress done(progress,
                sizes.positions * conv.groups * static_cast<int64_t>(lower_tiles(sizes.D).size()));
  for (int64_t first = 0; first < sizes.positions && !done.cancelled(); first += piece) {
    const int64_t count = std::min(piece, sizes.positions - first);
    unfold(x, conv, sizes, first, count, rows.get(), threads);
    add_piece(rows.get(), count, conv.groups, sizes.D, columns, h, threads, done);
  }
  done.finish();
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

// spade_sparsegpt_prune: SparseGPT with one Cholesky a Hessian (Frantar & Alistarh, ICML 2023,
// Algorithm 1).
//
// With J the reversal of indices, J H J = L L^T and V = J L J (upper): H = V V^T and U =
// chol_upper(H^-1) = V^-1, so U_ii = 1 / V_ii and no inverse of H is formed. With E = W - Q, the
// weights of columns b at the moment all columns before b1 are done are
//     W_b + (E[:, :b1] V[:b1, b]) U_bb,      U_bb = V_bb^-1,
// one product for each lazy block of about 128 columns; inside it runs the published recurrence.
// Mask blocks and lazy blocks are independent. Work D^3 / 3 + R D^2 flop a sample, nearly all in
// products of panels (panels.h). The factor is kept as L^T, U' in the code, so V_ac = U'_c'a' with
// c' = D - 1 - c. Rows are taken kRowChunk at a time and kept transposed, [chunk, column, row]:
// columns are what the recurrence walks, rows fill its vectors.

#include <algorithm>
#include <vector>

#include "core/buffer.h"
#include "core/checks.h"
#include "core/damping.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "core/sparsegpt_options.h"
#include "cpu/cholesky.h"
#include "cpu/sparsegpt_kernel.h"
#include "cpu/sparsegpt_select.h"

namespace spade {
namespace {

// Columns whose errors reach the rest of the lazy block together.
constexpr int64_t kImmediate = 16;
constexpr double kParallelWork = 1 << 18;  // multiply-adds worth waking other threads

// Columns of a group that fits `limit`: the largest multiple of `mask` up to it, or `limit`.
int64_t multiple_within(int64_t mask, int64_t limit) {
  return mask >= limit ? limit : limit / mask * mask;
}

template <class T>
class SparseGpt {
 public:
  SparseGpt(int64_t R, int64_t D, const spade_sparsegpt_t& options, int threads)
      : R_(R),
        D_(D),
        options_(options),
        mask_(options.m > 0 ? options.m : std::min(options.block_size, D)),
        lazy_(std::min(D, multiple_within(mask_, kLazy))),
        span_(std::max(mask_, lazy_)),
        chunks_((R + kRowChunk - 1) / kRowChunk),
        threads_(threads),
        factor_(D),
        inverses_(factor_.count * kPanel * kPanel),
        errors_(chunks_ * D * kRowChunk),
        dense_(chunks_ * lazy_ * kRowChunk),
        state_(chunks_ * lazy_ * kRowChunk),
        inner_errors_(chunks_ * lazy_ * kRowChunk),
        scores_(chunks_ * mask_ * kRowChunk),
        gone_(chunks_ * span_ * kRowChunk),
        dead_(D),
        diagonal_(lazy_ * kLazy),
        inverse_(lazy_ * kLazy) {}

  // Prune one sample; false if no damping makes H positive definite. Reports D columns.
  bool prune(const T* w, const T* h, T* out, double* damp_used, Progress& done) {
    if (!factorise(h, damp_used)) return false;
    w_ = w;
    out_ = out;
    for (int64_t j = 0; j < D_; ++j) dead_[j] = h[j * (D_ + 1)] == T(0);
    for (int64_t first = 0; first < D_ && !done.cancelled(); first += span_) {
      const int64_t width = std::min(span_, D_ - first);
      if (mask_ > lazy_) select_wide(first, width);
      for (int64_t i = 0; i < width; i += lazy_)
        lazy_block(first + i, std::min(lazy_, width - i), i);
      done.add(width);
    }
    return true;
  }

 private:
  // factor_ = U' of the damped H: J H J = U'^T U'.
  bool factorise(const T* h, double* damp_used) {
    Buffer<double> diagonal(D_);
    const double mean = live_diagonal(h, D_, diagonal.get());
    for (; *damp_used >= 0; *damp_used = next_damp(*damp_used)) {
      const double shift = mean * *damp_used;
      if (sizeof(T) == sizeof(double) || *damp_used >= kFloatFromDamp) {
        pack(h, diagonal.get(), shift, true, factor_, threads_);
        if (cholesky(factor_, inverses_.get(), threads_)) return true;
      } else {
        const Panels<double> wide(D_);
        const Buffer<double> inverses(wide.count * kPanel * kPanel);
        pack(h, diagonal.get(), shift, true, wide, threads_);
        if (cholesky(wide, inverses.get(), threads_)) {
          std::copy(wide.panel(0), wide.panel(wide.count), factor_.panel(0));
          return true;
        }
      }
    }
    return false;
  }

  // fn(first chunk, last) for groups of `group` chunks; on one thread if it is little work.
  template <class Fn>
  void each_group(double work, int64_t group, Fn&& fn) const {
    parallel_for(
        work < kParallelWork ? 1 : threads_, (chunks_ + group - 1) / group, [] { return 0; },
        [&](int, int64_t i) { fn(i * group, std::min(chunks_, (i + 1) * group)); });
  }

  template <class Fn>
  void each_chunk(double work, Fn&& fn) const {
    each_group(work, 1, [&](int64_t chunk, int64_t) { fn(chunk); });
  }

  // Multiply-adds of a product with so many columns and terms.
  double work(int64_t columns, int64_t terms) const {
    return static_cast<double>(R_) * static_cast<double>(columns) * static_cast<double>(terms);
  }

  T* dense(int64_t chunk) const { return dense_.get() + chunk * lazy_ * kRowChunk; }
  T* state(int64_t chunk) const { return state_.get() + chunk * lazy_ * kRowChunk; }
  T* inner_errors(int64_t chunk) const { return inner_errors_.get() + chunk * lazy_ * kRowChunk; }
  T* errors(int64_t chunk) const { return errors_.get() + chunk * D_ * kRowChunk; }
  uint8_t* gone(int64_t chunk) const { return gone_.get() + chunk * span_ * kRowChunk; }
  int64_t rows_of(int64_t chunk) const { return std::min(kRowChunk, R_ - chunk * kRowChunk); }

  // inverse_ = U'_bb^-1 of columns [first, first + width): U_bb is its transpose, indices reversed.
  void invert_diagonal(int64_t first, int64_t width) {
    const int64_t last = D_ - first, start = last - width;
    for (int64_t i = start; i < last; ++i)
      for (int64_t j = std::max(start, i / kPanel * kPanel), end; j < last; j = end) {
        end = std::min(last, (j / kPanel + 1) * kPanel);
        std::copy_n(factor_.at(i, j), end - j, diagonal_.get() + (i - start) * kLazy + j - start);
      }
    SPADE_DISPATCH(sparsegpt_invert(diagonal_.get(), width, inverse_.get()));
  }

  // U_bb of a block so wide: entry (i, k) is [-k * kLazy - i] from here.
  const T* u(int64_t width) const { return inverse_.get() + (width - 1) * (kLazy + 1); }

  // dense_ = W of columns [first, first + width), dead ones zero, and state_ = their weights at the
  // moment all columns before are done.
  void load_block(int64_t first, int64_t width) {
    invert_diagonal(first, width);
    // More chunks of rows together read the factor less often, fewer occupy more threads.
    const int64_t group = std::clamp<int64_t>(chunks_ / threads_, 1, 4);
    each_group(work(width, first + width), group, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        transpose_in(w_ + chunk * kRowChunk * D_ + first, rows_of(chunk), width, dense(chunk));
        for (int64_t c = 0; c < width; ++c)
          if (dead_[first + c]) std::fill_n(dense(chunk) + c * kRowChunk, kRowChunk, T(0));
        std::copy_n(dense(chunk), width * kRowChunk, state(chunk));
      }
      if (first > 0) compensate(first, width, begin, end);
    });
  }

  // state_ += (E[:, :first] V[:first, b]) U_bb. The first product, panel by panel of U', lies in
  // memory that waits for the recurrence.
  void compensate(int64_t first, int64_t width, int64_t begin, int64_t end) {
    Sum sum = Sum::set;
    for (int64_t j = D_ - first, last = j; j < D_; j = last, sum = Sum::add) {
      last = std::min(D_, (j / kPanel + 1) * kPanel);
      for (int64_t chunk = begin; chunk < end; ++chunk)
        multiply({factor_.at(D_ - 1 - first, j), -kPanel, 1, errors(chunk) + j * kRowChunk,
                  kRowChunk, last - j, inner_errors(chunk), kRowChunk, width, kRowChunk,
                  errors(chunk) + last * kRowChunk},
                 sum);
    }
    for (int64_t chunk = begin; chunk < end; ++chunk)
      for (int64_t c = 0, last = 0; c < width; c = last) {
        last = std::min(width, c + kImmediate);
        multiply({u(width) - c * kLazy, -kLazy, -1, inner_errors(chunk), kRowChunk, last,
                  state(chunk) + c * kRowChunk, kRowChunk, last - c, kRowChunk},
                 Sum::add);
      }
  }

  static void multiply(const Product<T>& p, Sum sum) { SPADE_DISPATCH(product(p, sum)); }

  // E of columns [first, first + width), whose weights are state_; the last column lies first.
  void store_errors(int64_t first, int64_t width) {
    each_chunk(work(width, 4), [&](int64_t chunk) {
      for (int64_t c = 0; c < width; ++c) {
        const T *from = dense(chunk) + c * kRowChunk, *pruned = state(chunk) + c * kRowChunk;
        T* to = errors(chunk) + (D_ - 1 - first - c) * kRowChunk;
        for (int64_t r = 0; r < kRowChunk; ++r) to[r] = from[r] - pruned[r];
      }
    });
  }

  // Scores of columns [first, first + width), `at` in state_, as columns from `to` of a mask block
  // `total` wide.
  void score(int64_t first, int64_t width, int64_t at, int64_t to, int64_t total) {
    each_chunk(work(width, 1), [&](int64_t chunk) {
      for (int64_t c = 0; c < width; ++c)
        SPADE_DISPATCH(sparsegpt_score(state(chunk) + (at + c) * kRowChunk,
                                       *factor_.at(D_ - 1 - first - c, D_ - 1 - first - c),
                                       rows_of(chunk),
                                       scores_.get() + (chunk * total + to + c) * kRowChunk));
    });
  }

  // gone_ of a mask block of `width` columns from its scores; its columns lie from `at`.
  void select(int64_t width, int64_t at) {
    const MaskBlock<T> block{scores_.get(), gone_.get() + at * kRowChunk, R_, width, span_};
    if (options_.m > 0)
      select_nm(block, options_.n);
    else
      select_least(block, block_count(options_.sparsity, R_ * width, options_.extra));
  }

  // A mask block wider than a lazy one: scores need all its weights as they are when all columns
  // before it are done, that is each lazy block's as if its predecessors in the mask block lost
  // nothing.
  void select_wide(int64_t first, int64_t width) {
    for (int64_t i = 0; i < width; i += lazy_) {
      const int64_t columns = std::min(lazy_, width - i);
      load_block(first + i, columns);
      store_errors(first + i, columns);
      score(first + i, columns, 0, i, width);
    }
    select(width, 0);
  }

  // Columns [first, first + width); those of a wide mask block lie from `at` in gone_.
  void lazy_block(int64_t first, int64_t width, int64_t at) {
    load_block(first, width);
    for (int64_t begin = 0, end = 0; begin < width; begin = end) {
      end = std::min(width, begin + multiple_within(mask_, kImmediate));
      if (mask_ <= lazy_) end = std::min(end, std::max(begin / mask_ + 1, end / mask_) * mask_);
      for (int64_t i = begin, last = 0; i < end; i = last) {
        if (mask_ <= lazy_ && i % mask_ == 0) {
          const int64_t columns = std::min(mask_, width - i);
          score(first + i, columns, i, 0, columns);
          select(columns, i);
        }
        last = mask_ <= lazy_ ? std::min(end, (i / mask_ + 1) * mask_) : end;
        each_chunk(work(last - i, end - i), [&](int64_t chunk) {
          const LazyBlock<T> block{state(chunk), inner_errors(chunk), gone(chunk) + at * kRowChunk,
                                   u(width)};
          SPADE_DISPATCH(sparsegpt_eliminate(block, i, last, end));
        });
      }
      each_chunk(work(end - begin, width - end), [&](int64_t chunk) {
        multiply({u(width) - end * kLazy - begin, -kLazy, -1,
                  inner_errors(chunk) + begin * kRowChunk, kRowChunk, end - begin,
                  state(chunk) + end * kRowChunk, kRowChunk, width - end, kRowChunk},
                 Sum::subtract);
      });
    }
    store_errors(first, width);
    each_chunk(work(width, 4), [&](int64_t chunk) {
      transpose_out(state(chunk), rows_of(chunk), width, out_ + chunk * kRowChunk * D_ + first);
    });
  }

  // to [width, kRowChunk] = rows of w, D apart, and zeros
  void transpose_in(const T* w, int64_t rows, int64_t width, T* to) const {
    for (int64_t first = 0; first < width; first += kTile) {
      const int64_t last = std::min(width, first + kTile);
      for (int64_t r = 0; r < rows; ++r) {
        __builtin_prefetch(w + r * D_ + first + kTile);
        for (int64_t c = first; c < last; ++c) to[c * kRowChunk + r] = w[r * D_ + c];
      }
      for (int64_t c = first; c < last; ++c)
        std::fill(to + c * kRowChunk + rows, to + (c + 1) * kRowChunk, T(0));
    }
  }

  void transpose_out(const T* from, int64_t rows, int64_t width, T* out) const {
    for (int64_t first = 0; first < width; first += kTile)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = first; c < std::min(width, first + kTile); ++c)
          out[r * D_ + c] = from[c * kRowChunk + r];
  }

  static constexpr int64_t kTile = 16;  // columns of a tile of a transpose: a cache line

  const int64_t R_, D_;
  const spade_sparsegpt_t& options_;
  const int64_t mask_, lazy_, span_;  // columns of a mask block, of a lazy block, of the wider one
  const int64_t chunks_;
  const int threads_;
  const T* w_ = nullptr;  // of the sample
  T* out_ = nullptr;
  Panels<T> factor_;        // U'
  Buffer<T> inverses_;      // of its diagonal tiles
  Buffer<T> errors_;        // [chunks, D, kRowChunk]: E = W - Q so far, the last column first
  Buffer<T> dense_;         // [chunks, lazy, kRowChunk]: W of a lazy block
  Buffer<T> state_;         // [chunks, lazy, kRowChunk]: its weights now
  Buffer<T> inner_errors_;  // [chunks, lazy, kRowChunk]: (w - q) / U_ii
  Buffer<T> scores_;        // [chunks, width of the mask block, kRowChunk]
  Buffer<uint8_t> gone_;    // [chunks, span, kRowChunk]
  Buffer<uint8_t> dead_;    // [D]
  Buffer<T> diagonal_;      // [lazy, kLazy]: U'_bb
  Buffer<T> inverse_;       // [lazy, kLazy]: U'_bb^-1
};

template <class T>
void sparsegpt_prune(const T* w, int64_t w_stride, const T* h, int64_t S, int64_t R, int64_t D,
                     const spade_sparsegpt_t* options, T* out, double* damp_used, int32_t* info,
                     int threads, const spade_progress_t* progress) {
  const char* function = "spade_sparsegpt_prune";
  check_size(function, "S", S);
  check_size(function, "R", R);
  check_size(function, "D", D);
  check_sparsegpt_options(function, options, D);
  SPADE_CHECK(w_stride >= 0, "%s: w_stride must be >= 0, got %lld", function,
              static_cast<long long>(w_stride));
  check_threads(function, threads);
  check_pointer(function, "damp_used", damp_used, S);
  check_pointer(function, "info", info, S);
  std::fill_n(damp_used, S, options->damp);
  std::fill_n(info, S, 0);
  if (S == 0 || R == 0 || D == 0) return;
  check_pointer(function, "w", w, 1);
  check_pointer(function, "h", h, 1);
  check_pointer(function, "out", out, 1);
  for (int64_t s = 0; s < S; ++s) {
    check_finite(function, "h", h + s * D * D, D * D);
    if (s == 0 || w_stride > 0) check_finite(function, "w", w + s * w_stride, R * D);
  }

  Progress done(progress, S * D);
  SparseGpt<T> sparsegpt(R, D, *options, threads);
  for (int64_t s = 0; s < S && !done.cancelled(); ++s) {
    const T* dense = w + s * w_stride;
    T* to = out + s * R * D;
    if (sparsegpt.prune(dense, h + s * D * D, to, damp_used + s, done)) continue;
    info[s] = SPADE_SINGULAR;
    damp_used[s] = std::max(options->damp, 1.0);
    std::copy(dense, dense + R * D, to);
    done.add(D);
  }
  done.finish();
}

}  // namespace
}  // namespace spade

spade_status_t spade_sparsegpt_prune_f32(const float* w, int64_t w_stride, const float* h,
                                         int64_t S, int64_t R, int64_t D,
                                         const spade_sparsegpt_t* options, float* out,
                                         double* damp_used, int32_t* info, int threads,
                                         const spade_progress_t* progress) {
  return spade::guarded([&] {
    spade::sparsegpt_prune(w, w_stride, h, S, R, D, options, out, damp_used, info, threads,
                           progress);
  });
}

spade_status_t spade_sparsegpt_prune_f64(const double* w, int64_t w_stride, const double* h,
                                         int64_t S, int64_t R, int64_t D,
                                         const spade_sparsegpt_t* options, double* out,
                                         double* damp_used, int32_t* info, int threads,
                                         const spade_progress_t* progress) {
  return spade::guarded([&] {
    spade::sparsegpt_prune(w, w_stride, h, S, R, D, options, out, damp_used, info, threads,
                           progress);
  });
}

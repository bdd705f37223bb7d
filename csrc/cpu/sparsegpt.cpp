// spade_sparsegpt_prune: SparseGPT with one Cholesky a Hessian (Frantar & Alistarh, ICML 2023,
// Algorithm 1).
//
// With J the reversal of indices, J H J = L L^T and V = J L J (upper): H = V V^T and U =
// chol_upper(H^-1) = V^-1, so U_ii = 1 / V_ii and no inverse of H is formed. With E = W - Q, the
// weights of columns b at the moment all columns before b1 are done are
//     W_b + (E[:, :b1] V[:b1, b]) U_bb,      U_bb = V_bb^-1,
// one product for each lazy block of about 128 columns; inside it runs the published recurrence.
// Mask blocks and lazy blocks are independent. Work D^3 / 3 + R D^2 flop a sample, nearly all in
// BLAS. Arrays of rows are kept transposed, [column, row]: columns are what the recurrence walks.

#include <algorithm>
#include <vector>

#include "core/blas.h"
#include "core/buffer.h"
#include "core/checks.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "cpu/cholesky.h"
#include "cpu/sparsegpt_kernel.h"
#include "cpu/sparsegpt_select.h"

namespace spade {
namespace {

constexpr int64_t kLazy = 128;  // columns of a lazy block
// Columns whose errors reach the rest of the lazy block together.
constexpr int64_t kImmediate = 16;
constexpr int64_t kPadding = 16;           // rows: columns a power of two apart share cache sets
constexpr int64_t kTile = 16;              // columns of a tile of a transpose: a cache line
constexpr double kFloatFromDamp = 1e-3;    // with less damping floats are factorised in double
constexpr double kParallelWork = 1 << 18;  // multiply-adds worth waking other threads

// Columns of a group that fits `limit`: the largest multiple of `mask` up to it, or `limit`.
int64_t multiple_within(int64_t mask, int64_t limit) {
  return mask >= limit ? limit : limit / mask * mask;
}

// Chunks of rows in one product: more pack the other factor less often, fewer occupy more threads.
int64_t product_chunks(int64_t chunks) { return std::clamp<int64_t>(chunks / 4, 1, 4); }

template <class T>
class SparseGpt {
 public:
  SparseGpt(int64_t R, int64_t D, const spade_sparsegpt_t& options, int threads)
      : R_(R),
        D_(D),
        options_(options),
        mask_(options.m > 0 ? options.m : std::min(options.block_size, D)),
        lazy_(std::min(D, multiple_within(mask_, kLazy))),
        chunks_((R + kRowChunk - 1) / kRowChunk),
        stride_(chunks_ * kRowChunk + kPadding),
        threads_(threads),
        v_(D * D),
        weights_(D * stride_),
        error_(D * stride_),
        state_(std::max(mask_, lazy_) * stride_),
        scores_(mask_ * stride_),
        inner_error_(lazy_ * stride_),
        u_(lazy_ * lazy_),
        gone_(std::max(mask_, lazy_) * stride_) {}

  // Prune one sample; false if no damping makes H positive definite. Reports D columns.
  bool prune(const T* w, const T* h, T* out, double* damp_used, Progress& done) {
    if (!factorise(h, damp_used)) return false;
    transpose_in(w, h);
    const int64_t span = std::max(mask_, lazy_);
    for (int64_t first = 0; first < D_ && !done.cancelled(); first += span) {
      const int64_t width = std::min(span, D_ - first);
      if (mask_ > lazy_) {
        weights_at(first, width, nullptr);
        select(first, width, state_.get(), gone_.get());
      }
      for (int64_t i = 0; i < width; i += lazy_)
        lazy_block(first + i, std::min(lazy_, width - i), gone_.get() + i * stride_);
      done.add(width);
    }
    if (!done.cancelled()) transpose_out(out);
    return true;
  }

 private:
  // v_ = V of the damped H.
  bool factorise(const T* h, double* damp_used) {
    Buffer<double> diagonal(D_);
    const double mean = live_diagonal(h, D_, diagonal.get());
    for (; *damp_used >= 0; *damp_used = next_damp(*damp_used)) {
      if (sizeof(T) == sizeof(double) || *damp_used >= kFloatFromDamp) {
        if (reversed_cholesky(h, diagonal, mean * *damp_used, v_)) return true;
      } else {
        Buffer<double> wide(D_ * D_);
        if (reversed_cholesky(h, diagonal, mean * *damp_used, wide)) {
          std::copy(wide.get(), wide.get() + D_ * D_, v_.get());
          return true;
        }
      }
    }
    return false;
  }

  // v = J chol(J (H + shift) J) J; a flat array reversed is the matrix with both indices reversed.
  template <class F>
  bool reversed_cholesky(const T* h, const Buffer<double>& diagonal, double shift,
                         const Buffer<F>& v) const {
    const auto none = [] { return 0; };
    const auto row = [&](int64_t i) { return v.get() + i * D_; };
    const double size = static_cast<double>(D_) * static_cast<double>(D_);
    const int threads = size < kParallelWork ? 1 : threads_;
    parallel_for(threads, D_, none, [&](int, int64_t i) {
      std::reverse_copy(h + (D_ - 1 - i) * D_, h + (D_ - i) * D_, row(i));
      row(i)[i] = static_cast<F>(diagonal[D_ - 1 - i] + shift);
    });
    if (!cholesky(v.get(), D_, threads_)) return false;
    parallel_for(threads, (D_ + 1) / 2, none, [&](int, int64_t i) {
      const int64_t j = D_ - 1 - i;
      std::reverse(row(i), row(i) + D_);
      if (i == j) return;
      std::reverse(row(j), row(j) + D_);
      std::swap_ranges(row(i), row(i) + D_, row(j));
    });
    return true;
  }

  // fn(first row, rows) for each group of `group` chunks; on one thread if it is little work.
  template <class Fn>
  void each_chunk(double work, int64_t group, Fn&& fn) const {
    parallel_for(
        work < kParallelWork ? 1 : threads_, (chunks_ + group - 1) / group, [] { return 0; },
        [&](int, int64_t i) {
          const int64_t row = i * group * kRowChunk;
          fn(row, std::min(group, chunks_ - i * group) * kRowChunk);
        });
  }

  double work(int64_t columns, int64_t terms) const {
    return static_cast<double>(R_) * static_cast<double>(columns) * static_cast<double>(terms);
  }

  // weights_ = W^T; dead columns and the rows of padding are zero.
  void transpose_in(const T* w, const T* h) {
    each_chunk(work(D_, 1), 1, [&](int64_t row, int64_t) {
      const int64_t last = std::min(R_, row + kRowChunk);
      for (int64_t first = 0; first < D_; first += kTile) {
        const int64_t end = std::min(D_, first + kTile);
        for (int64_t r = row; r < last; ++r)
          for (int64_t j = first; j < end; ++j) weights_[j * stride_ + r] = w[r * D_ + j];
        for (int64_t j = first; j < end; ++j) {
          T* column = weights_.get() + j * stride_;
          std::fill(column + (h[j * D_ + j] == T(0) ? row : last), column + row + kRowChunk, T(0));
        }
      }
    });
  }

  void transpose_out(T* out) const {
    each_chunk(work(D_, 1), 1, [&](int64_t row, int64_t) {
      for (int64_t first = 0; first < D_; first += kTile)
        for (int64_t r = row; r < std::min(R_, row + kRowChunk); ++r)
          for (int64_t j = first; j < std::min(D_, first + kTile); ++j)
            out[r * D_ + j] = weights_[j * stride_ + r];
    });
  }

  // state_ = weights of columns [first, first + width) at the moment all columns before are done.
  // u: U_bb of these columns, or NULL to solve with V_bb.
  void weights_at(int64_t first, int64_t width, const T* u) {
    each_chunk(work(width, first + width), product_chunks(chunks_), [&](int64_t row, int64_t rows) {
      T* to = state_.get() + row;
      const T* dense = weights_.get() + first * stride_ + row;
      for (int64_t c = 0; c < width; ++c)
        std::copy(dense + c * stride_, dense + c * stride_ + rows, to + c * stride_);
      if (first == 0) return;
      // E V, in memory that waits for the selection (wide masks) or the recurrence.
      T* product = (u ? inner_error_ : scores_).get() + row;
      blas::gemm(blas::kYes, blas::kNo, width, rows, first, T(1), v_.get() + first, D_,
                 error_.get() + row, stride_, T(0), product, stride_);
      if (u) {
        blas::gemm(blas::kYes, blas::kNo, width, rows, width, T(1), u, width, product, stride_,
                   T(1), to, stride_);
        return;
      }
      blas::trsm(blas::kLeft, blas::kUpper, blas::kYes, width, rows, v_.get() + first * D_ + first,
                 D_, product, stride_);
      for (int64_t c = 0; c < width; ++c)
        for (int64_t r = 0; r < rows; ++r) to[c * stride_ + r] += product[c * stride_ + r];
    });
  }

  // gone of mask block [first, first + width), whose weights are w now.
  void select(int64_t first, int64_t width, const T* w, uint8_t* gone) {
    each_chunk(work(width, 1), 1, [&](int64_t row, int64_t) {
      for (int64_t c = 0; c < width; ++c)
        SPADE_DISPATCH(sparsegpt_score(w + c * stride_ + row, v_[(first + c) * (D_ + 1)],
                                       scores_.get() + c * stride_ + row));
    });
    if (options_.m > 0)
      select_nm(scores_.get(), R_, options_.n, options_.m, stride_, gone);
    else
      select_block(scores_.get(), R_, width, stride_,
                   block_count(options_.sparsity, R_ * width, options_.extra), gone, selection_);
  }

  // Columns [first, first + width); gone is given if the mask block is wider than a lazy block.
  void lazy_block(int64_t first, int64_t width, uint8_t* gone) {
    std::fill(u_.get(), u_.get() + width * width, T(0));
    for (int64_t i = 0; i < width; ++i) u_[i * width + i] = T(1);
    blas::trsm(blas::kLeft, blas::kUpper, blas::kNo, width, width, v_.get() + first * D_ + first,
               D_, u_.get(), width);
    weights_at(first, width, u_.get());
    const LazyBlock<T> block{state_.get(), inner_error_.get(), gone, u_.get(), width, stride_};
    for (int64_t begin = 0, end = 0; begin < width; begin = end) {
      end = std::min(width, begin + multiple_within(mask_, kImmediate));
      if (mask_ <= lazy_) end = std::min(end, std::max(begin / mask_ + 1, end / mask_) * mask_);
      for (int64_t i = begin, last = 0; i < end; i = last) {
        if (mask_ <= lazy_ && i % mask_ == 0)
          select(first + i, std::min(mask_, width - i), state_.get() + i * stride_,
                 gone + i * stride_);
        last = mask_ <= lazy_ ? std::min(end, (i / mask_ + 1) * mask_) : end;
        each_chunk(work(last - i, end - i), 1, [&](int64_t row, int64_t) {
          SPADE_DISPATCH(sparsegpt_eliminate(block, i, last, end, row));
        });
      }
      if (end < width)
        each_chunk(work(end - begin, width - end), 1, [&](int64_t row, int64_t) {
          SPADE_DISPATCH(sparsegpt_update(block, begin, end, row));
        });
    }
    each_chunk(work(width, 4), 1, [&](int64_t row, int64_t) {
      for (int64_t c = 0; c < width; ++c) {
        const T* pruned = state_.get() + c * stride_ + row;
        T* dense = weights_.get() + (first + c) * stride_ + row;
        T* error = error_.get() + (first + c) * stride_ + row;
        for (int64_t r = 0; r < kRowChunk; ++r) {
          error[r] = dense[r] - pruned[r];
          dense[r] = pruned[r];
        }
      }
    });
  }

  const int64_t R_, D_;
  const spade_sparsegpt_t& options_;
  const int64_t mask_, lazy_;  // columns of a mask block, of a lazy block
  const int64_t chunks_, stride_;
  const int threads_;
  Buffer<T> v_;            // [D, D]: V
  Buffer<T> weights_;      // [D, stride]: W^T; Q^T of the columns that are done
  Buffer<T> error_;        // [D, stride]: W - Q of the columns that are done
  Buffer<T> state_;        // [lazy or mask, stride]
  Buffer<T> scores_;       // [mask, stride]
  Buffer<T> inner_error_;  // [lazy, stride]
  Buffer<T> u_;            // [lazy, lazy]: U_bb
  Buffer<uint8_t> gone_;   // [lazy or mask, stride]
  SelectionScratch<T> selection_;
};

void check_options(const char* function, const spade_sparsegpt_t* o, int64_t D) {
  check_pointer(function, "options", o, 1);
  check_damp(function, o->damp);
  if (o->m == 0) {
    SPADE_CHECK(o->sparsity >= 0 && o->sparsity <= 1, "%s: sparsity must be in [0, 1], got %g",
                function, o->sparsity);
    check_size(function, "block_size", o->block_size, 1);
    check_size(function, "extra", o->extra);
    return;
  }
  check_size(function, "m", o->m);
  SPADE_CHECK(o->n >= 0 && o->n <= o->m, "%s: n must be in [0, m = %lld], got %lld", function,
              static_cast<long long>(o->m), static_cast<long long>(o->n));
  SPADE_CHECK(D % o->m == 0, "%s: m must divide D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(o->m));
}

template <class T>
void sparsegpt_prune(const T* w, int64_t w_stride, const T* h, int64_t S, int64_t R, int64_t D,
                     const spade_sparsegpt_t* options, T* out, double* damp_used, int32_t* info,
                     int threads, const spade_progress_t* progress) {
  const char* function = "spade_sparsegpt_prune";
  check_size(function, "S", S);
  check_size(function, "R", R);
  check_size(function, "D", D);
  check_options(function, options, D);
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

  blas::use_one_thread();
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

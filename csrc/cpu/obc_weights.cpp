// spade_obc_weights: the weights of a row after its first counts[r] eliminations, by the smaller
// solve.
//
// Kept set K, pruned set P, damped H and A = H^-1 (design: the order alone decides K):
//     |K| <= |P|:  w_K = H_KK^-1 (H w0)_K          |P| < |K|:  w = w0 - A[:,P] A_PP^-1 w0_P.
// H w0 is one matrix product for all rows. A row costs min(|K|, |P|)^3 / 3 flop and gathers as many
// entries squared; rows are independent. Floats are factorised as floats, and residuals in double
// refine the solution until it stands; where they do not, and for doubles, all of it is in double.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/blas.h"
#include "core/buffer.h"
#include "core/checks.h"
#include "core/finite.h"
#include "core/parallel.h"

namespace spade {
namespace {

template <class T>
struct Solve {
  const T *w, *h, *hinv, *products;  // products: R x D, rows of W H
  int64_t D, steps;
  const int32_t* order;
  const int64_t* counts;
  T* out;

  struct Scratch {
    explicit Scratch(int64_t D) : right(D), solution(D), residual(D), step(D) {}
    int64_t largest = 0, largest_refined = 0;  // k of the largest solve so far
    Buffer<double> matrix{0};                  // [k, k] of a solve
    Buffer<float> single{0}, factor{0};        // [k, k] of a refined one
    Buffer<double> right, solution, residual;  // [D]
    Buffer<float> step;                        // [D]
    std::vector<int64_t> kept, pruned;
  };

  // matrix = a over the index set, lower triangle
  template <class M>
  static void gather(const T* a, int64_t D, const std::vector<int64_t>& set, M* matrix) {
    const int64_t k = static_cast<int64_t>(set.size());
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j <= i; ++j) matrix[i * k + j] = a[set[i] * D + set[j]];
  }

  // s.right = (a over the index set)^-1 s.right; false if that is not positive definite.
  bool solve(const T* a, const std::vector<int64_t>& set, Scratch& s) const {
    const int64_t k = static_cast<int64_t>(set.size());
    if (k == 0) return true;
    if (sizeof(T) == sizeof(float) && k >= kLeastRefined && refined(a, set, s)) return true;
    if (k > s.largest) {
      s.matrix = Buffer<double>(k * k);
      s.largest = k;
    }
    gather(a, D, set, s.matrix.get());
    if (!blas::potrf(k, s.matrix.get(), k)) return false;
    blas::potrs(k, s.matrix.get(), k, s.right.get());
    return true;
  }

  // As solve, by steps that each solve for what is left with the factor in float; false, and
  // nothing changed, if they do not shrink as they should.
  bool refined(const T* a, const std::vector<int64_t>& set, Scratch& s) const {
    const int64_t k = static_cast<int64_t>(set.size());
    if (k > s.largest_refined) {
      s.single = Buffer<float>(k * k);
      s.factor = Buffer<float>(k * k);
      s.largest_refined = k;
    }
    gather(a, D, set, s.single.get());
    for (int64_t i = 0; i < k; ++i)
      std::copy_n(s.single.get() + i * k, i + 1, s.factor.get() + i * k);
    if (!blas::potrf(k, s.factor.get(), k)) return false;
    double* const x = s.solution.get();
    double* const left = s.residual.get();
    std::fill_n(x, k, 0.0);
    std::copy_n(s.right.get(), k, left);
    double before = std::numeric_limits<double>::infinity();
    for (int turn = 0; turn < kTurns; ++turn) {
      const double most = largest_of(left, k);
      if (!std::isfinite(most)) return false;
      if (most > 0) {
        const int exponent = std::ilogb(most);
        for (int64_t i = 0; i < k; ++i)
          s.step[i] = static_cast<float>(std::ldexp(left[i], -exponent));
        blas::potrs(k, s.factor.get(), k, s.step.get());
        double size = 0;
        for (int64_t i = 0; i < k; ++i) {
          const double step = std::ldexp(static_cast<double>(s.step[i]), exponent);
          size = std::max(size, std::abs(step));
          x[i] += step;
        }
        if (!(size <= kShrinks * before)) return false;
        before = size;
        if (size > kStands * largest_of(x, k)) {
          subtract_product(s.single.get(), k, x, s.right.get(), left);
          continue;
        }
      }
      std::copy_n(x, k, s.right.get());
      return true;
    }
    return false;
  }

  static double largest_of(const double* x, int64_t k) {
    double most = 0;
    for (int64_t i = 0; i < k; ++i)
      most = std::abs(x[i]) <= most ? most : std::abs(x[i]);  // NaN stays
    return most;
  }

  // left = b - A x, A symmetric with the lower triangle `a`.
  static void subtract_product(const float* a, int64_t k, const double* x, const double* b,
                               double* left) {
    std::copy_n(b, k, left);
    for (int64_t i = 0; i < k; ++i) {
      const float* row = a + i * k;
      double sums[4] = {};
      int64_t j = 0;
      for (; j + 4 <= i; j += 4)
        for (int64_t q = 0; q < 4; ++q) {
          sums[q] += static_cast<double>(row[j + q]) * x[j + q];
          left[j + q] -= static_cast<double>(row[j + q]) * x[i];
        }
      for (; j < i; ++j) {
        sums[0] += static_cast<double>(row[j]) * x[j];
        left[j] -= static_cast<double>(row[j]) * x[i];
      }
      left[i] -= (sums[0] + sums[1]) + (sums[2] + sums[3]) + static_cast<double>(row[i]) * x[i];
    }
  }

  static constexpr int64_t kLeastRefined = 24;  // smaller ones gain nothing
  static constexpr int kTurns = 6;
  static constexpr double kShrinks = 0.1;  // of the step before
  static constexpr double kStands = 1e-9;  // a step so small, relatively, is the last

  int32_t row(int64_t r, Scratch& s) const {
    std::vector<char> gone(static_cast<size_t>(D), 0);
    for (int64_t k = 0; k < counts[r]; ++k) gone[order[r * steps + k]] = 1;
    s.kept.clear();
    s.pruned.clear();
    for (int64_t j = 0; j < D; ++j) (gone[j] ? s.pruned : s.kept).push_back(j);
    const T* w0 = w + r * D;
    T* to = out + r * D;
    const bool by_kept = s.kept.size() <= s.pruned.size();
    const std::vector<int64_t>& set = by_kept ? s.kept : s.pruned;
    const int64_t k = static_cast<int64_t>(set.size());
    for (int64_t i = 0; i < k; ++i) s.right[i] = by_kept ? products[r * D + set[i]] : w0[set[i]];
    if (!solve(by_kept ? h : hinv, set, s)) return 1;
    if (by_kept) {
      std::fill(to, to + D, T(0));
      for (int64_t i = 0; i < k; ++i) to[set[i]] = static_cast<T>(s.right[i]);
      return out_of_range(to);
    }
    std::vector<double> sum(w0, w0 + D);
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < D; ++j)
        sum[j] -= s.right[i] * static_cast<double>(hinv[set[i] * D + j]);
    for (int64_t j = 0; j < D; ++j) to[j] = gone[j] ? T(0) : static_cast<T>(sum[j]);
    return out_of_range(to);
  }

  // 2 if a weight of the row is no number of T.
  int32_t out_of_range(const T* row) const { return std::isnan(largest(row, D)) ? 2 : 0; }
};

template <class T>
void obc_weights(const char* function, const T* w, const T* h, const T* hinv, int64_t R, int64_t D,
                 int64_t steps, const int32_t* order, const int64_t* counts, T* out, int32_t* info,
                 int threads, const spade_progress_t* progress) {
  check_size(function, "R", R);
  check_size(function, "D", D);
  check_size(function, "steps", steps);
  SPADE_CHECK(steps <= D, "%s: steps must be at most D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(steps));
  check_entries(function, "w", {R, D});
  check_entries(function, "h", {D, D});
  check_threads(function, threads);
  check_pointer(function, "counts", counts, R);
  check_pointer(function, "info", info, R);
  check_pointer(function, "order", order, R * steps);
  check_pointer(function, "w", w, R * D);
  check_pointer(function, "h", h, R * D);
  check_pointer(function, "hinv", hinv, R * D);
  check_pointer(function, "out", out, R * D);
  for (int64_t r = 0; r < R; ++r) {
    SPADE_CHECK(counts[r] >= 0 && counts[r] <= steps,
                "%s: counts must be in [0, steps = %lld], got %lld for row %lld", function,
                static_cast<long long>(steps), static_cast<long long>(counts[r]),
                static_cast<long long>(r));
    for (int64_t k = 0; k < counts[r]; ++k)
      SPADE_CHECK(order[r * steps + k] >= 0 && order[r * steps + k] < D,
                  "%s: order must be in [0, D = %lld), got %d in row %lld", function,
                  static_cast<long long>(D), order[r * steps + k], static_cast<long long>(r));
  }
  std::fill_n(info, R, 0);
  if (R == 0 || D == 0) return;
  const double d = static_cast<double>(D);  // at worst a solve of half the columns for every row
  threads = worth_waking(static_cast<double>(R) * d * d * (1 + d / 48), threads);
  check_finite(function, "w", w, R * D, threads);
  check_finite(function, "h", h, D * D, threads);
  check_finite(function, "hinv", hinv, D * D, threads);

  blas::use_one_thread();
  Progress done(progress, R);
  Buffer<T> products(R * D);
  constexpr int64_t kRows = 32;
  parallel_for(
      threads, (R + kRows - 1) / kRows, [] { return 0; },
      [&](int, int64_t i) {
        const int64_t first = i * kRows;
        if (done.stopped()) return;
        blas::gemm(std::min(kRows, R - first), D, D, w + first * D, D, h, D,
                   products.get() + first * D, D);
      });
  const Solve<T> solve{w, h, hinv, products.get(), D, steps, order, counts, out};
  parallel_for(
      threads, R, [&] { return typename Solve<T>::Scratch(D); },
      [&](typename Solve<T>::Scratch& scratch, int64_t r) {
        if (done.cancelled()) return;
        info[r] = solve.row(r, scratch);
        done.add(1);
      });
  done.finish();
}

// From blocks to their columns.
template <class T>
void obc_weights_block(const T* w, const T* h, const T* hinv, int64_t R, int64_t D, int64_t block,
                       int64_t steps, const int32_t* order, const int64_t* counts, T* out,
                       int32_t* info, int threads, const spade_progress_t* progress) {
  const char* function = "spade_obc_weights_block";
  check_size(function, "R", R);
  check_size(function, "D", D);
  check_size(function, "block", block, 1);
  check_size(function, "steps", steps);
  SPADE_CHECK(D % block == 0, "%s: block must divide D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(block));
  SPADE_CHECK(steps <= D / block, "%s: steps must be at most D / block = %lld, got %lld", function,
              static_cast<long long>(D / block), static_cast<long long>(steps));
  check_entries(function, "w", {R, D});
  check_pointer(function, "counts", counts, R);
  check_pointer(function, "order", order, R * steps);
  const Buffer<int32_t> columns(block > 1 ? R * steps * block : 0);
  std::vector<int64_t> counts_of_columns;
  if (block > 1) {
    for (int64_t i = 0; i < R * steps; ++i)  // out of range stays out of range
      for (int64_t k = 0; k < block; ++k) {
        const bool inside = order[i] >= 0 && order[i] < D / block;
        columns[i * block + k] = inside ? static_cast<int32_t>(order[i] * block + k) : -1;
      }
    for (int64_t r = 0; r < R; ++r) {
      SPADE_CHECK(counts[r] >= 0 && counts[r] <= steps,
                  "%s: counts must be in [0, steps = %lld], got %lld for row %lld", function,
                  static_cast<long long>(steps), static_cast<long long>(counts[r]),
                  static_cast<long long>(r));
      counts_of_columns.push_back(counts[r] * block);
    }
    order = columns.get();
    counts = counts_of_columns.data();
  }
  obc_weights(function, w, h, hinv, R, D, steps * block, order, counts, out, info, threads,
              progress);
}

}  // namespace
}  // namespace spade

#define SPADE_DEFINE_OBC_WEIGHTS(suffix, T)                                                       \
  spade_status_t spade_obc_weights_##suffix(const T* w, const T* h, const T* hinv, int64_t R,     \
                                            int64_t D, int64_t steps, const int32_t* order,       \
                                            const int64_t* counts, T* out, int32_t* info,         \
                                            int threads, const spade_progress_t* progress) {      \
    return spade::guarded([&] {                                                                   \
      spade::obc_weights("spade_obc_weights", w, h, hinv, R, D, steps, order, counts, out, info,  \
                         threads, progress);                                                      \
    });                                                                                           \
  }                                                                                               \
  spade_status_t spade_obc_weights_block_##suffix(                                                \
      const T* w, const T* h, const T* hinv, int64_t R, int64_t D, int64_t block, int64_t steps,  \
      const int32_t* order, const int64_t* counts, T* out, int32_t* info, int threads,            \
      const spade_progress_t* progress) {                                                         \
    return spade::guarded([&] {                                                                   \
      spade::obc_weights_block(w, h, hinv, R, D, block, steps, order, counts, out, info, threads, \
                               progress);                                                         \
    });                                                                                           \
  }

SPADE_DEFINE_OBC_WEIGHTS(f32, float)
SPADE_DEFINE_OBC_WEIGHTS(f64, double)

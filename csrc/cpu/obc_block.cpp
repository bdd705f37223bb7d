// spade_obc_trace_block: exact OBC that removes blocks of c consecutive columns.
//
// One step, blocks b still kept: b* = argmin w_b^T (A_bb)^-1 w_b, then with P = b*
//     w -= A[:,P] A_PP^-1 w_P,   A -= A[:,P] A_PP^-1 A[P,:].
// Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), section 4 (group
// OBS). In double on a full copy of A a thread. A step is a rank-c update of D^2 entries: D^3
// multiply-adds a row, bound by the D^3 / c entries read and written.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/blas.h"
#include "core/buffer.h"
#include "core/checks.h"
#include "core/parallel.h"

namespace spade {
namespace {

struct BlockRow {
  BlockRow(int64_t D_, int64_t c_)
      : D(D_), c(c_), a(D * D), w(D), solved(c * D), factor(c * c), right(c), kept(D / c) {}

  int64_t D, c;
  Buffer<double> a;       // [D, D]
  Buffer<double> w;       // [D]
  Buffer<double> solved;  // [c, D]: A_PP^-1 A[P,:]
  Buffer<double> factor;  // [c, c]
  Buffer<double> right;   // [c]
  std::vector<char> kept;

  // factor = Cholesky of A_bb; false if it is not positive definite.
  bool factorise(int64_t b) {
    for (int64_t i = 0; i < c; ++i)
      for (int64_t j = 0; j < c; ++j) factor[i * c + j] = a[(b * c + i) * D + b * c + j];
    return blas::potrf(c, factor.get(), c);
  }

  // w_b^T (A_bb)^-1 w_b, or NaN; leaves (A_bb)^-1 w_b in `right`.
  double score(int64_t b) {
    if (!factorise(b)) return std::numeric_limits<double>::quiet_NaN();
    std::copy_n(w.get() + b * c, c, right.get());
    blas::potrs(c, factor.get(), c, right.get());
    double sum = 0;
    for (int64_t i = 0; i < c; ++i) sum += w[b * c + i] * right[i];
    return sum;
  }

  void remove(int64_t b) {
    score(b);
    const double* rows = a.get() + b * c * D;
    for (int64_t j = 0; j < D; ++j)
      for (int64_t i = 0; i < c; ++i) w[j] -= right[i] * rows[i * D + j];
    std::copy_n(rows, c * D, solved.get());
    blas::trsm(blas::kLeft, blas::kLower, blas::kNo, c, D, factor.get(), c, solved.get(), D);
    blas::gemm(blas::kYes, blas::kNo, D, D, c, -1.0, solved.get(), D, solved.get(), D, 1.0, a.get(),
               D);
    kept[b] = 0;
  }

  template <class T>
  int32_t run(const T* weights, const T* hinv, int32_t* order, T* loss) {
    std::copy_n(hinv, D * D, a.get());
    std::copy_n(weights, D, w.get());
    std::fill(kept.begin(), kept.end(), 1);
    const int64_t steps = D / c;
    for (int64_t step = 0; step < steps; ++step) {
      int64_t best = -1;
      double least = std::numeric_limits<double>::infinity();
      bool definite = true;
      for (int64_t b = 0; b < steps; ++b) {
        if (!kept[b]) continue;
        const double s = score(b);
        definite = definite && !std::isnan(s);
        if (s < least) {
          least = s;
          best = b;
        }
      }
      if (best < 0 || !definite) {
        std::fill(order + step, order + steps, -1);
        std::fill(loss + step, loss + steps, std::numeric_limits<T>::quiet_NaN());
        return static_cast<int32_t>(step + 1);
      }
      order[step] = static_cast<int32_t>(best);
      loss[step] = static_cast<T>(0.5 * least);
      remove(best);
    }
    return 0;
  }
};

template <class T>
void obc_trace_block(const T* w, const T* hinv, int64_t R, int64_t D, int64_t block, int32_t* order,
                     T* loss, int32_t* info, int threads, const spade_progress_t* progress) {
  const char* function = "spade_obc_trace_block";
  check_size(function, "R", R);
  check_size(function, "D", D);
  check_size(function, "block", block, 1);
  SPADE_CHECK(D % block == 0, "%s: block must divide D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(block));
  check_threads(function, threads);
  check_pointer(function, "info", info, R);
  std::fill_n(info, R, 0);
  if (R == 0 || D == 0) return;
  check_pointer(function, "w", w, 1);
  check_pointer(function, "hinv", hinv, 1);
  check_pointer(function, "order", order, 1);
  check_pointer(function, "loss", loss, 1);
  check_finite(function, "w", w, R * D);
  check_finite(function, "hinv", hinv, D * D);

  blas::use_one_thread();
  Progress done(progress, R);
  const double d = static_cast<double>(D), work = static_cast<double>(R) * d * d * d;
  parallel_for(
      worth_waking(work, threads), R, [&] { return BlockRow(D, block); },
      [&](BlockRow& row, int64_t r) {
        if (done.cancelled()) return;
        info[r] = row.run(w + r * D, hinv, order + r * (D / block), loss + r * (D / block));
        done.add(1);
      });
  done.finish();
}

}  // namespace
}  // namespace spade

spade_status_t spade_obc_trace_block_f32(const float* w, const float* hinv, int64_t R, int64_t D,
                                         int64_t block, int32_t* order, float* loss, int32_t* info,
                                         int threads, const spade_progress_t* progress) {
  return spade::guarded(
      [&] { spade::obc_trace_block(w, hinv, R, D, block, order, loss, info, threads, progress); });
}

spade_status_t spade_obc_trace_block_f64(const double* w, const double* hinv, int64_t R, int64_t D,
                                         int64_t block, int32_t* order, double* loss, int32_t* info,
                                         int threads, const spade_progress_t* progress) {
  return spade::guarded(
      [&] { spade::obc_trace_block(w, hinv, R, D, block, order, loss, info, threads, progress); });
}

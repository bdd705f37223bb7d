// spade_damped_inverse: H' + damp mean(diag H') I factorised in double; the damping grows until it
// holds.

#include <algorithm>
#include <limits>

#include "core/buffer.h"
#include "core/damping.h"
#include "core/finite.h"
#include "core/parallel.h"
#include "cpu/cholesky.h"
#include "cpu/transpose4.h"

namespace spade {
namespace {

// The largest entries of a positive definite matrix are on its diagonal: entry j of the damped H
// and of its inverse must be normal numbers of T.
template <class T>
void check_in_range(const char* function, int64_t j, double damped, double inverse) {
  using Range = std::numeric_limits<T>;
  if (damped <= Range::max() && inverse >= Range::min() && inverse <= Range::max()) return;
  fail(SPADE_SINGULAR,
       "%s: the inverse of H must be in the range of %s, [%g, %g], got %g at (%lld, %lld), where "
       "the damped H is %g",
       function, sizeof(T) == sizeof(float) ? "float" : "double", static_cast<double>(Range::min()),
       static_cast<double>(Range::max()), inverse, static_cast<long long>(j),
       static_cast<long long>(j), damped);
}

// to = h with this diagonal, both triangles from the lower one of h.
template <class T>
void copy_symmetric(const T* h, const double* diagonal, int64_t D, T* to, int threads) {
  constexpr int64_t kRows = 16;  // a cache line of floats
  const double entries = static_cast<double>(D) * static_cast<double>(D);
  parallel_for(
      worth_waking(entries, threads), (D + kRows - 1) / kRows, [] { return 0; },
      [&](int, int64_t I) {
        const int64_t top = I * kRows, rows = std::min(kRows, D - top);
        transpose(h + top * D, D, rows, top, to + top, D);
        for (int64_t i = top; i < top + rows; ++i) {
          std::copy_n(h + i * D, i, to + i * D);
          for (int64_t j = top; j < i; ++j) to[j * D + i] = h[i * D + j];
          to[i * D + i] = static_cast<T>(diagonal[i]);
        }
      });
}

template <class T>
void damped_inverse(const T* h, int64_t D, double damp, T* hinv, T* damped, double* damp_used,
                    int threads, const spade_progress_t* progress) {
  const char* function = "spade_damped_inverse";
  check_size(function, "D", D);
  check_entries(function, "h", {D, D});
  check_threads(function, threads);
  check_damp(function, damp);
  check_pointer(function, "h", h, D);
  check_pointer(function, "hinv", hinv, D);
  check_pointer(function, "damp_used", damp_used, 1);
  *damp_used = damp;
  if (D == 0) return;
  check_finite(function, "h", h, D * D, threads);

  Progress done(progress, 2);
  const Panels<double> factor(D);
  const Buffer<double> tiles(factor.count * kPanel * kPanel), diagonal(D), inverse_diagonal(D);
  const double mean = live_diagonal(h, D, diagonal.get());
  for (;; *damp_used = next_damp(*damp_used)) {
    if (*damp_used < 0)
      fail(SPADE_SINGULAR, "%s: H is not positive definite, even with damp = %g", function,
           damp > 1 ? damp : 1.0);
    pack(h, diagonal.get(), *damp_used * mean, 1.0, false, factor, threads);
    if (cholesky(factor, tiles.get(), threads, done) || done.cancelled()) break;
  }
  done.add(1);
  cholesky_inverse(factor, tiles.get(), hinv, inverse_diagonal.get(), threads, done);
  done.add(1);
  done.finish();
  for (int64_t j = 0; j < D; ++j) diagonal[j] += *damp_used * mean;
  for (int64_t j = 0; j < D; ++j) check_in_range<T>(function, j, diagonal[j], inverse_diagonal[j]);
  if (damped) copy_symmetric(h, diagonal.get(), D, damped, threads);
}

}  // namespace
}  // namespace spade

double spade_next_damp(double damp) { return spade::next_damp(damp); }

spade_status_t spade_damped_inverse_f32(const float* h, int64_t D, double damp, float* hinv,
                                        float* damped, double* damp_used, int threads,
                                        const spade_progress_t* progress) {
  return spade::guarded(
      [&] { spade::damped_inverse(h, D, damp, hinv, damped, damp_used, threads, progress); });
}

spade_status_t spade_damped_inverse_f64(const double* h, int64_t D, double damp, double* hinv,
                                        double* damped, double* damp_used, int threads,
                                        const spade_progress_t* progress) {
  return spade::guarded(
      [&] { spade::damped_inverse(h, D, damp, hinv, damped, damp_used, threads, progress); });
}

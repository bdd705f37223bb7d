// spade_damped_inverse: H' + damp mean(diag H') I factorised in double; the damping grows until it
// holds.

#include "core/buffer.h"
#include "core/damping.h"
#include "core/finite.h"
#include "core/parallel.h"
#include "cpu/cholesky.h"

namespace spade {
namespace {

template <class T>
void damped_inverse(const T* h, int64_t D, double damp, T* hinv, T* damped, double* damp_used,
                    int threads, const spade_progress_t* progress) {
  const char* function = "spade_damped_inverse";
  check_size(function, "D", D);
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
  const Buffer<double> tiles(factor.count * kPanel * kPanel), inverse(D * D), diagonal(D);
  const double mean = live_diagonal(h, D, diagonal.get());
  for (;; *damp_used = next_damp(*damp_used)) {
    if (*damp_used < 0)
      fail(SPADE_SINGULAR, "%s: H is not positive definite, even with damp = %g", function,
           damp > 1 ? damp : 1.0);
    pack(h, diagonal.get(), *damp_used * mean, false, factor, threads);
    if (cholesky(factor, tiles.get(), threads)) break;
  }
  done.add(1);
  if (!done.cancelled()) cholesky_inverse(factor, tiles.get(), inverse.get(), threads);
  done.add(1);
  done.finish();
  std::copy(inverse.get(), inverse.get() + D * D, hinv);
  if (!damped) return;
  std::copy(h, h + D * D, damped);
  for (int64_t j = 0; j < D; ++j)
    damped[j * D + j] = static_cast<T>(diagonal[j] + *damp_used * mean);
}

}  // namespace
}  // namespace spade

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

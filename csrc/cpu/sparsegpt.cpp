// spade_sparsegpt_prune: SparseGPT with one Cholesky a Hessian (Frantar & Alistarh, ICML 2023,
// Algorithm 1).
//
// With J the reversal of indices, J H J = L L^T and V = J L J (upper): H = V V^T and U =
// chol_upper(H^-1) = V^-1, so U_ii = 1 / V_ii and no inverse of H is formed. The factor is kept as
// L^T, U' in the code (sparsegpt_factor.h). Columns go by lazy blocks of about 128
// (sparsegpt_sweep.h): each takes the errors of all columns before it in one product
// (sparsegpt_compensation.h) and then runs the published recurrence (sparsegpt_recurrence.h). Mask
// blocks and lazy blocks are independent. Work D^3 / 3 + R D^2 flop a sample.

#include <algorithm>

#include "core/finite.h"
#include "cpu/sparsegpt_factor.h"
#include "cpu/sparsegpt_sweep.h"

namespace spade {
namespace {

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
    check_finite(function, "h", h + s * D * D, D * D, threads);
    if (s == 0 || w_stride > 0) check_finite(function, "w", w + s * w_stride, R * D, threads);
  }

  Progress done(progress, S * D);
  const Panels<T> factor(D);
  SparseGptSweep<T> sweep({R, D, *options}, *options, factor, threads);
  for (int64_t s = 0; s < S && !done.cancelled(); ++s) {
    const T* dense = w + s * w_stride;
    T* to = out + s * R * D;
    if (sparsegpt_factor(h + s * D * D, damp_used + s, factor, threads)) {
      sweep.run(dense, h + s * D * D, to, done);
      continue;
    }
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

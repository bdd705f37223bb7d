// spade_sparsegpt_factor and spade_sparsegpt_sweep: SparseGPT in two steps, so that sweeps of
// several sparsities share the factor of one Hessian. Together they give the bits of
// spade_sparsegpt_prune.

#include <algorithm>
#include <cmath>

#include "core/finite.h"
#include "cpu/cholesky.h"
#include "cpu/sparsegpt_factor.h"
#include "cpu/sparsegpt_sweep.h"

namespace spade {
namespace {

template <class T>
void factorise(const T* h, int64_t S, int64_t D, double damp, T* factors, double* damp_used,
               int32_t* info, int threads, const spade_progress_t* progress) {
  const char* function = "spade_sparsegpt_factor";
  check_size(function, "S", S);
  check_size(function, "D", D);
  check_damp(function, damp);
  check_entries(function, "h", {S, D, D});
  check_threads(function, threads);
  check_pointer(function, "damp_used", damp_used, S);
  check_pointer(function, "info", info, S);
  std::fill_n(damp_used, S, damp);
  std::fill_n(info, S, 0);
  if (S == 0 || D == 0) return;
  check_pointer(function, "h", h, 1);
  check_pointer(function, "factors", factors, 1);
  const double n = static_cast<double>(D);
  threads = worth_waking(static_cast<double>(S) * n * n * n / 6, threads);
  Progress done(progress, S * D);
  for (int64_t s = 0; s < S && !done.cancelled(); ++s) {
    const T* hessian = h + s * D * D;
    check_finite(function, "h", hessian, D * D, threads);
    const Panels<T> factor(D, factors + s * Panels<T>::numbers(D));
    if (!sparsegpt_factor(hessian, damp_used + s, factor, threads, done)) {
      info[s] = SPADE_SINGULAR;
      damp_used[s] = std::max(damp, 1.0);
    }
  }
  done.finish();
}

template <class T>
void sweep(const T* w, int64_t w_stride, const T* h, const T* factors, const double* damps,
           int64_t S, int64_t R, int64_t D, const spade_sparsegpt_t* options, T* out,
           double* losses, int threads, const spade_progress_t* progress) {
  const char* function = "spade_sparsegpt_sweep";
  check_size(function, "S", S);
  check_size(function, "R", R);
  check_size(function, "D", D);
  check_sparsegpt_options(function, options, D);
  SPADE_CHECK(w_stride >= 0, "%s: w_stride must be >= 0, got %lld", function,
              static_cast<long long>(w_stride));
  check_entries(function, "out", {S, R, D});
  check_entries(function, "h", {S, D, D});
  check_entries(function, "w", {S, w_stride});
  check_threads(function, threads);
  check_pointer(function, "losses", losses, S);
  std::fill_n(losses, S, 0.0);
  if (S == 0 || R == 0 || D == 0) return;
  check_pointer(function, "w", w, 1);
  check_pointer(function, "h", h, 1);
  check_pointer(function, "factors", factors, 1);
  check_pointer(function, "damps", damps, 1);
  check_pointer(function, "out", out, 1);
  const double n = static_cast<double>(D);
  threads = worth_waking(static_cast<double>(S) * n * n * static_cast<double>(R) / 2, threads);
  double most = 0;  // of all samples
  for (int64_t s = 0; s < (w_stride > 0 ? S : 1); ++s)
    most = std::max(most, check_finite(function, "w", w + s * w_stride, R * D, threads));
  const double scale = scale_of_weights(most);
  const SparseGptShape shape(R, D, *options);
  const Buffer<double> diagonal(D);
  Progress done(progress, S * D);
  for (int64_t s = 0; s < S && !done.cancelled(); ++s) {
    const T* hessian = h + s * D * D;
    const Panels<T> factor(D, const_cast<T*>(factors + s * Panels<T>::numbers(D)));  // only read
    SparseGptSweep<T> one(shape, *options, factor, threads);
    one.run(w + s * w_stride, hessian, out + s * R * D, static_cast<T>(scale), done);
    if (done.cancelled()) break;
    if (scale < 1) check_finite(function, "the pruned weight", out + s * R * D, R * D);
    const double mean = live_diagonal(hessian, D, diagonal.get());
    losses[s] = one.loss(sparsegpt_scale<T>(mean), mean * damps[s]);
  }
  done.finish();
}

}  // namespace
}  // namespace spade

int64_t spade_sparsegpt_factor_size(int64_t D) {
  return D > 0 ? spade::Panels<float>::numbers(D) : 0;
}

#define SPADE_DEFINE_SPARSEGPT_AGAIN(suffix, T)                                                    \
  spade_status_t spade_sparsegpt_factor_##suffix(const T* h, int64_t S, int64_t D, double damp,    \
                                                 T* factors, double* damp_used, int32_t* info,     \
                                                 int threads, const spade_progress_t* progress) {  \
    return spade::guarded(                                                                         \
        [&] { spade::factorise(h, S, D, damp, factors, damp_used, info, threads, progress); });    \
  }                                                                                                \
  spade_status_t spade_sparsegpt_sweep_##suffix(                                                   \
      const T* w, int64_t w_stride, const T* h, const T* factors, const double* damps, int64_t S,  \
      int64_t R, int64_t D, const spade_sparsegpt_t* options, T* out, double* losses, int threads, \
      const spade_progress_t* progress) {                                                          \
    return spade::guarded([&] {                                                                    \
      spade::sweep(w, w_stride, h, factors, damps, S, R, D, options, out, losses, threads,         \
                   progress);                                                                      \
    });                                                                                            \
  }

SPADE_DEFINE_SPARSEGPT_AGAIN(f32, float)
SPADE_DEFINE_SPARSEGPT_AGAIN(f64, double)

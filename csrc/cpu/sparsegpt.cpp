// spade_sparsegpt_prune: SparseGPT with one Cholesky a Hessian (Frantar & Alistarh, ICML 2023,
// Algorithm 1).
//
// With J the reversal of indices, J H J = L L^T and V = J L J (upper): H = V V^T and U =
// chol_upper(H^-1) = V^-1, so U_ii = 1 / V_ii and no inverse of H is formed. The factor is kept as
// L^T, U' in the code (sparsegpt_factor.h). Columns go by lazy blocks of about 128
// (sparsegpt_sweep.h): each takes the errors of all columns before it in one product
// (sparsegpt_compensation.h) and then runs the published recurrence (sparsegpt_recurrence.h). Mask
// blocks and lazy blocks are independent. Work D^3 / 3 + R D^2 flop per sample.
//
// Each thread takes a sample of its own while there are as many as threads: nobody waits then.
// Samples left over are divided among all threads.

#include <algorithm>
#include <cmath>

#include "core/finite.h"
#include "cpu/sparsegpt_factor.h"
#include "cpu/sparsegpt_sweep.h"

namespace spade {
namespace {

// Threads of a call with so many samples.
inline int threads_for(int64_t S, int64_t R, int64_t D, int threads) {
  const double n = static_cast<double>(D), rows = static_cast<double>(R);
  return worth_waking(static_cast<double>(S) * n * n * (n / 6 + rows / 2), threads);
}

// Memory that a sample is pruned in.
template <class T>
struct Scratch {
  Scratch(const SparseGptShape& shape, const spade_sparsegpt_t& options, int threads)
      : factor(shape.D), sweep(shape, options, factor, threads) {}

  const Panels<T> factor;
  SparseGptSweep<T> sweep;
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
  check_entries(function, "out", {S, R, D});
  check_entries(function, "h", {S, D, D});
  check_entries(function, "w", {S, w_stride});
  check_threads(function, threads);
  check_pointer(function, "damp_used", damp_used, S);
  check_pointer(function, "info", info, S);
  std::fill_n(damp_used, S, options->damp);
  std::fill_n(info, S, 0);
  if (S == 0 || R == 0 || D == 0) return;
  check_pointer(function, "w", w, 1);
  check_pointer(function, "h", h, 1);
  check_pointer(function, "out", out, 1);
  threads = threads_for(S, R, D, threads);
  double most = 0;  // of all samples
  for (int64_t s = 0; s < (w_stride > 0 ? S : 1); ++s)
    most = std::max(most, check_finite(function, "w", w + s * w_stride, R * D, threads));
  const double scale = scale_of_weights(most);

  Progress done(progress, S * D);
  const auto prune = [&](Scratch<T>& scratch, int64_t s, int threads_of_sample) {
    if (done.cancelled()) return;
    const T *dense = w + s * w_stride, *hessian = h + s * D * D;
    T* to = out + s * R * D;
    check_finite(function, "h", hessian, D * D, threads_of_sample);  // and into the cache
    if (sparsegpt_factor(hessian, damp_used + s, scratch.factor, threads_of_sample, done)) {
      scratch.sweep.run(dense, hessian, to, static_cast<T>(scale), done);
      if (scale < 1 && !done.cancelled()) check_finite(function, "the pruned weight", to, R * D);
      return;
    }
    info[s] = SPADE_SINGULAR;
    damp_used[s] = std::max(options->damp, 1.0);
    std::copy(dense, dense + R * D, to);
    done.add(D);
  };
  const SparseGptShape shape(R, D, *options);
  const auto scratch = [&](int threads_of_sample) {
    return Scratch<T>(shape, *options, threads_of_sample);
  };
  const int64_t whole = S / threads * threads;
  parallel_for(
      threads, whole, [&] { return scratch(1); },
      [&](Scratch<T>& own, int64_t s) { prune(own, s, 1); });
  if (whole < S) {
    Scratch<T> shared = scratch(threads);
    for (int64_t s = whole; s < S; ++s) prune(shared, s, threads);
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

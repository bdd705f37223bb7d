// spade_hessian_linear and spade_hessian_conv2d: argument checks and the choice of the form.

#include "cpu/hessian.h"

#include "core/checks.h"
#include "core/conv.h"

namespace spade {
namespace {

template <class T>
void checked_linear(const T* x, int64_t N, int64_t D, int64_t ldx, double* h, int threads,
                    const spade_progress_t* progress) {
  const char* function = "spade_hessian_linear";
  SPADE_CHECK(N >= 0, "%s: N must be >= 0, got %lld", function, static_cast<long long>(N));
  check_size(function, "D", D);
  SPADE_CHECK(ldx >= D, "%s: ldx must be at least D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(ldx));
  check_threads(function, threads);
  if (N == 0 || D == 0) return;
  check_pointer(function, "x", x, 1);
  check_pointer(function, "h", h, 1);
  hessian_linear(x, N, D, ldx, h, threads, progress);
}

template <class T>
void checked_conv2d(const T* x, const spade_conv2d_t* conv, int form, double* h, int threads,
                    const spade_progress_t* progress) {
  const char* function = "spade_hessian_conv2d";
  check_conv(function, conv);
  SPADE_CHECK(form == SPADE_HESSIAN_AUTO || form == SPADE_HESSIAN_TAP_OFFSETS ||
                  form == SPADE_HESSIAN_DIRECT,
              "%s: form must be a spade_hessian_form_t, got %d", function, form);
  check_threads(function, threads);
  const ConvSizes sizes(*conv);
  if (sizes.positions == 0 || sizes.D == 0) return;
  if (conv->height == 0 || conv->width == 0) return;  // every patch is padding
  check_pointer(function, "x", x, 1);
  check_pointer(function, "h", h, 1);
  const bool by_taps =
      form == SPADE_HESSIAN_TAP_OFFSETS ||
      (form == SPADE_HESSIAN_AUTO && sizes.taps > 1 && taps_cost(*conv) < direct_cost(*conv));
  (by_taps ? hessian_taps<T> : hessian_direct<T>)(x, *conv, h, threads, progress);
}

}  // namespace
}  // namespace spade

spade_status_t spade_hessian_linear_f32(const float* x, int64_t N, int64_t D, int64_t ldx,
                                        double* h, int threads, const spade_progress_t* progress) {
  return spade::guarded([&] { spade::checked_linear(x, N, D, ldx, h, threads, progress); });
}

spade_status_t spade_hessian_linear_f64(const double* x, int64_t N, int64_t D, int64_t ldx,
                                        double* h, int threads, const spade_progress_t* progress) {
  return spade::guarded([&] { spade::checked_linear(x, N, D, ldx, h, threads, progress); });
}

spade_status_t spade_hessian_conv2d_f32(const float* x, const spade_conv2d_t* conv, int form,
                                        double* h, int threads, const spade_progress_t* progress) {
  return spade::guarded([&] { spade::checked_conv2d(x, conv, form, h, threads, progress); });
}

spade_status_t spade_hessian_conv2d_f64(const double* x, const spade_conv2d_t* conv, int form,
                                        double* h, int threads, const spade_progress_t* progress) {
  return spade::guarded([&] { spade::checked_conv2d(x, conv, form, h, threads, progress); });
}

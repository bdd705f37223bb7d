// spade_hessian_linear and spade_hessian_conv2d: argument checks and the choice of the form.

#include "cpu/hessian.h"

#include "core/checks.h"

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

void check_conv(const char* function, const spade_conv2d_t* conv) {
  check_pointer(function, "conv", conv, 1);
  const auto least = [&](const char* name, int64_t value, int64_t low) {
    check_size(function, name, value, low);
  };
  least("batch", conv->batch, 0);
  least("channels", conv->channels, 0);
  least("height", conv->height, 0);
  least("width", conv->width, 0);
  least("kernel_h", conv->kernel_h, 1);
  least("kernel_w", conv->kernel_w, 1);
  least("stride_h", conv->stride_h, 1);
  least("stride_w", conv->stride_w, 1);
  least("pad_top", conv->pad_top, 0);
  least("pad_bottom", conv->pad_bottom, 0);
  least("pad_left", conv->pad_left, 0);
  least("pad_right", conv->pad_right, 0);
  least("dilation_h", conv->dilation_h, 1);
  least("dilation_w", conv->dilation_w, 1);
  least("groups", conv->groups, 1);
  SPADE_CHECK(conv->channels % conv->groups == 0,
              "%s: groups must divide channels = %lld, got %lld", function,
              static_cast<long long>(conv->channels), static_cast<long long>(conv->groups));
  const double columns = static_cast<double>(conv->channels) / static_cast<double>(conv->groups) *
                         static_cast<double>(conv->kernel_h) * static_cast<double>(conv->kernel_w);
  SPADE_CHECK(columns <= INT32_MAX, "%s: columns of H must be below 2^31, got %.0f", function,
              columns);
  const double entries = static_cast<double>(conv->batch) *
                         static_cast<double>(conv->height + conv->pad_top + conv->pad_bottom) *
                         static_cast<double>(conv->width + conv->pad_left + conv->pad_right);
  SPADE_CHECK(entries < 0x1p62, "%s: batch x padded image must be below 2^62, got %.3g", function,
              entries);
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

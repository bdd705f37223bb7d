// spade_hessian_linear(_set) and spade_hessian_conv2d(_set): argument checks and the choice of the
// form.

#include "cpu/hessian.h"

#include <type_traits>

#include "core/buffer.h"
#include "core/checks.h"
#include "core/conv.h"
#include "core/tap_plan.h"
#include "cpu/hessian_range.h"

namespace spade {
namespace {

// First touch of what all threads will write piecemeal, each huge page by one of them: else they
// would have the system clear the same pages at once.
template <class S>
void touch(S* h, int64_t count, int threads) {
  constexpr uintptr_t kPage = 4096;
  const uintptr_t first = reinterpret_cast<uintptr_t>(h) / kHugePage;
  const uintptr_t end = reinterpret_cast<uintptr_t>(h + count);
  parallel_for(
      threads, static_cast<int64_t>(end / kHugePage - first + 1), [] { return 0; },
      [&](int, int64_t i) {
        const uintptr_t begin = (first + i) * kHugePage;
        S* const from = begin < reinterpret_cast<uintptr_t>(h) ? h : reinterpret_cast<S*>(begin);
        S* const to = reinterpret_cast<S*>(std::min(end, begin + kHugePage));
        for (S* p = from; p < to; p += kPage / sizeof(S)) *p = S(0);
      });
}

// H += (add) or = what sum(x, conv, h, add) makes of the input. What leaves the range of T is
// summed in double.
template <class T, class S, class Sum>
void sum_in_range(const char* function, const T* x, spade_conv2d_t conv, S* h, bool add,
                  int threads, Sum&& sum) {
  const ConvSizes sizes(conv);
  const double most = check_input(function, x, conv, threads);
  if (in_range<T, S>(most, static_cast<double>(sizes.positions))) {
    if (!add) touch(h, conv.groups * sizes.D * sizes.D, threads);
    sum(x, conv, h, add);
    return;
  }
  if (!in_range<double, double>(most, 0))
    fail(SPADE_NOT_FINITE, "%s: H of x near %g is out of the range of double", function, most);
  const Buffer<double> wide = widened(x, conv, threads);
  if constexpr (std::is_same_v<S, double>) {
    sum(static_cast<const double*>(wide.get()), conv, h, add);
  } else {
    const Buffer<double> own(conv.groups * sizes.D * sizes.D);
    sum(static_cast<const double*>(wide.get()), conv, own.get(), false);
    round_to(function, own.get(), conv.groups, sizes.D, h);
  }
}

template <class T, class S>
void checked_linear(const char* function, const T* x, int64_t N, int64_t D, int64_t ldx, S* h,
                    bool add, int threads, const spade_progress_t* progress) {
  SPADE_CHECK(N >= 0, "%s: N must be >= 0, got %lld", function, static_cast<long long>(N));
  check_size(function, "D", D);
  SPADE_CHECK(ldx >= D, "%s: ldx must be at least D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(ldx));
  check_entries(function, "H", {D, D});
  check_entries(function, "x", {N, ldx});
  check_threads(function, threads);
  if (D == 0 || (N == 0 && add)) return;
  check_pointer(function, "h", h, 1);
  if (N == 0) {
    std::fill_n(h, D * D, S(0));
    return;
  }
  check_pointer(function, "x", x, 1);
  sum_in_range(function, x, one_line(N, D, ldx), h, add, threads,
               [&](auto* rows, const spade_conv2d_t& line, auto* to, bool adds) {
                 hessian_direct(rows, line, to, adds, threads, progress);
               });
}

template <class T>
void add_linear(const T* x, int64_t N, int64_t D, int64_t ldx, double* h, int threads,
                const spade_progress_t* progress) {
  checked_linear("spade_hessian_linear", x, N, D, ldx, h, true, threads, progress);
}

template <class T>
void set_linear(const T* x, int64_t N, int64_t D, int64_t ldx, T* h, int threads,
                const spade_progress_t* progress) {
  checked_linear("spade_hessian_linear_set", x, N, D, ldx, h, false, threads, progress);
}

// H += (add) or = the sum over the patches.
template <class T, class S>
void checked_conv2d(const char* function, const T* x, const spade_conv2d_t* conv, int form, S* h,
                    bool add, int threads, const spade_progress_t* progress) {
  check_conv(function, conv);
  SPADE_CHECK(form == SPADE_HESSIAN_AUTO || form == SPADE_HESSIAN_TAP_OFFSETS ||
                  form == SPADE_HESSIAN_DIRECT,
              "%s: form must be a spade_hessian_form_t, got %d", function, form);
  check_threads(function, threads);
  const ConvSizes sizes(*conv);
  const int64_t entries = conv->groups * sizes.D * sizes.D;
  if (entries == 0) return;
  const bool empty = sizes.positions == 0 || conv->height == 0 || conv->width == 0;  // or padding
  if (empty && add) return;
  check_pointer(function, "h", h, 1);
  if (empty) {
    std::fill_n(h, entries, S(0));
    return;
  }
  check_pointer(function, "x", x, 1);
  const bool choose = form == SPADE_HESSIAN_AUTO && sizes.taps > 1 && sizes.channels > 1;
  sum_in_range(function, x, *conv, h, add, threads,
               [&](auto* images, const spade_conv2d_t& geometry, auto* to, bool adds) {
                 if (form == SPADE_HESSIAN_TAP_OFFSETS || choose) {
                   const TapAxes axes(geometry);
                   if (!choose || taps_cost(geometry, axes) < direct_cost(geometry))
                     return hessian_taps(images, geometry, TapPlan(axes), to, adds, threads,
                                         progress);
                 }
                 hessian_direct(images, geometry, to, adds, threads, progress);
               });
}

template <class T>
void add_conv2d(const T* x, const spade_conv2d_t* conv, int form, double* h, int threads,
                const spade_progress_t* progress) {
  checked_conv2d("spade_hessian_conv2d", x, conv, form, h, true, threads, progress);
}

template <class T>
void set_conv2d(const T* x, const spade_conv2d_t* conv, int form, T* h, int threads,
                const spade_progress_t* progress) {
  checked_conv2d("spade_hessian_conv2d_set", x, conv, form, h, false, threads, progress);
}

}  // namespace
}  // namespace spade

spade_status_t spade_hessian_linear_f32(const float* x, int64_t N, int64_t D, int64_t ldx,
                                        double* h, int threads, const spade_progress_t* progress) {
  return spade::guarded([&] { spade::add_linear(x, N, D, ldx, h, threads, progress); });
}

spade_status_t spade_hessian_linear_f64(const double* x, int64_t N, int64_t D, int64_t ldx,
                                        double* h, int threads, const spade_progress_t* progress) {
  return spade::guarded([&] { spade::add_linear(x, N, D, ldx, h, threads, progress); });
}

spade_status_t spade_hessian_linear_set_f32(const float* x, int64_t N, int64_t D, int64_t ldx,
                                            float* h, int threads,
                                            const spade_progress_t* progress) {
  return spade::guarded([&] { spade::set_linear(x, N, D, ldx, h, threads, progress); });
}

spade_status_t spade_hessian_linear_set_f64(const double* x, int64_t N, int64_t D, int64_t ldx,
                                            double* h, int threads,
                                            const spade_progress_t* progress) {
  return spade::guarded([&] { spade::set_linear(x, N, D, ldx, h, threads, progress); });
}

spade_status_t spade_hessian_conv2d_f32(const float* x, const spade_conv2d_t* conv, int form,
                                        double* h, int threads, const spade_progress_t* progress) {
  return spade::guarded([&] { spade::add_conv2d(x, conv, form, h, threads, progress); });
}

spade_status_t spade_hessian_conv2d_f64(const double* x, const spade_conv2d_t* conv, int form,
                                        double* h, int threads, const spade_progress_t* progress) {
  return spade::guarded([&] { spade::add_conv2d(x, conv, form, h, threads, progress); });
}

spade_status_t spade_hessian_conv2d_set_f32(const float* x, const spade_conv2d_t* conv, int form,
                                            float* h, int threads,
                                            const spade_progress_t* progress) {
  return spade::guarded([&] { spade::set_conv2d(x, conv, form, h, threads, progress); });
}

spade_status_t spade_hessian_conv2d_set_f64(const double* x, const spade_conv2d_t* conv, int form,
                                            double* h, int threads,
                                            const spade_progress_t* progress) {
  return spade::guarded([&] { spade::set_conv2d(x, conv, form, h, threads, progress); });
}

// Inputs of linear and convolution layers, and their H from csrc/cuda against the float64 CPU
// functions.
#pragma once

#include <random>

#include "check.h"
#include "cuda/hessian_gather.cuh"
#include "cuda/hessian_problem.h"
#include "cuda/ops.h"

namespace {

using spade::cuda::Bfloat16;
using spade::cuda::Half;

// Entries are compared relative to the norms of their two columns of X.
constexpr double kExact = 1e-6, kFast = 3e-5;

template <class T>
constexpr int kType = SPADE_FLOAT32;
template <>
constexpr int kType<Half> = SPADE_FLOAT16;
template <>
constexpr int kType<Bfloat16> = SPADE_BFLOAT16;

inline float as(float x, float) { return x; }
inline Half as(float x, Half) { return {spade::cuda::to_half(x)}; }
inline Bfloat16 as(float x, Bfloat16) { return {spade::cuda::to_bfloat16(x)}; }

// Half of them negative, a fifth zero, the others in [0.1, 3) times a power of two that changes
// along the way.
template <class T>
std::vector<T> numbers(int64_t count, bool alike = false) {
  std::mt19937 generator(7);
  std::uniform_real_distribution<float> size(0.1f, 3.0f);
  std::vector<T> out;
  for (int64_t i = 0; i < count; ++i) {
    const float x = generator() % 2 ? size(generator) : -size(generator);
    out.push_back(as(generator() % 5 ? std::ldexp(x, alike ? 0 : i / 97 % 9 - 4) : 0.0f, T{}));
  }
  return out;
}

template <class T>
std::vector<double> as_double(const std::vector<T>& x) {
  std::vector<double> out;
  for (const T value : x) out.push_back(spade::cuda::to_float(value));
  return out;
}

// H was `before` everywhere; problems x D x D. Returns the largest error.
inline double check_hessian(const DeviceArray<double>& h, const std::vector<double>& expected,
                            double before, int64_t problems, int64_t D, double bound) {
  double worst = 0;
  bool symmetric = true;
  for (int64_t p = 0; p < problems; ++p)
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = 0; j < D; ++j) {
        const auto at = [&](int64_t a, int64_t b) { return (p * D + a) * D + b; };
        symmetric = symmetric && h[at(i, j)] == h[at(j, i)];
        const double error = std::fabs(h[at(i, j)] - before - expected[at(i, j)]);
        const double size = std::sqrt(expected[at(i, i)] * expected[at(j, j)]);
        if (!(error <= worst * size)) worst = size > 0 ? error / size : error == 0 ? worst : 1;
      }
  CHECK(symmetric);
  CHECK(worst <= bound);
  if (!(worst <= bound)) std::printf("  error %.2e, D %lld\n", worst, static_cast<long long>(D));
  return worst;
}

template <class T>
double linear_of(const std::vector<T>& rows, int64_t S, int64_t N, int64_t D, int64_t ldx,
                 int precision, double bound) {
  const std::vector<double> x = as_double(rows);
  std::vector<double> expected(static_cast<size_t>(S * D * D));
  for (int64_t s = 0; s < S; ++s)
    CHECK_SUCCESS(spade_hessian_linear_f64(x.data() + s * (N / S) * ldx, N / S, D, ldx,
                                           expected.data() + s * D * D, 1, nullptr));
  size_t bytes = 0;
  CHECK_SUCCESS(spade::cuda::hessian_linear_workspace_bytes(S, N, D, kType<T>, precision, &bytes));
  const DeviceArray<T> on_device(rows);
  DeviceArray<char> workspace(static_cast<int64_t>(bytes));
  DeviceArray<double> h(std::vector<double>(expected.size(), 0.5));
  CHECK_SUCCESS(spade::cuda::hessian_linear(on_device.get(), kType<T>, S, N, D, ldx, precision,
                                            h.get(), workspace.get(), bytes, nullptr));
  return check_hessian(h, expected, 0.5, S, D, bound);
}

template <class T>
void linear(int64_t S, int64_t N, int64_t D, int64_t ldx, int precision, double bound) {
  linear_of(numbers<T>((N - 1) * ldx + D), S, N, D, ldx, precision, bound);
}

struct Convolution {
  int64_t batch, channels, height, width, kernel_h, kernel_w, stride_h, stride_w;
  int64_t pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups;

  spade_conv2d_t nchw() const {
    return with_strides(channels * height * width, height * width, width, 1);
  }
  spade_conv2d_t channels_last() const {
    return with_strides(channels * height * width, 1, width * channels, channels);
  }
  // Whether the kernel lies within the padded image; others are refused.
  bool fits() const {
    return dilation_h * (kernel_h - 1) < height + pad_top + pad_bottom &&
           dilation_w * (kernel_w - 1) < width + pad_left + pad_right;
  }
  // Every other column of wider rows.
  spade_conv2d_t spread() const {
    return with_strides(channels * height * width * 2 + 3, height * width * 2, width * 2, 2);
  }

 private:
  spade_conv2d_t with_strides(int64_t b, int64_t c, int64_t y, int64_t x) const {
    return {batch,    channels,  height,     width,      b,        c,       y,
            x,        kernel_h,  kernel_w,   stride_h,   stride_w, pad_top, pad_bottom,
            pad_left, pad_right, dilation_h, dilation_w, groups};
  }
};

template <class T>
std::vector<double> convolution_of(const std::vector<T>& input, const spade_conv2d_t& conv,
                                   int64_t S, int precision, double bound) {
  const spade::ConvSizes sizes(conv);
  const int64_t each = conv.groups * sizes.D * sizes.D;
  const std::vector<double> x = as_double(input);
  std::vector<double> expected(static_cast<size_t>(S * each));
  for (int64_t s = 0; s < S; ++s) {
    spade_conv2d_t one = conv;
    one.batch /= S;
    CHECK_SUCCESS(spade_hessian_conv2d_f64(x.data() + s * one.batch * conv.stride_batch, &one,
                                           SPADE_HESSIAN_DIRECT, expected.data() + s * each, 1,
                                           nullptr));
  }
  size_t bytes = 0;
  CHECK_SUCCESS(spade::cuda::hessian_conv2d_workspace_bytes(&conv, S, kType<T>, precision, &bytes));
  const DeviceArray<T> on_device(input);
  DeviceArray<char> workspace(static_cast<int64_t>(bytes));
  DeviceArray<double> h(std::vector<double>(expected.size(), 0.0));
  CHECK_SUCCESS(spade::cuda::hessian_conv2d(on_device.get(), kType<T>, &conv, S, precision, h.get(),
                                            workspace.get(), bytes, nullptr));
  check_hessian(h, expected, 0, S * conv.groups, sizes.D, bound);
  return h.values();
}

template <class T>
std::vector<double> convolution(const spade_conv2d_t& conv, int64_t S, int precision,
                                double bound) {
  return convolution_of(numbers<T>(conv.batch * conv.stride_batch), conv, S, precision, bound);
}

}  // namespace

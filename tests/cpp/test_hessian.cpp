#include "check.h"

namespace {

template <class T>
void linear(int64_t N, int64_t D, int threads) {
  const auto x = normal<T>(N * D, 1);
  const auto expected = gram(x, N, D);
  std::vector<double> h(static_cast<size_t>(D * D), 0.0);
  std::vector<T> once(h.size(), T(NAN));
  if constexpr (sizeof(T) == 4) {
    CHECK_OK(spade_hessian_linear_f32(x.data(), N, D, D, h.data(), threads, nullptr));
    CHECK_OK(spade_hessian_linear_set_f32(x.data(), N, D, D, once.data(), threads, nullptr));
  } else {
    CHECK_OK(spade_hessian_linear_f64(x.data(), N, D, D, h.data(), threads, nullptr));
    CHECK_OK(spade_hessian_linear_set_f64(x.data(), N, D, D, once.data(), threads, nullptr));
  }
  for (size_t i = 0; i < h.size(); ++i) CHECK(once[i] == static_cast<T>(h[i]));
  for (int64_t i = 0; i < D * D; ++i) CHECK(close(h[i], expected[i], 1e-4));
}

void convolution(spade_hessian_form_t form, int64_t groups, int64_t stride, int threads,
                 int64_t C = 6) {
  const int64_t B = 2, H = 7, W = 5, k = 3, pad = 1;
  const auto x = normal<double>(B * C * H * W, 2);
  const spade_conv2d_t conv{B,      C,      H,   W,   C * H * W, H * W, W, 1, k,     k,
                            stride, stride, pad, pad, pad,       pad,   1, 1, groups};
  const int64_t D = C / groups * k * k, out_h = (H + 2 * pad - k) / stride + 1,
                out_w = (W + 2 * pad - k) / stride + 1;
  std::vector<double> h(static_cast<size_t>(groups * D * D), 0.0);
  CHECK_OK(spade_hessian_conv2d_f64(x.data(), &conv, form, h.data(), threads, nullptr));
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<double> rows;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t oy = 0; oy < out_h; ++oy)
        for (int64_t ox = 0; ox < out_w; ++ox)
          for (int64_t c = 0; c < C / groups; ++c)
            for (int64_t t = 0; t < k * k; ++t) {
              const int64_t y = oy * stride + t / k - pad, z = ox * stride + t % k - pad;
              const bool inside = y >= 0 && y < H && z >= 0 && z < W;
              rows.push_back(inside ? x[((b * C + g * (C / groups) + c) * H + y) * W + z] : 0);
            }
    const auto expected = gram(rows, B * out_h * out_w, D);
    for (int64_t i = 0; i < D * D; ++i) CHECK(close(h[g * D * D + i], expected[i], 1e-12));
  }
  std::vector<double> once(h.size(), NAN);
  CHECK_OK(spade_hessian_conv2d_set_f64(x.data(), &conv, form, once.data(), threads, nullptr));
  CHECK(once == h);
  const std::vector<float> narrow(x.begin(), x.end());
  std::vector<float> rounded(h.size(), NAN);
  CHECK_OK(
      spade_hessian_conv2d_set_f32(narrow.data(), &conv, form, rounded.data(), threads, nullptr));
  for (size_t i = 0; i < h.size(); ++i) CHECK(close(rounded[i], h[i], 1e-5));
}

TEST_CASE(errors) {
  const float x[4] = {1, 2, 3, 4};
  double h[4] = {};
  CHECK_FAILS(spade_hessian_linear_f32(x, -1, 2, 2, h, 1, nullptr), SPADE_INVALID_ARGUMENT,
              "N must");
  CHECK_FAILS(spade_hessian_linear_f32(x, 2, 2, 1, h, 1, nullptr), SPADE_INVALID_ARGUMENT,
              "ldx must");
  CHECK_FAILS(spade_hessian_linear_f32(nullptr, 2, 2, 2, h, 1, nullptr), SPADE_INVALID_ARGUMENT,
              "x must not be NULL");
  CHECK_FAILS(spade_hessian_linear_f32(x, 2, 2, 2, h, 0, nullptr), SPADE_INVALID_ARGUMENT,
              "threads");
  CHECK_OK(spade_hessian_linear_f32(nullptr, 0, 2, 2, h, 1, nullptr));
  double set[4] = {NAN, NAN, NAN, NAN};
  CHECK_OK(spade_hessian_linear_set_f64(nullptr, 0, 2, 2, set, 1, nullptr));
  for (const double entry : set) CHECK(entry == 0);
  CHECK_FAILS(spade_hessian_linear_set_f64(nullptr, 2, 2, 2, set, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "spade_hessian_linear_set: x must not be NULL");
  spade_conv2d_t conv{1, 3, 2, 2, 12, 4, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 2};
  CHECK_FAILS(spade_hessian_conv2d_f32(x, &conv, SPADE_HESSIAN_AUTO, h, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "groups must divide channels");
  conv = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX, 1, 1, 1};
  CHECK_FAILS(spade_hessian_conv2d_f32(x, &conv, SPADE_HESSIAN_AUTO, h, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "batch x padded image must be below 2^62");
  conv.pad_top = conv.pad_bottom = conv.pad_left = conv.pad_right = 0;
  CHECK_FAILS(spade_hessian_conv2d_f32(x, &conv, 7, h, 1, nullptr), SPADE_INVALID_ARGUMENT,
              "form must be a spade_hessian_form_t, got 7");
  for (auto form : {SPADE_HESSIAN_TAP_OFFSETS, SPADE_HESSIAN_DIRECT}) {  // nothing but padding
    conv = {1, 1, 0, 2, 0, 0, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    CHECK_OK(spade_hessian_conv2d_f32(x, &conv, form, h, 1, nullptr));
    conv.height = 2;
    conv.width = 0;
    CHECK_OK(spade_hessian_conv2d_f32(x, &conv, form, h, 1, nullptr));
    CHECK(h[0] == 0);
    float set[4] = {1, 1, 1, 1};
    CHECK_OK(spade_hessian_conv2d_set_f32(x, &conv, form, set, 1, nullptr));
    CHECK(set[0] == 0 && set[1] == 1);
  }
  CHECK_FAILS(spade_hessian_conv2d_set_f32(x, nullptr, SPADE_HESSIAN_AUTO, nullptr, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "spade_hessian_conv2d_set: conv must not be NULL");
  const spade_progress_t stop{[](void*, int64_t, int64_t) { return 1; }, nullptr};
  CHECK_FAILS(spade_hessian_linear_f32(x, 2, 2, 2, h, 1, &stop), SPADE_CANCELLED, "cancelled");
  spade_progress_t later{};
  later.reserved[0] = h;
  CHECK_FAILS(spade_hessian_linear_f32(x, 2, 2, 2, h, 1, &later), SPADE_INVALID_ARGUMENT,
              "progress: reserved fields must be NULL");
  conv = {1, 1, 2, 2, 4, 4, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1};
  conv.reserved[4] = 2;
  CHECK_FAILS(spade_hessian_conv2d_f32(x, &conv, SPADE_HESSIAN_AUTO, h, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "reserved fields must be 0, got 2");
}

TEST_CASE(linear_layers) {
  for (int threads : {1, 3}) {
    linear<float>(50, 33, threads);
    linear<double>(1500, 17, threads);
    linear<float>(3, 150, threads);
    linear<float>(700, 64, threads);
    linear<float>(300, 250, threads);
    linear<double>(40, 200, threads);
  }
}

TEST_CASE(convolutions) {
  for (int threads : {1, 3})
    for (auto form : {SPADE_HESSIAN_TAP_OFFSETS, SPADE_HESSIAN_DIRECT, SPADE_HESSIAN_AUTO})
      for (int64_t groups : {1, 2, 6})
        for (int64_t stride : {1, 2}) convolution(form, groups, stride, threads);
  convolution(SPADE_HESSIAN_TAP_OFFSETS, 1, 2, 2, 100);  // each thread its own tiles of channels
}

// What float cannot sum is summed in double; what it cannot hold is an error.
TEST_CASE(scales) {
  const int64_t N = 40, D = 9;
  for (const float scale : {1e-17f, 1e17f}) {
    auto x = normal<float>(N * D, 1);
    for (float& value : x) value *= scale;
    const auto expected = gram(x, N, D);
    std::vector<double> h(D * D);
    std::vector<float> once(D * D);
    CHECK_OK(spade_hessian_linear_f32(x.data(), N, D, D, h.data(), 2, nullptr));
    CHECK_OK(spade_hessian_linear_set_f32(x.data(), N, D, D, once.data(), 2, nullptr));
    const double most = *std::max_element(expected.begin(), expected.end());
    for (int64_t i = 0; i < D * D; ++i) {
      CHECK(close(h[i] / most, expected[i] / most, 1e-12));
      CHECK(close(once[i] / most, expected[i] / most, 1e-6));
    }
  }
  for (const float scale : {1e-24f, 1e20f}) {
    const float x[2] = {scale, -scale};
    double h[1] = {0};
    float once[1];
    CHECK_OK(spade_hessian_linear_f32(x, 2, 1, 1, h, 1, nullptr));
    const double size = scale;
    CHECK(close(h[0] / (2 * size * size), 1, 1e-12));
    CHECK_FAILS(spade_hessian_linear_set_f32(x, 2, 1, 1, once, 1, nullptr), SPADE_NOT_FINITE,
                "H must be in the range of its type");
  }
  const double wide[1] = {1e200}, nan[1] = {std::nan("")};
  double h[1] = {5};
  CHECK_FAILS(spade_hessian_linear_f64(wide, 1, 1, 1, h, 1, nullptr), SPADE_NOT_FINITE,
              "out of the range of double");
  CHECK_FAILS(spade_hessian_linear_f64(nan, 1, 1, 1, h, 1, nullptr), SPADE_NOT_FINITE,
              "x must be finite");
  CHECK(h[0] == 5);
}

// Products of sizes beyond 64 bits, of which some are 0 there.
TEST_CASE(sizes_that_overflow) {
  const float x[1] = {1};
  double h[1] = {0};
  const int64_t most = INT32_MAX;
  CHECK_FAILS(spade_hessian_linear_f32(x, 1, most, most, h, 1, nullptr), SPADE_INVALID_ARGUMENT,
              "H must have fewer than 2^60 entries");
  CHECK_FAILS(spade_hessian_linear_f32(x, INT64_MAX, 1, INT64_MAX, h, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "x must have fewer than 2^60 entries");
  const int64_t channels = 1 << 20, taps = 1 << 11;
  spade_conv2d_t conv{1, channels, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, channels};
  conv.kernel_h = conv.kernel_w = conv.pad_top = conv.pad_left = taps;
  CHECK_FAILS(spade_hessian_conv2d_f32(x, &conv, SPADE_HESSIAN_AUTO, h, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "H must have fewer than 2^60 entries");
  conv = {1, 1, 1, 1, INT64_MAX, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1};
  CHECK_FAILS(spade_hessian_conv2d_f32(x, &conv, SPADE_HESSIAN_AUTO, h, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "the strides must keep the input within 2^60 elements");
  conv = {1, 1, 2, 5, 0, 0, 5, 1, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1};
  CHECK_FAILS(spade_hessian_conv2d_f32(x, &conv, SPADE_HESSIAN_AUTO, h, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "must not reach beyond the padded height 2, got 3");
}

}  // namespace

// The rectangles that hessian_conv2d of csrc/cuda multiplies, without its kernels.
#include "hessian_check.h"

namespace {

// The plan alone, on one channel: the terms of each pair of taps give its entry of H.
void plan_holds(const Convolution& c) {
  const spade_conv2d_t conv = c.nchw();
  const spade::ConvSizes sizes(conv);
  std::vector<double> x;
  for (const float value : numbers<float>(conv.height * conv.width)) x.push_back(value);
  std::vector<double> expected(static_cast<size_t>(sizes.D * sizes.D));
  CHECK_SUCCESS(
      spade_hessian_conv2d_f64(x.data(), &conv, SPADE_HESSIAN_DIRECT, expected.data(), 1, nullptr));
  const auto plan = spade::cuda::plan::rectangles(conv);
  std::vector<double> grams;
  for (const spade::cuda::Rectangle& at : plan.distinct) {
    double sum = 0;
    for (int64_t i = 0; i < at.rows; ++i)
      for (int64_t j = 0; j < at.columns; ++j) {
        const int64_t y = at.y + i * conv.stride_h, z = at.x + j * conv.stride_w;
        CHECK(y >= 0 && y + at.dy < conv.height && z >= 0 && z < conv.width && z + at.dx >= 0 &&
              z + at.dx < conv.width);
        sum += x[y * conv.width + z] * x[(y + at.dy) * conv.width + z + at.dx];
      }
    grams.push_back(sum);
  }
  double worst = 0, size = 0;
  for (int64_t p = 0; p < sizes.D * sizes.D; ++p) {
    double entry = 0;
    for (const spade::cuda::Term term : plan.terms[p]) entry += grams[term >> 1];
    worst = std::fmax(worst, std::fabs(entry - expected[p]));
    size = std::fmax(size, std::fabs(expected[p]));
  }
  CHECK(worst <= 1e-13 * size);
}

void plans() {
  for (const int64_t kernel : {1, 2, 3, 5})
    for (const int64_t stride : {1, 2, 3})
      for (const int64_t pad : {0, 1, 3})
        for (const int64_t dilation : {1, 2, 4})
          for (const int64_t size : {1, 4, 9}) {
            const Convolution c{1,   1,       size, 7, kernel,   3, stride, 2,
                                pad, pad / 2, 1,    2, dilation, 1, 1};
            if (c.fits()) plan_holds(c);
          }
  const auto plan = [](const Convolution& c) {
    return spade::cuda::plan::rectangles(c.nchw()).distinct;
  };
  int main_grams = 0;  // of a 3 x 3 convolution: 13 offsets
  for (const auto& at : plan({1, 1, 14, 14, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}))
    main_grams += at.rows >= 12 && at.columns >= 12;
  CHECK(main_grams == 13);
}

}  // namespace

int main() {
  plans();
  return report();
}

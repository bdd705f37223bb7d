// One call of hessian_linear or hessian_conv2d (host): argument checks, the form of the sum and how
// it is cut. A linear layer is a 1 x 1 convolution of 1 x 1 images. Sizes alone decide, so H has
// the same bits on every GPU and whatever samples are beside one in the call.
#pragma once

#include "cuda/hessian_plan.h"
#include "spade/cuda.h"

namespace spade::cuda {

constexpr int64_t kLeastChannels = 32;     // of a group, for grams of channels
constexpr int64_t kMostTaps = 81;          // for a plan of tap offsets
constexpr int64_t kMostSide = 1 << 30;     // padded: coordinates have 32 bits
constexpr int64_t kMostColumns = 1 << 19;  // of H
constexpr int64_t kMostRows = 65535;       // of a grid

struct HessianProblem {
  HessianProblem(const char* function_, const spade_conv2d_t& conv_, int64_t S_, int dtype_,
                 int precision)
      : function(function_), conv(conv_), S(S_), dtype(dtype_) {
    check(precision);
    three_products = dtype == SPADE_FLOAT32 && precision == SPADE_PRECISION_DEFAULT;
    keep_read_pixels();
    const ConvSizes sizes(conv);
    if (sizes.positions == 0 || sizes.D == 0 || conv.height == 0 || conv.width == 0) return;
    SPADE_CHECK(sizes.D <= kMostColumns, "%s: columns of H must be at most %lld, got %lld",
                function, static_cast<long long>(kMostColumns), static_cast<long long>(sizes.D));
    SPADE_CHECK(conv.batch / S <= INT32_MAX,
                "%s: rows or images of one sample must be below 2^31, got %lld", function,
                static_cast<long long>(conv.batch / S));
    D = sizes.D;
    images = conv.batch / S;
    choose_form(sizes);
    const int64_t blocks = plan.blocks * conv.groups;
    SPADE_CHECK(blocks <= INT32_MAX, "%s: the input is too large for one call", function);
    if (blocks == 0) return;  // nothing but padding
    at_once = std::min({S, kMostRows, std::max<int64_t>(1, 2 * plan::kBlocks / blocks)});
  }

  bool empty() const { return at_once == 0; }

  const char* function;
  spade_conv2d_t conv;
  int64_t offset = 0;  // of the first pixel that is read
  int64_t S, images = 0;
  int64_t at_once = 0;  // samples that one round of launches takes
  int64_t D = 0;
  int dtype;
  bool three_products = false;
  bool packed = false;  // grams of channels (hessian_gram.cuh), else hessian_gather.cuh
  GramPlan plan{};

 private:
  void check(int precision) const {
    check_size(function, "S", S);
    SPADE_CHECK(S > 0 ? conv.batch % S == 0 : conv.batch == 0,
                "%s: S must divide the %lld rows or images, got %lld", function,
                static_cast<long long>(conv.batch), static_cast<long long>(S));
    SPADE_CHECK(dtype == SPADE_FLOAT32 || dtype == SPADE_FLOAT16 || dtype == SPADE_BFLOAT16,
                "%s: dtype must be SPADE_FLOAT32, SPADE_FLOAT16 or SPADE_BFLOAT16, got %d",
                function, dtype);
    SPADE_CHECK(precision == SPADE_PRECISION_DEFAULT || precision == SPADE_PRECISION_FAST,
                "%s: precision must be a spade_precision_t, got %d", function, precision);
    const auto side = [&](const char* name, int64_t padded) {
      SPADE_CHECK(padded < kMostSide, "%s: padded %s must be below 2^30, got %lld", function, name,
                  static_cast<long long>(padded));
    };
    side("height", conv.height + conv.pad_top + conv.pad_bottom);
    side("width", conv.width + conv.pad_left + conv.pad_right);
    SPADE_CHECK(conv.height * conv.width <= INT32_MAX,
                "%s: height x width must be below 2^31, got %lld", function,
                static_cast<long long>(conv.height * conv.width));
  }

  // A 1 x 1 convolution reads every stride-th pixel: the others leave the problem.
  void keep_read_pixels() {
    if (conv.kernel_h != 1 || conv.kernel_w != 1) return;
    const TapAxes axes(conv);  // one pair of taps counts its lines: one cell, or none
    const auto read = [](const Axis& axis) {
      return axis.cells.empty() ? Lines{0, 0} : axis.cells[0].lines;
    };
    const Lines y = read(axes.rows), x = read(axes.columns);
    if (y.count && x.count) offset = y.first * conv.stride_row + x.first * conv.stride_col;
    conv.height = y.count;
    conv.width = x.count;
    conv.stride_row *= conv.stride_h;
    conv.stride_col *= conv.stride_w;
    conv.stride_h = conv.stride_w = conv.dilation_h = conv.dilation_w = 1;
    conv.pad_top = conv.pad_bottom = conv.pad_left = conv.pad_right = 0;
  }

  void choose_form(const ConvSizes& sizes) {
    packed = (sizes.taps == 1 && conv.groups == 1) ||
             (sizes.channels >= kLeastChannels && sizes.taps <= kMostTaps);
    if (packed) {
      plan = plan::cut(function, plan::rectangles(conv), images, conv.groups, sizes.taps,
                       sizes.channels, sizes.channels <= 64 ? 64 : 128);
    } else {
      // Columns of the unfolded input are the channels of one gram over all output positions.
      const Rectangle all{
          0, static_cast<int32_t>(sizes.out_h), 0, static_cast<int32_t>(sizes.out_w), 0, 0};
      plan = plan::cut(function, {{all}, {{0}}}, images, conv.groups, 1, D, D <= 16 ? 16 : 64);
    }
  }
};

inline HessianProblem linear_problem(int64_t S, int64_t N, int64_t D, int64_t ldx, int dtype,
                                     int precision) {
  const char* function = "spade_cuda_hessian_linear";
  SPADE_CHECK(N >= 0, "%s: N must be >= 0, got %lld", function, static_cast<long long>(N));
  check_size(function, "D", D);
  SPADE_CHECK(ldx >= D, "%s: ldx must be at least D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(ldx));
  // Images of one pixel, whose strides of lines mean nothing: 0 keeps no input from being read in
  // place.
  const spade_conv2d_t rows{N, D, 1, 1, ldx, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1};
  return {function, rows, S, dtype, precision};
}

inline HessianProblem conv2d_problem(const spade_conv2d_t* conv, int64_t S, int dtype,
                                     int precision) {
  const char* function = "spade_cuda_hessian_conv2d";
  check_conv(function, conv);
  return {function, *conv, S, dtype, precision};
}

}  // namespace spade::cuda

// Sizes and argument checks of a convolution, on every device.
#pragma once

#include "core/checks.h"
#include "spade/spade.h"

namespace spade {

// Sizes that follow from a convolution. D = channels of a group x taps.
struct ConvSizes {
  explicit ConvSizes(const spade_conv2d_t& c)
      : out_h(size(c.height + c.pad_top + c.pad_bottom, c.kernel_h, c.stride_h, c.dilation_h)),
        out_w(size(c.width + c.pad_left + c.pad_right, c.kernel_w, c.stride_w, c.dilation_w)),
        taps(c.kernel_h * c.kernel_w),
        channels(c.channels / c.groups),
        D(channels * taps),
        positions(c.batch * out_h * out_w) {}

  int64_t out_h, out_w, taps;
  int64_t channels;   // of one group
  int64_t D;          // columns of one group's H
  int64_t positions;  // N

 private:
  static int64_t size(int64_t padded, int64_t kernel, int64_t stride, int64_t dilation) {
    const int64_t last = padded - dilation * (kernel - 1) - 1;
    return last < 0 ? 0 : last / stride + 1;
  }
};

// A kernel and its dilation along one axis of the padded image.
inline void check_reach(const char* function, const char* axis, int64_t padded, int64_t kernel,
                        int64_t dilation) {
  const int64_t reach = dilation * (kernel - 1) + 1;
  SPADE_CHECK(reach <= padded, "%s: the kernel must not reach beyond the padded %s %lld, got %lld",
              function, axis, static_cast<long long>(padded), static_cast<long long>(reach));
}

inline void check_conv(const char* function, const spade_conv2d_t* conv) {
  check_pointer(function, "conv", conv, 1);
  check_reserved(function, *conv);
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
  check_reach(function, "height", conv->height + conv->pad_top + conv->pad_bottom, conv->kernel_h,
              conv->dilation_h);
  check_reach(function, "width", conv->width + conv->pad_left + conv->pad_right, conv->kernel_w,
              conv->dilation_w);
  const double columns = static_cast<double>(conv->channels) / static_cast<double>(conv->groups) *
                         static_cast<double>(conv->kernel_h) * static_cast<double>(conv->kernel_w);
  SPADE_CHECK(columns <= INT32_MAX, "%s: columns of H must be below 2^31, got %.0f", function,
              columns);
  const double entries = static_cast<double>(conv->batch) *
                         static_cast<double>(conv->height + conv->pad_top + conv->pad_bottom) *
                         static_cast<double>(conv->width + conv->pad_left + conv->pad_right);
  SPADE_CHECK(entries < 0x1p62, "%s: batch x padded image must be below 2^62, got %.3g", function,
              entries);
  check_entries(function, "H",
                {conv->groups, static_cast<int64_t>(columns), static_cast<int64_t>(columns)});
  const auto span = [](int64_t size, int64_t stride) {
    return static_cast<double>(size) * std::fabs(static_cast<double>(stride));
  };
  const double memory = span(conv->batch, conv->stride_batch) +
                        span(conv->channels, conv->stride_channel) +
                        span(conv->height, conv->stride_row) + span(conv->width, conv->stride_col);
  SPADE_CHECK(memory < 0x1p60, "%s: the strides must keep the input within 2^60 elements, got %.3g",
              function, memory);
}

}  // namespace spade

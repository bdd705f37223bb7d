// The two forms of the Hessian of a convolution; see spade_hessian_conv2d in spade.h.
#pragma once

#include "core/parallel.h"
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

// Multiply-adds of each form, with the fixed cost of its products; AUTO takes the lesser.
double taps_cost(const spade_conv2d_t& conv);
double direct_cost(const spade_conv2d_t& conv);

template <class T>
void hessian_taps(const T* x, const spade_conv2d_t& conv, double* h, int threads,
                  const spade_progress_t* progress);
template <class T>
void hessian_direct(const T* x, const spade_conv2d_t& conv, double* h, int threads,
                    const spade_progress_t* progress);

// H += X^T X of N rows of x, D columns each, ldx apart.
template <class T>
void hessian_linear(const T* x, int64_t N, int64_t D, int64_t ldx, double* h, int threads,
                    const spade_progress_t* progress);

}  // namespace spade

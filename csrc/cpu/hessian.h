// The two forms of the Hessian of a convolution; see spade_hessian_conv2d in spade.h.
#pragma once

#include "core/conv.h"
#include "core/parallel.h"
#include "spade/spade.h"

namespace spade {

struct TapAxes;
class TapPlan;

// Multiply-adds of each form, with the fixed cost of its products; AUTO takes the lesser.
double taps_cost(const spade_conv2d_t& conv, const TapAxes& axes);
double direct_cost(const spade_conv2d_t& conv);

// H is added to if `add`, else written: double (both) or, if written, of type T.
template <class T, class S>
void hessian_taps(const T* x, const spade_conv2d_t& conv, const TapPlan& plan, S* h, bool add,
                  int threads, const spade_progress_t* progress);
template <class T, class S>
void hessian_direct(const T* x, const spade_conv2d_t& conv, S* h, bool add, int threads,
                    const spade_progress_t* progress);

// The direct form of one channel a group.
template <class T>
void hessian_depthwise(const T* x, const spade_conv2d_t& conv, double* h, int threads,
                       const spade_progress_t* progress);

// N rows of D columns, ldx apart, as the pixels of one line.
inline spade_conv2d_t one_line(int64_t N, int64_t D, int64_t ldx) {
  return {1, D, 1, N, N * ldx, 1, N * ldx, ldx, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1};
}

}  // namespace spade

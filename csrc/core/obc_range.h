// Which layers exact OBC may run in float, the same on every device.
#pragma once

#include "core/damping.h"

namespace spade {

// By the mean of H's diagonal, which has 1 for a dead column, the largest weight and the damping.
// Losses, squares of weights times entries of H, must be numbers of float with all their digits,
// and so must be the entries of the inverse; less damping leaves rank-deficient Hessians too
// ill-conditioned.
inline bool obc_fits_float(double mean, double most, double damp) {
  const auto within = [](double x, double low, double high) { return x >= low && x <= high; };
  if (damp < kFloatFromDamp || !within(mean, 1e-18, 1e18)) return false;
  return most == 0 || (within(most, 1e-13, 1e15) && within(most * most * mean, 1e-26, 1e30));
}

}  // namespace spade

// The damping ladder, the same on every device.
#pragma once

#include <algorithm>

namespace spade {

// With less damping, relative to the mean of the diagonal, floats are factorised in double.
constexpr double kFloatFromDamp = 1e-3;

// The next rung, or a negative number past 1.
inline double next_damp(double damp) {
  if (damp >= 1) return -1;
  return damp == 0 ? 1e-6 : std::min(1.0, damp * 10);
}

}  // namespace spade

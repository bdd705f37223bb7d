// The factor that SparseGPT works on, with the damping ladder.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "cpu/panels.h"

namespace spade {

// factor = U' of sparsegpt_scale times the damped H: J H J = U'^T U', J the reversal of indices;
// the lower triangle of h is read. Starts at *damp and leaves there what it took; false if no
// damping makes H positive definite. Once `done` is cancelled neither means anything.
template <class T>
bool sparsegpt_factor(const T* h, double* damp, const Panels<T>& factor, int threads,
                      Progress& done);

// The power of 4 that brings numbers like `mean` near 1: it changes no bit of the factor's digits,
// and weights and masks depend on no scale, but squares of weights over those of U would leave T.
template <class T>
double sparsegpt_scale(double mean) {
  if (mean == 0) return 1;
  constexpr int kMost = std::numeric_limits<T>::max_exponent - 2;
  return std::ldexp(1.0, -2 * std::clamp(std::ilogb(mean) / 2, -kMost / 2, kMost / 2));
}

}  // namespace spade

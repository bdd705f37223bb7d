// The factor that SparseGPT works on, with the damping ladder.
#pragma once

#include "core/parallel.h"
#include "cpu/panels.h"

namespace spade {

// factor = U' of the damped H, times a power of two: J H J = U'^T U', J the reversal of indices;
// the lower triangle of h is read. Starts at *damp and leaves there what it took; false if no
// damping makes H positive definite. Once `done` is cancelled neither means anything.
template <class T>
bool sparsegpt_factor(const T* h, double* damp, const Panels<T>& factor, int threads,
                      Progress& done);

}  // namespace spade

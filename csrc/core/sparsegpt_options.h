// Options of SparseGPT: their checks and the counts they stand for, on every device.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/checks.h"

namespace spade {

inline void check_sparsegpt_options(const char* function, const spade_sparsegpt_t* o, int64_t D) {
  check_pointer(function, "options", o, 1);
  check_reserved(function, *o);
  check_damp(function, o->damp);
  if (o->m == 0) {
    SPADE_CHECK(o->sparsity >= 0 && o->sparsity <= 1, "%s: sparsity must be in [0, 1], got %g",
                function, o->sparsity);
    check_size(function, "block_size", o->block_size, 1);
    check_size(function, "extra", o->extra);
    return;
  }
  check_size(function, "m", o->m);
  SPADE_CHECK(o->n >= 0 && o->n <= o->m, "%s: n must be in [0, m = %lld], got %lld", function,
              static_cast<long long>(o->m), static_cast<long long>(o->n));
  SPADE_CHECK(D % o->m == 0, "%s: m must divide D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(o->m));
}

// Weights that go from a mask block of n: floor(sparsity * n) where rounding must not lose one
// (0.95 x 20 counts as 19), and `extra`.
inline int64_t block_count(double sparsity, int64_t n, int64_t extra) {
  const double exact = sparsity * static_cast<double>(n);
  return std::min(n, static_cast<int64_t>(std::floor(exact + 1e-6)) + extra);
}

}  // namespace spade

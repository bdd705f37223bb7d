// Argument checks shared by the C API functions: each text names function, argument, expected and
// got.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/status.h"

namespace spade {

inline void check_size(const char* function, const char* name, int64_t value, int64_t least = 0) {
  SPADE_CHECK(value >= least && value <= INT32_MAX, "%s: %s must be in [%lld, 2^31), got %lld",
              function, name, static_cast<long long>(least), static_cast<long long>(value));
}

inline void check_pointer(const char* function, const char* name, const void* pointer,
                          int64_t count) {
  SPADE_CHECK(count == 0 || pointer, "%s: %s must not be NULL", function, name);
}

inline void check_threads(const char* function, int threads) {
  SPADE_CHECK(threads >= 1, "%s: threads must be >= 1, got %d", function, threads);
}

template <class T>
void check_finite(const char* function, const char* name, const T* x, int64_t count) {
  // A sum of x * 0 is NaN if and only if some x is NaN or Inf; it vectorises, a branch an entry
  // does not.
  T sum[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int k = 0; k < 16; ++k) sum[k] += x[i + k] * T(0);
  for (; i < count; ++i) sum[0] += x[i] * T(0);
  bool finite = true;
  for (const T s : sum) finite = finite && s == T(0);
  if (finite) return;
  for (i = 0; std::isfinite(x[i]); ++i) {
  }
  fail(SPADE_NOT_FINITE, "%s: %s must be finite, got %g at index %lld", function, name,
       static_cast<double>(x[i]), static_cast<long long>(i));
}

inline void check_damp(const char* function, double damp) {
  SPADE_CHECK(damp >= 0 && std::isfinite(damp), "%s: damp must be finite and >= 0, got %g",
              function, damp);
}

}  // namespace spade

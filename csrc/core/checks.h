// Argument checks shared by the C API functions: each text names function, argument, expected and
// got.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "core/status.h"

namespace spade {

inline void check_size(const char* function, const char* name, int64_t value, int64_t least = 0) {
  SPADE_CHECK(value >= least && value <= INT32_MAX, "%s: %s must be in [%lld, 2^31), got %lld",
              function, name, static_cast<long long>(least), static_cast<long long>(value));
}

// An array of so many entries: they and their bytes fit in an int64_t.
inline void check_entries(const char* function, const char* name,
                          std::initializer_list<int64_t> sizes) {
  double entries = 1;
  for (const int64_t size : sizes) entries *= static_cast<double>(size);
  SPADE_CHECK(entries < 0x1p60, "%s: %s must have fewer than 2^60 entries, got %.0f", function,
              name, entries);
}

inline void check_pointer(const char* function, const char* name, const void* pointer,
                          int64_t count) {
  SPADE_CHECK(count == 0 || pointer, "%s: %s must not be NULL", function, name);
}

inline void check_threads(const char* function, int threads) {
  SPADE_CHECK(threads >= 1, "%s: threads must be >= 1, got %d", function, threads);
}

inline void check_damp(const char* function, double damp) {
  SPADE_CHECK(damp >= 0 && std::isfinite(damp), "%s: damp must be finite and >= 0, got %g",
              function, damp);
}

// Room for fields to come: 0 will mean what it means now.
template <class Fields>
void check_reserved(const char* function, const Fields& fields) {
  for (const int64_t field : fields.reserved)
    SPADE_CHECK(field == 0, "%s: reserved fields must be 0, got %lld", function,
                static_cast<long long>(field));
}

}  // namespace spade

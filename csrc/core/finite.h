// NaN and Inf in arguments, found at the speed of memory.
#pragma once

#include <algorithm>

#include "core/checks.h"
#include "core/parallel.h"

namespace spade {

// check_finite on `threads` threads. Which thread finds one first is chance, so the text that names
// it comes from a second pass over all.
template <class T>
void check_finite(const char* function, const char* name, const T* x, int64_t count, int threads) {
  constexpr int64_t kPiece = int64_t{1} << 18;
  try {
    parallel_for(
        threads, (count + kPiece - 1) / kPiece, [] { return 0; },
        [&](int, int64_t i) {
          check_finite(function, name, x + i * kPiece, std::min(kPiece, count - i * kPiece));
        });
  } catch (const Failure&) {
    check_finite(function, name, x, count);
  }
}

}  // namespace spade

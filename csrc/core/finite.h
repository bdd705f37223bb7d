// NaN and Inf in arguments, and how large their numbers are, found at the speed of memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/checks.h"
#include "core/parallel.h"

namespace spade {

// The largest |x| of count numbers; NaN if one of them is NaN or Inf.
//
// A sum of x * 0 is NaN if and only if some x is NaN or Inf; it vectorises, a branch an entry does
// not.
template <class T>
T largest(const T* x, int64_t count) {
  constexpr int kLanes = 16;
  T sum[kLanes] = {}, most[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int k = 0; k < kLanes; ++k) {
      const T size = std::fabs(x[i + k]);
      most[k] = size > most[k] ? size : most[k];
      sum[k] += x[i + k] * T(0);
    }
  for (; i < count; ++i) {
    most[0] = std::max(most[0], std::fabs(x[i]));
    sum[0] += x[i] * T(0);
  }
  T all = 0;
  for (int k = 0; k < kLanes; ++k) all = std::max(all, most[k]) + sum[k];
  return all;
}

// The largest |x| of all pieces; NaN if one holds NaN or Inf. piece(i) is largest() of the i-th.
template <class Piece>
double largest_of(int64_t pieces, int threads, Piece&& piece) {
  std::atomic<double> most{0};
  std::atomic<bool> finite{true};
  parallel_for(
      threads, pieces, [] { return 0; },
      [&](int, int64_t i) {
        const double own = static_cast<double>(piece(i));
        if (std::isnan(own)) finite = false;
        double before = most.load();
        while (own > before && !most.compare_exchange_weak(before, own)) {
        }
      });
  return finite ? most.load() : std::nan("");
}

// The largest |x|; fails with the first NaN or Inf.
template <class T>
double check_finite(const char* function, const char* name, const T* x, int64_t count,
                    int threads = 1) {
  constexpr int64_t kPiece = int64_t{1} << 18;
  const double most = largest_of((count + kPiece - 1) / kPiece, threads, [&](int64_t i) {
    return largest(x + i * kPiece, std::min(kPiece, count - i * kPiece));
  });
  if (!std::isnan(most)) return most;
  int64_t i = 0;
  while (std::isfinite(x[i])) ++i;
  fail(SPADE_NOT_FINITE, "%s: %s must be finite, got %g at index %lld", function, name,
       static_cast<double>(x[i]), static_cast<long long>(i));
}

}  // namespace spade

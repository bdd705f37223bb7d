// Rows of weights near 1, whose squares are numbers of T: orders do not depend on a row's scale,
// losses go with its square. Scales are powers of two, so that no digit changes.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/buffer.h"
#include "core/finite.h"

namespace spade {

template <class T>
class ScaledRow {
 public:
  explicit ScaledRow(int64_t D) : D_(D), scaled_(D) {}

  // The row, or its copy near 1 if its largest weight is far from there.
  const T* of(const T* row) {
    constexpr int kNear = 30;
    const T most = largest(row, D_);
    exponent_ = most > 0 ? std::ilogb(most) : 0;
    if (std::abs(exponent_) <= kNear) {
      exponent_ = 0;
      return row;
    }
    for (int64_t j = 0; j < D_; ++j) scaled_[j] = std::ldexp(row[j], -exponent_);
    return scaled_.get();
  }

  // Losses of the row that of() gave last become those of the row itself; Inf or 0 beyond T.
  void restore(T* loss, int64_t steps) const {
    for (int64_t k = 0; exponent_ && k < steps; ++k) loss[k] = std::ldexp(loss[k], 2 * exponent_);
  }

 private:
  int64_t D_;
  Buffer<T> scaled_;
  int exponent_ = 0;
};

}  // namespace spade

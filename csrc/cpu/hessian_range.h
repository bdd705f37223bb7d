// The range of a Hessian's input: what float can sum, and what must be summed in double.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

#include "core/buffer.h"
#include "core/conv.h"
#include "core/finite.h"

namespace spade {

// An input's memory in runs: `count` numbers, `stride` apart, from each start. Dimensions that
// follow one another in memory are joined, those of stride 0 are read once.
template <class T>
class InputRuns {
 public:
  InputRuns(const T* x, const spade_conv2d_t& c) : start_(x) {
    const std::array<Axis, 4> all{{{c.batch, c.stride_batch},
                                   {c.channels, c.stride_channel},
                                   {c.height, c.stride_row},
                                   {c.width, c.stride_col}}};
    for (const Axis& axis : all) {
      empty_ = empty_ || axis.size == 0;
      if (axis.stride < 0) start_ += (axis.size - 1) * axis.stride;
      if (axis.size > 1 && axis.stride != 0)
        axes_[axes_count_++] = {axis.size, std::abs(axis.stride)};
    }
    if (axes_count_ == 0) axes_[axes_count_++] = {1, 1};
    for (int i = 1; i < axes_count_; ++i)
      for (int k = i; k > 0 && axes_[k].stride < axes_[k - 1].stride; --k)
        std::swap(axes_[k], axes_[k - 1]);
    int last = 0;
    for (int i = 1; i < axes_count_; ++i)
      if (axes_[i].stride == axes_[last].size * axes_[last].stride)
        axes_[last].size *= axes_[i].size;
      else
        axes_[++last] = axes_[i];
    axes_count_ = last + 1;
  }

  // The largest |x|; NaN if one is NaN or Inf.
  double largest(int threads) const {
    if (empty_) return 0;
    constexpr int64_t kPiece = int64_t{1} << 18;
    const auto [count, stride] = axes_[0];
    const int64_t pieces = (count + kPiece - 1) / kPiece;
    int64_t runs = 1;
    for (int i = 1; i < axes_count_; ++i) runs *= axes_[i].size;
    return largest_of(runs * pieces, threads, [&, count = count, stride = stride](int64_t job) {
      const int64_t first = job % pieces * kPiece, length = std::min(kPiece, count - first);
      const T* run = start_ + first * stride;
      for (int64_t i = 1, index = job / pieces; i < axes_count_; index /= axes_[i].size, ++i)
        run += index % axes_[i].size * axes_[i].stride;
      if (stride == 1) return spade::largest(run, length);
      T most = 0;
      for (int64_t k = 0; k < length; ++k) {
        const T one = spade::largest(run + k * stride, 1);
        most = one <= most ? most : one;
        if (std::isnan(one)) break;
      }
      return most;
    });
  }

 private:
  struct Axis {
    int64_t size, stride;
  };

  const T* start_;
  std::array<Axis, 4> axes_{};
  int axes_count_ = 0;
  bool empty_ = false;
};

// The largest |x| of an input; fails with NaN and Inf.
template <class T>
double check_input(const char* function, const T* x, const spade_conv2d_t& conv, int threads) {
  const double most = InputRuns<T>(x, conv).largest(threads);
  if (std::isnan(most)) fail(SPADE_NOT_FINITE, "%s: x must be finite, got NaN or Inf", function);
  return most;
}

// Whether sums of so many products of numbers up to `most` are in the range of S, and pieces of
// them in the range of T, with the digits of numbers 1e4 times smaller.
template <class T, class S>
bool in_range(double most, double terms) {
  constexpr double kSpread = sizeof(T) == sizeof(float) ? 1e15 : 1e145;
  if (most == 0) return true;
  if (most < 1 / kSpread || most > kSpread) return false;
  return sizeof(S) == sizeof(double) || most * most * terms <= 1e37;
}

// The input in double, dense; `conv` becomes its geometry.
template <class T>
Buffer<double> widened(const T* x, spade_conv2d_t& conv, int threads) {
  const spade_conv2d_t c = conv;
  conv.stride_col = 1;
  conv.stride_row = c.width;
  conv.stride_channel = c.height * c.width;
  conv.stride_batch = c.channels * conv.stride_channel;
  Buffer<double> out(c.batch * conv.stride_batch);
  parallel_for(
      threads, c.batch * c.channels, [] { return 0; },
      [&](int, int64_t i) {
        const T* from = x + i / c.channels * c.stride_batch + i % c.channels * c.stride_channel;
        double* to = out.get() + i * conv.stride_channel;
        for (int64_t y = 0; y < c.height; ++y)
          for (int64_t z = 0; z < c.width; ++z)
            *to++ = static_cast<double>(from[y * c.stride_row + z * c.stride_col]);
      });
  return out;
}

// The sum H of `blocks` blocks D x D goes to type S: its largest entries are on its diagonals.
template <class S>
void round_to(const char* function, const double* h, int64_t blocks, int64_t D, S* out) {
  double most = 0;
  for (int64_t g = 0; g < blocks; ++g)
    for (int64_t j = 0; j < D; ++j) most = std::max(most, h[(g * D + j) * D + j]);
  using Range = std::numeric_limits<S>;
  if (most > static_cast<double>(Range::max()) ||
      (most > 0 && most < static_cast<double>(Range::min())))
    fail(SPADE_NOT_FINITE,
         "%s: H must be in the range of its type, [%g, %g], got %g on its diagonal", function,
         static_cast<double>(Range::min()), static_cast<double>(Range::max()), most);
  std::copy_n(h, blocks * D * D, out);
}

}  // namespace spade

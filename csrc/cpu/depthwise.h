// Grams of the taps of a depthwise convolution, kChannels channels side by side.
//
// Every channel has the small H of its own taps, so channels are the lanes of vectors: a position
// costs one multiply-add a pair of taps and vector, as many as H has entries.
#pragma once

#include <cstdint>
#include <vector>

#include "core/isa.h"

namespace spade {

constexpr int64_t kChannels = 16;
constexpr int64_t kTaps = 3;  // a side of the block of sums that is held in registers

// Part of the output and the padded pixels it reads, kChannels entries each.
template <class T>
struct DepthwiseTile {
  const T* pixels;
  int64_t rows, columns;              // of the output
  int64_t row_stride, column_stride;  // in entries, from output to output
  const std::vector<int64_t>& taps;   // in entries, from the first; repeated to whole blocks
};

// Place in `sums` of taps (a, b), a's block not before b's; kChannels entries.
inline int64_t tap_pair(int64_t a, int64_t b) {
  const int64_t I = a / kTaps, J = b / kTaps;
  return ((I * (I + 1) / 2 + J) * kTaps * kTaps + a % kTaps * kTaps + b % kTaps) * kChannels;
}

// sums += over the tile's outputs the products of all pairs of taps.
#define SPADE_DECLARE_DEPTHWISE(isa)                               \
  namespace isa {                                                  \
  void depthwise(const DepthwiseTile<float>& tile, float* sums);   \
  void depthwise(const DepthwiseTile<double>& tile, double* sums); \
  }
SPADE_FOR_EACH_ISA(SPADE_DECLARE_DEPTHWISE)
#undef SPADE_DECLARE_DEPTHWISE

}  // namespace spade

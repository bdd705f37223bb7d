// Sums of depthwise.h in registers: a block of 3 x 3 taps, 9 accumulators and 6 loads for 9 FMA a
// position; the tile's pixels stay in L1. Bound by FMA.

#include "cpu/depthwise.h"
#include "cpu/simd.h"

namespace spade {
namespace SPADE_ISA {
namespace {

// One vector of channels of the block of taps a[0..2] x b[0..2].
template <class T>
void add_block(const DepthwiseTile<T>& tile, const T* pixels, const int64_t* a, const int64_t* b,
               T* sums) {
  Vec<T> sum[kTaps][kTaps];
#pragma GCC unroll 3
  for (int p = 0; p < kTaps; ++p)
#pragma GCC unroll 3
    for (int q = 0; q < kTaps; ++q) sum[p][q] = Vec<T>{};
  for (int64_t y = 0; y < tile.rows; ++y) {
    const T* at = pixels + y * tile.row_stride;
    for (int64_t x = 0; x < tile.columns; ++x, at += tile.column_stride) {
      const Vec<T> v[kTaps] = {load(at + b[0]), load(at + b[1]), load(at + b[2])};
#pragma GCC unroll 3
      for (int p = 0; p < kTaps; ++p) {
        const Vec<T> u = load(at + a[p]);
#pragma GCC unroll 3
        for (int q = 0; q < kTaps; ++q) sum[p][q] += u * v[q];
      }
    }
  }
#pragma GCC unroll 3
  for (int p = 0; p < kTaps; ++p)
#pragma GCC unroll 3
    for (int q = 0; q < kTaps; ++q) {
      T* to = sums + (p * kTaps + q) * kChannels;
      store(to, load(to) + sum[p][q]);
    }
}

template <class T>
void add_tile(const DepthwiseTile<T>& tile, T* sums) {
  const int64_t count = static_cast<int64_t>(tile.taps.size());
  for (int64_t a = 0; a < count; a += kTaps)
    for (int64_t b = 0; b <= a; b += kTaps)
      for (int64_t lane = 0; lane < kChannels; lane += Simd<T>::lanes)
        add_block(tile, tile.pixels + lane, &tile.taps[a], &tile.taps[b],
                  sums + tap_pair(a, b) + lane);
}

}  // namespace

void depthwise(const DepthwiseTile<float>& tile, float* sums) { add_tile(tile, sums); }
void depthwise(const DepthwiseTile<double>& tile, double* sums) { add_tile(tile, sums); }

}  // namespace SPADE_ISA
}  // namespace spade

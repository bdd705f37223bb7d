// The input of some samples as the gram kernel wants it: NHWC in 16-bit parts.
//
// largest: the largest |x| of each sample. pack: y = 2^s x, with s such that 2^14 <= 2^s largest <
// 2^15, as hi = fp16(y) and lo = fp16(y - hi); a channel group begins at a multiple of 8 channels
// and the rest of it is zero. Scaling and the scale's removal are exact; what is below 2^-17 of the
// largest loses digits. 16-bit inputs stay as they are. Both kernels walk tiles of 32 pixels x 64
// channels and are bound by memory: one reading for largest, one reading and one writing for pack.
#pragma once

#include "cuda/hessian_tile.cuh"

namespace spade::cuda {

struct Half {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Half x) { return from_half(x.bits); }
__device__ __forceinline__ float to_float(Bfloat16 x) { return from_bfloat16(x.bits); }

// x as the sum of its parts; lo only for three products.
struct Parts {
  uint16_t hi, lo;
};
template <Arithmetic kArithmetic>
__device__ __forceinline__ Parts split(float x) {
  if (kArithmetic == Arithmetic::kBfloat16) return {to_bfloat16(x), 0};
  const uint16_t hi = to_half(x);
  return {hi, to_half(x - from_half(hi))};
}

// s for a sample whose largest |x| has these bits; NULL: 16-bit inputs are not scaled.
__device__ __forceinline__ int scale_exponent(const unsigned* largest, int sample) {
  return largest ? min(141 - static_cast<int>(largest[sample] >> 23), 127) : 0;
}
__device__ __forceinline__ float power_of_two(int exponent) {
  return __int_as_float((exponent + 127) << 23);
}

// Images of consecutive samples.
struct Images {
  int64_t batch_stride, channel_stride, row_stride, col_stride;
  int64_t images;        // of one sample
  int height, width;     // of an image
  int channels, padded;  // of one group; padded to a multiple of 8
  int groups;
  int by_channel;  // neighbouring channels, not pixels, are neighbours in memory
};

constexpr int kTilePixels = 32, kTileChannels = 64;
constexpr int kPackThreads = 256, kPackLoads = kTilePixels * kTileChannels / kPackThreads;

__host__ __device__ inline int64_t channel_tiles(const Images& m) {
  return (int64_t{m.groups} * m.padded + kTileChannels - 1) / kTileChannels;
}
__host__ __device__ inline int64_t pack_tiles(const Images& m) {
  const int64_t pixels = m.images * m.height * m.width;
  return (pixels + kTilePixels - 1) / kTilePixels * channel_tiles(m);
}

// Where in a tile this thread's i-th number lies: lanes run along memory.
struct InTile {
  int pixel, channel;
};
__device__ __forceinline__ InTile place_in_tile(const Images& m, int i) {
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  if (m.by_channel) return {warp + i / 2 * 8, lane + i % 2 * 32};
  return {lane, warp + i * 8};
}

// This thread's numbers of a tile of one sample, zero beyond its pixels and channels.
template <class T>
__device__ __forceinline__ void load_tile(const T* x, const Images& m, int64_t tile,
                                          float (&values)[kPackLoads]) {
  const int64_t across = channel_tiles(m), first_pixel = tile / across * kTilePixels;
  const int first_channel = static_cast<int>(tile % across) * kTileChannels;
  const unsigned size = static_cast<unsigned>(m.height) * static_cast<unsigned>(m.width);
  const int64_t first_image = first_pixel / size;
  const unsigned rest = static_cast<unsigned>(first_pixel - first_image * size);
#pragma unroll
  for (int i = 0; i < kPackLoads; ++i) {
    const InTile at = place_in_tile(m, i);
    const unsigned ahead = rest + static_cast<unsigned>(at.pixel), pixel = ahead % size;
    const int64_t image = first_image + ahead / size;
    const int y = static_cast<int>(pixel / static_cast<unsigned>(m.width));
    const int z = static_cast<int>(pixel % static_cast<unsigned>(m.width));
    int channel = first_channel + at.channel, group = 0;
    if (m.groups > 1) {
      group = channel / m.padded;
      channel -= group * m.padded;
    }
    values[i] = 0;
    if (image < m.images && group < m.groups && channel < m.channels)
      values[i] = to_float(
          x[image * m.batch_stride + (int64_t{group} * m.channels + channel) * m.channel_stride +
            y * m.row_stride + z * m.col_stride]);
  }
}

constexpr int kTilesEach = 8;  // of a block of largest_kernel: few atomics

// Grid (tiles / kTilesEach, samples); largest[sample] starts as 0. The bits of numbers >= 0 order
// as integers.
template <class T>
__global__ void __launch_bounds__(kPackThreads)
    largest_kernel(const T* x, Images m, unsigned* largest) {
  const T* sample = x + blockIdx.y * m.images * m.batch_stride;
  unsigned most = 0;
  const int64_t first = int64_t{blockIdx.x} * kTilesEach;
  const int64_t end = min(first + kTilesEach, pack_tiles(m));
  for (int64_t tile = first; tile < end; ++tile) {
    float values[kPackLoads];
    load_tile(sample, m, tile, values);
#pragma unroll
    for (int i = 0; i < kPackLoads; ++i) most = max(most, __float_as_uint(fabsf(values[i])));
  }
  most = __reduce_max_sync(~0u, most);
  if (threadIdx.x % 32 == 0) atomicMax(largest + blockIdx.y, most);
}

// Grid (tiles, samples); hi and lo: [samples, images, height, width, groups * padded].
template <class T, Arithmetic kArithmetic>
__global__ void __launch_bounds__(kPackThreads)
    pack_kernel(const T* x, Images m, const unsigned* largest, uint16_t* hi, uint16_t* lo) {
  SPADE_SHARED(float, turned, kTileChannels*(kTilePixels + 1));
  const int sample = static_cast<int>(blockIdx.y);
  const float scale = power_of_two(scale_exponent(largest, sample));
  const int64_t tile = blockIdx.x, pixels = m.images * m.height * m.width;
  const int64_t across = channel_tiles(m), columns = int64_t{m.groups} * m.padded;
  float values[kPackLoads];
  load_tile(x + sample * m.images * m.batch_stride, m, tile, values);
#pragma unroll
  for (int i = 0; i < kPackLoads; ++i) {
    const InTile at = place_in_tile(m, i);
    turned[at.channel * (kTilePixels + 1) + at.pixel] = values[i] * scale;
  }
  __syncthreads();  // the tile is complete
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t column = tile % across * kTileChannels + 2 * lane;
  if (column >= columns) return;
  for (int p = static_cast<int>(threadIdx.x) >> 5; p < kTilePixels; p += kPackThreads / 32) {
    const int64_t pixel = tile / across * kTilePixels + p;
    if (pixel >= pixels) break;
    const int64_t to = (sample * pixels + pixel) * columns + column;
    unsigned high = 0, low = 0;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const Parts parts = split<kArithmetic>(turned[(2 * lane + e) * (kTilePixels + 1) + p]);
      high |= static_cast<unsigned>(parts.hi) << (16 * e);
      low |= static_cast<unsigned>(parts.lo) << (16 * e);
    }
    *reinterpret_cast<unsigned*>(hi + to) = high;
    if (kPartsOf<kArithmetic> == 2) *reinterpret_cast<unsigned*>(lo + to) = low;
  }
}

}  // namespace spade::cuda

// The gram of a convolution's unfolded input, unfolded in shared memory: for few channels a group
// (depthwise, the first layer), where grams of channels would leave tensor cores mostly empty.
//
//   sums[block] = kWidth x kWidth tile of  sum_k u[k, i] u[k, j],  u[k, (c, a, b)] = x[c, y, x]
//
// with k = (image, output row, output column). A lane owns a pixel k of the chunk and a warp every
// kWarps-th column of u, whose place in x the block computes once; the numbers of the next chunk
// are on their way while this one is multiplied. Bound by the gathering: about twenty instructions
// a number and 2 kWidth numbers a pixel for kWidth^2 products.
#pragma once

#include "cuda/hessian_gram.cuh"
#include "cuda/hessian_pack.cuh"

namespace spade::cuda {

struct Unfold {
  int64_t batch_stride, channel_stride, row_stride, col_stride;
  int64_t images;
  int height, width, out_h, out_w;
  int kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  int channels, groups;  // channels of one group
};

constexpr int kPitch = kDepth + 8;  // so that ldmatrix meets no bank twice

template <int kWidth, Arithmetic kArithmetic>
constexpr int kGatherSharedBytes =
    2 * kPartsOf<kArithmetic> * kWidth * kPitch * static_cast<int>(sizeof(uint16_t));

// [kWidth columns][kPitch pixels]
struct ColumnMajor {
  const uint16_t* parts[2];

  __device__ __forceinline__ void fragments(unsigned (&r)[4], int part, int column, int k) const {
    const int lane = static_cast<int>(threadIdx.x) & 31;
    ldmatrix_x4(r, parts[part] + (column + lane % 16) * kPitch + k + lane / 16 * 8);
  }
};

// Where column `column` of u is read, from the pixel that tap (0, 0) of the unpadded input reads.
struct UnfoldedColumn {
  int64_t offset;
  int y, x;
};
__device__ __forceinline__ UnfoldedColumn unfolded_column(const Unfold& in, int column) {
  const int taps = in.kernel_h * in.kernel_w, channel = column / taps, tap = column % taps;
  if (channel >= in.channels) return {0, INT32_MIN, 0};  // inside no image
  const int y = tap / in.kernel_w * in.dilation_h - in.pad_top;
  const int x = tap % in.kernel_w * in.dilation_w - in.pad_left;
  return {channel * in.channel_stride + y * in.row_stride + x * in.col_stride, y, x};
}

// Grid samples * groups * plan.blocks; the plan is one symmetric job of `D` channels.
template <class T, int kWidth, int kRows, int kColumns, Arithmetic kArithmetic>
__global__ void __launch_bounds__((kGramThreads<kWidth, kRows, kColumns>))
    gather_kernel(const T* x, Unfold in, PlanOnDevice plan, const unsigned* largest, float* sums) {
  constexpr int kThreads = kGramThreads<kWidth, kRows, kColumns>, kWarps = kThreads / 32;
  constexpr int kParts = kPartsOf<kArithmetic>, kPart = kWidth * kPitch;
  constexpr int kLoads = kWidth / kWarps;
  SPADE_DYNAMIC_SHARED(uint16_t, shared);  // [2 operands][kParts][kWidth][kPitch]
  SPADE_SHARED(UnfoldedColumn, place, 2 * kWidth);
  const int tid = static_cast<int>(threadIdx.x), warp = tid >> 5, lane = tid & 31;
  // Blocks that run together read neighbouring groups: in channels_last the same sectors of L2.
  const int problems = static_cast<int>(gridDim.x) / plan.blocks;
  const int block = static_cast<int>(blockIdx.x) / problems;
  const int problem = static_cast<int>(blockIdx.x) % problems, sample = problem / in.groups;
  const GramJob job = find_job(plan.words, 1, block);
  const TilePlace tile = tile_place(block % job.tiles, 0, true);
  const bool same = tile.I == tile.J;
  const int64_t first = block / job.tiles * plan.span;
  const int count = static_cast<int>(min(plan.span, in.images * in.out_h * in.out_w - first));
  for (int e = tid; e < 2 * kWidth; e += kThreads)
    place[e] = unfolded_column(in, (e < kWidth ? tile.I : tile.J) * kWidth + e % kWidth);
  __syncthreads();  // place is complete
  const float scale = power_of_two(scale_exponent(largest, sample));
  x += sample * in.images * in.batch_stride +
       int64_t{problem % in.groups} * in.channels * in.channel_stride;

  PixelCursor<kDepth> cursor(first + lane, in.out_h, in.out_w);
  float next[2][kLoads];
  const auto fetch = [&](int chunk) {
    const int y = cursor.y * in.stride_h, z = cursor.x * in.stride_w;
    const T* pixel = x + cursor.image * in.batch_stride + y * in.row_stride + z * in.col_stride;
    const bool counted = chunk * kDepth + lane < count;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side && same) break;
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const UnfoldedColumn at = place[side * kWidth + warp + i * kWarps];
        const bool inside = static_cast<unsigned>(y + at.y) < static_cast<unsigned>(in.height) &&
                            static_cast<unsigned>(z + at.x) < static_cast<unsigned>(in.width);
        next[side][i] = counted && inside ? to_float(pixel[at.offset]) * scale : 0.0f;
      }
    }
    cursor.advance();
  };

  const int chunks = (count + kDepth - 1) / kDepth;
  WarpSums<kRows, kColumns> warp_sums;
  const int row = warp % (kWidth / kRows) * kRows, column = warp / (kWidth / kRows) * kColumns;
  const ColumnMajor a{{shared, shared + kPart}};
  const uint16_t* right = same ? shared : shared + kParts * kPart;
  const ColumnMajor b{{right, right + kPart}};
  fetch(0);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    __syncthreads();  // all have done with the chunk before
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side && same) break;
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        uint16_t* to = shared + side * kParts * kPart + (warp + i * kWarps) * kPitch + lane;
        const Parts parts = split<kArithmetic>(next[side][i]);
        *to = parts.hi;
        if (kParts == 2) to[kPart] = parts.lo;
      }
    }
    __syncthreads();  // the chunk is complete
    if (chunk + 1 < chunks) fetch(chunk + 1);
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) warp_sums.template add<kArithmetic>(a, row, b, column, k);
    if ((chunk + 1) % (kPromote / kDepth) == 0) warp_sums.promote();
  }
  warp_sums.promote();
  warp_sums.template store<kWidth>(
      sums + (int64_t{problem} * plan.blocks + block) * kWidth * kWidth, row, column);
}

}  // namespace spade::cuda

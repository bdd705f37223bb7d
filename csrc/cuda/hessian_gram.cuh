// Grams of a packed input with itself shifted: partial sums of each job of a plan.
//
//   sums[block] = kWidth x kWidth tile of  sum_k x[pixel_k, c] x[pixel_k + (dy, dx), d]
//
// over the `span` pixels of the block's split. A block finds its job from its index. Both operands
// are [pixel][channel] tiles, so a shift of a tap is an offset of the address; they pass through
// kStages stages of asynchronous copies, 16-byte pieces exchanged within a row so that ldmatrix
// meets no bank twice. Bound by the tensor cores: 2 kWidth^2 flop a product and pixel for 4 kWidth
// (one product) or 8 kWidth (three) bytes from L2.
#pragma once

#include "cuda/hessian_plan.h"
#include "cuda/hessian_tile.cuh"

namespace spade::cuda {

// [samples * images, height, width, groups * padded] in 16-bit parts: packed, or x itself.
struct PackedInput {
  const uint16_t *hi, *lo;
  int64_t batch_stride, row_stride, col_stride;
  int64_t images;  // of one sample
  int stride_h, stride_w;
  int channels, padded, groups;
};

struct PlanOnDevice {
  const int32_t* words;
  int jobs;
  int taps, channels;
  int64_t span;
  int blocks;
};

constexpr int kStages = 3;
constexpr int kLoadRows = 16;  // pixels that the threads of a block load at once

// [kDepth pixels][kWidth channels]; piece p of pixel k lies at p ^ (k % 8).
template <int kWidth>
struct PixelMajor {
  const uint16_t* parts[2];

  __device__ __forceinline__ void fragments(unsigned (&r)[4], int part, int column, int k) const {
    const int lane = static_cast<int>(threadIdx.x) & 31;
    const int pixel = k + lane / 16 * 8 + lane % 8, piece = column / 8 + lane / 8 % 2;
    ldmatrix_x4_transposed(r, parts[part] + pixel * kWidth + ((piece ^ (pixel & 7)) << 3));
  }
};

template <int kWidth, int kRows, int kColumns>
constexpr int kGramThreads = kWidth / kRows * (kWidth / kColumns) * 32;

template <int kWidth, Arithmetic kArithmetic>
constexpr int kGramSharedBytes =
    kStages * 2 * kPartsOf<kArithmetic> * kDepth * kWidth * static_cast<int>(sizeof(uint16_t));

// Grid samples * groups * plan.blocks; a warp owns kRows x kColumns.
template <int kWidth, int kRows, int kColumns, Arithmetic kArithmetic>
__global__ void __launch_bounds__((kGramThreads<kWidth, kRows, kColumns>))
    gram_kernel(PackedInput in, PlanOnDevice plan, float* sums) {
  constexpr int kParts = kPartsOf<kArithmetic>, kPieces = kWidth / 8, kPart = kDepth * kWidth;
  static_assert(kGramThreads<kWidth, kRows, kColumns> == kLoadRows * kPieces);
  SPADE_DYNAMIC_SHARED(uint16_t, shared);
  const int tid = static_cast<int>(threadIdx.x), warp = tid >> 5;
  const int block = static_cast<int>(blockIdx.x) % plan.blocks;
  const int problem = static_cast<int>(blockIdx.x) / plan.blocks, group = problem % in.groups;
  const GramJob job = find_job(plan.words, plan.jobs, block);
  const int split = (block - job.first) / job.tiles;
  const TilePlace tile = tile_place((block - job.first) % job.tiles,
                                    (in.channels + kWidth - 1) / kWidth, job.symmetric);
  const bool same = job.symmetric && tile.I == tile.J;  // both operands are the same
  const int64_t first = split * plan.span;
  const int64_t pixels = in.images * job.at.rows * job.at.columns;
  const int count = static_cast<int>(min(plan.span, pixels - first));

  // This thread loads one 16-byte piece of every kLoadRows-th pixel.
  const int piece = tid % kPieces;
  int loaded = tid / kPieces;  // of `count`
  PixelCursor<kLoadRows> cursor(first + loaded, job.at.rows, job.at.columns);
  const int64_t origin = int64_t{problem / in.groups} * in.images * in.batch_stride +
                         int64_t{group} * in.padded + piece * 8;
  const int64_t shift = job.at.dy * in.row_stride + job.at.dx * in.col_stride;
  const bool in_left = tile.I * kWidth + piece * 8 < in.padded;
  const bool in_right = tile.J * kWidth + piece * 8 < in.padded;

  const auto load = [&](int stage) {
#pragma unroll
    for (int pass = 0; pass < kDepth / kLoadRows; ++pass) {
      const int row = pass * kLoadRows + tid / kPieces;
      const int64_t y = job.at.y + int64_t{cursor.y} * in.stride_h;
      const int64_t x = job.at.x + int64_t{cursor.x} * in.stride_w;
      const int64_t pixel =
          origin + cursor.image * in.batch_stride + y * in.row_stride + x * in.col_stride;
      const bool left = loaded < count && in_left, right = loaded < count && in_right;
      const int64_t a = left ? pixel + tile.I * kWidth : 0;
      const int64_t b = right ? pixel + shift + tile.J * kWidth : 0;
      uint16_t* to =
          shared + stage * 2 * kParts * kPart + row * kWidth + ((piece ^ (row & 7)) << 3);
      cp_async16(to, in.hi + a, left ? 16 : 0);
      if (kParts == 2) cp_async16(to + kPart, in.lo + a, left ? 16 : 0);
      if (!same) {
        cp_async16(to + kParts * kPart, in.hi + b, right ? 16 : 0);
        if (kParts == 2) cp_async16(to + 3 * kPart, in.lo + b, right ? 16 : 0);
      }
      loaded += kLoadRows;
      cursor.advance();
    }
  };

  const int chunks = (count + kDepth - 1) / kDepth;
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < chunks) load(stage);
    cp_async_commit();
  }
  WarpSums<kRows, kColumns> warp_sums;
  const int row = warp % (kWidth / kRows) * kRows, column = warp / (kWidth / kRows) * kColumns;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // the chunk is there, and all have done with the one before it
    if (chunk + kStages - 1 < chunks) load((chunk + kStages - 1) % kStages);
    cp_async_commit();
    const uint16_t* stage = shared + chunk % kStages * 2 * kParts * kPart;
    const PixelMajor<kWidth> a{{stage, stage + kPart}};
    const uint16_t* right = same ? stage : stage + kParts * kPart;
    const PixelMajor<kWidth> b{{right, right + kPart}};
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) warp_sums.template add<kArithmetic>(a, row, b, column, k);
    if ((chunk + 1) % (kPromote / kDepth) == 0) warp_sums.promote();
  }
  warp_sums.promote();
  warp_sums.template store<kWidth>(sums + int64_t{blockIdx.x} * kWidth * kWidth, row, column);
}

}  // namespace spade::cuda

// Tiles of sums of products on tensor cores: what the two gram kernels share.
//
// fp32 numbers come as x = hi + lo in fp16, |x - hi - lo| <= 2^-22 |x|, and a product is
// lo hi' + hi lo' + hi hi'. A tensor core cuts off what does not fit its float32 sum, always
// downwards, so a long sum of squares drifts: after kPromote products the sum goes to ordinary
// registers, which round to nearest, and starts anew.
#pragma once

#include "cuda/ptx.h"

namespace spade::cuda {

constexpr int kDepth = 32;    // pixels multiplied between two barriers
constexpr int kPromote = 64;  // pixels a tensor-core sum runs over

// How numbers are multiplied: as hi + lo, as hi alone (exact for fp16), or as they are, in bf16.
enum class Arithmetic { kThreeProducts, kOneProduct, kBfloat16 };
template <Arithmetic kArithmetic>
constexpr int kPartsOf = kArithmetic == Arithmetic::kThreeProducts ? 2 : 1;

template <Arithmetic kArithmetic>
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
  if (kArithmetic == Arithmetic::kBfloat16)
    mma_bfloat16(c, a, b);
  else
    mma_half(c, a, b);
}

// The kRows x kColumns sums of one warp.
template <int kRows, int kColumns>
struct WarpSums {
  static constexpr int kI = kRows / 16, kJ = kColumns / 8;
  float fresh[kI][kJ][4], total[kI][kJ][4];

  __device__ __forceinline__ WarpSums() {
#pragma unroll
    for (int i = 0; i < kI; ++i)
#pragma unroll
      for (int j = 0; j < kJ; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) fresh[i][j][e] = total[i][j][e] = 0;
  }

  __device__ __forceinline__ void promote() {
#pragma unroll
    for (int i = 0; i < kI; ++i)
#pragma unroll
      for (int j = 0; j < kJ; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          total[i][j][e] += fresh[i][j][e];
          fresh[i][j][e] = 0;
        }
  }

  // Add the products of pixels [k, k + 16): a[row + .] b[column + .]. An operand has parts 0 (hi)
  // and 1 (lo); fragments() reads 16 columns x 16 pixels of one.
  template <Arithmetic kArithmetic, class Operand>
  __device__ __forceinline__ void add(const Operand& a, int row, const Operand& b, int column,
                                      int k) {
    constexpr int kParts = kPartsOf<kArithmetic>;
    unsigned right[kParts][kJ][2];
#pragma unroll
    for (int p = 0; p < kParts; ++p)
#pragma unroll
      for (int j = 0; j < kJ; j += 2) {
        unsigned r[4];
        b.fragments(r, p, column + 8 * j, k);
        right[p][j][0] = r[0];
        right[p][j + 1][0] = r[1];
        right[p][j][1] = r[2];
        right[p][j + 1][1] = r[3];
      }
#pragma unroll
    for (int i = 0; i < kI; ++i) {
      unsigned left[kParts][4];
#pragma unroll
      for (int p = 0; p < kParts; ++p) a.fragments(left[p], p, row + 16 * i, k);
#pragma unroll
      for (int j = 0; j < kJ; ++j) {
        if (kParts == 2) {
          multiply<kArithmetic>(fresh[i][j], left[kParts - 1], right[0][j]);
          multiply<kArithmetic>(fresh[i][j], left[0], right[kParts - 1][j]);
        }
        multiply<kArithmetic>(fresh[i][j], left[0], right[0][j]);
      }
    }
  }

  // Write to a tile of kWidth x kWidth from (row, column).
  template <int kWidth>
  __device__ __forceinline__ void store(float* tile, int row, int column) const {
    const int lane = static_cast<int>(threadIdx.x) & 31;
#pragma unroll
    for (int i = 0; i < kI; ++i)
#pragma unroll
      for (int j = 0; j < kJ; ++j)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          float* at =
              tile + (row + 16 * i + lane / 4 + e / 2 * 8) * kWidth + column + 8 * j + lane % 4 * 2;
          *reinterpret_cast<float2*>(at) = {total[i][j][e], total[i][j][e + 1]};
        }
  }
};

// The job whose blocks hold block b.
__device__ __forceinline__ GramJob find_job(const int32_t* words, int jobs, int b) {
  const GramJob* job = reinterpret_cast<const GramJob*>(words);
  int low = 0;
  for (int high = jobs; high - low > 1;) {
    const int middle = (low + high) / 2;
    if (job[middle].first <= b)
      low = middle;
    else
      high = middle;
  }
  return job[low];
}

// Tile (I, J) of a gram of `side` x `side` tiles; of a symmetric one, the lower tiles row by row.
struct TilePlace {
  int I, J;
};
__device__ __forceinline__ TilePlace tile_place(int tile, int side, bool symmetric) {
  if (!symmetric) return {tile / side, tile % side};
  int I = static_cast<int>((sqrtf(8.0f * static_cast<float>(tile) + 1.0f) - 1.0f) / 2.0f);
  while (I * (I + 1) / 2 > tile) --I;
  while ((I + 1) * (I + 2) / 2 <= tile) ++I;
  return {I, tile - I * (I + 1) / 2};
}

// Walks the pixels (image, row, column) of a rectangle in steps of kStep.
template <int kStep>
struct PixelCursor {
  int x, y, image;

  __device__ __forceinline__ PixelCursor(int64_t k, int rows, int columns)
      : rows_(rows), columns_(columns) {
    split(k, x, y, image);
    split(kStep, step_x_, step_y_, step_image_);
  }
  __device__ __forceinline__ void advance() {
    x += step_x_;
    y += step_y_;
    image += step_image_;
    if (x >= columns_) {
      x -= columns_;
      ++y;
    }
    if (y >= rows_) {
      y -= rows_;
      ++image;
    }
  }

 private:
  __device__ __forceinline__ void split(int64_t k, int& x_, int& y_, int& image_) const {
    const int64_t row = k / columns_;
    x_ = static_cast<int>(k - row * columns_);
    image_ = static_cast<int>(row / rows_);
    y_ = static_cast<int>(row - static_cast<int64_t>(image_) * rows_);
  }
  int rows_, columns_, step_x_, step_y_, step_image_;
};

}  // namespace spade::cuda

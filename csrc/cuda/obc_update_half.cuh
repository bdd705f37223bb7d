// The update of obc_update.cuh on tensor cores: U = s (h + l) with h, l in fp16 and s a power of
// two a row, so U U^T = s s^T (h h^T + h l^T + l h^T) to about 2^-22: three fp16 products, summed
// in float32 from zero, then subtracted from A in float32. A tensor core cuts off what does not fit
// its sum, always towards zero: the products of 16 columns, smallest first, are added to the sum by
// ordinary additions, which round.
//
// 3 kPanel m2^2 fp16 flop per row. Eight warps share a tile, 64 x 32 entries each; h and l come in
// slices of kHalfSlice columns. 72 KB of shared memory a block, so that several blocks of a
// multiprocessor overlap copies and products.
#pragma once

#include "cuda/obc_update.cuh"

namespace spade::cuda::obc {

constexpr int kHalfSlice = 64;
constexpr int kHalfStride = kHalfSlice + 8;  // 144 bytes: rows fall into different banks
constexpr size_t kHalfSharedBytes = 4 * kPackedTile * kHalfStride * sizeof(uint16_t);

struct HalfTile {
  int I, J;  // of tiles
  int size;  // of the row's matrix
};

__global__ void __launch_bounds__(kUpdateThreads, 2) obc_update_half(UpdateTask task) {
  SPADE_DYNAMIC_SHARED(uint16_t, dynamic);
  SPADE_SHARED(TileEdges, edges, 1);
  SPADE_SHARED(HalfTile, tile, 1);  // registers are for sums
  const ObcRows& rows = task.rows;
  const int64_t r = blockIdx.y, at_row = r * rows.width;
  if (rows.info[r]) return;
  {
    const int size = rows.size[r];
    int I, J;
    tile_of(static_cast<int>(blockIdx.x), I, J);
    if (I * kPackedTile >= size) return;
    if (threadIdx.x == 0) *tile = {I, J, size};
    read_edges(*edges, task, at_row, size, I, J);
    __syncthreads();  // the tile is known
  }
  const int tid = static_cast<int>(threadIdx.x), lane = tid & 31, warp = tid >> 5;
  const int top = warp % 2 * 64, start = warp / 2 * 32;  // the warp's part of the tile
  constexpr int kPart = kPackedTile * kHalfStride;
  uint16_t *left_high = dynamic, *left_low = dynamic + kPart;
  uint16_t *right_high = dynamic + 2 * kPart, *right_low = dynamic + 3 * kPart;
  float sum[4][4][4] = {};  // [16 rows, 8 columns, fragment]
#pragma unroll 1
  for (int slice = 0; slice < kPanel; slice += kHalfSlice) {
    if (slice) __syncthreads();  // the last slice has been read
#pragma unroll 1
    for (int e = tid; e < kPackedTile * kHalfSlice / 8; e += kUpdateThreads) {
      const int i = e / (kHalfSlice / 8), c = e % (kHalfSlice / 8) * 8;
      const int to = i * kHalfStride + c;
      const int row = min(tile->I * kPackedTile + i, tile->size - 1);
      const int column = min(tile->J * kPackedTile + i, tile->size - 1);
      const int64_t a = (at_row + row) * kPanel + slice + c;
      const int64_t b = (at_row + column) * kPanel + slice + c;
      cp_async16(left_high + to, rows.high + a);
      cp_async16(left_low + to, rows.low + a);
      cp_async16(right_high + to, rows.high + b);
      cp_async16(right_low + to, rows.low + b);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();  // this slice has arrived
#pragma unroll 1
    for (int k = 0; k < kHalfSlice; k += 16) {
      unsigned bh[4][2], bl[4][2];
#pragma unroll
      for (int j = 0; j < 4; j += 2) {  // matrices: columns 0-7 and 8-15, k 0-7 and 8-15 of each
        const int at =
            (start + j * 8 + lane / 16 * 8 + lane % 8) * kHalfStride + k + lane / 8 % 2 * 8;
        unsigned x[4];
        ldmatrix_x4(x, right_high + at);
        bh[j][0] = x[0], bh[j][1] = x[1], bh[j + 1][0] = x[2], bh[j + 1][1] = x[3];
        ldmatrix_x4(x, right_low + at);
        bl[j][0] = x[0], bl[j][1] = x[1], bl[j + 1][0] = x[2], bl[j + 1][1] = x[3];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = (top + i * 16 + lane % 16) * kHalfStride + k + lane / 16 * 8;
        unsigned ah[4], al[4];
        ldmatrix_x4(ah, left_high + at);
        ldmatrix_x4(al, left_low + at);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float part[4] = {};
          mma_half(part, al, bh[j]);
          mma_half(part, ah, bl[j]);
          mma_half(part, ah, bh[j]);
#pragma unroll
          for (int q = 0; q < 4; ++q) sum[i][j][q] += part[q];
        }
      }
    }
  }
  float* matrix = rows.matrix + r * rows.matrix_size;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = top + i * 16 + half * 8 + lane / 4, column = start + j * 8 + lane % 4 * 2;
        const float scale = edges->row_scale[row];
        const float change[2] = {
            sum[i][j][half * 2] * (scale * edges->column_scale[column]),
            sum[i][j][half * 2 + 1] * (scale * edges->column_scale[column + 1])};
        subtract(task, *edges, matrix, tile->size, tile->I, tile->J, row, column, change);
      }
}

}  // namespace spade::cuda::obc

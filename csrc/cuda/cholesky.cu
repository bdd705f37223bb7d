// Batched reversed Cholesky: with J the reversal of indices, 4^k J (H + shift) J = R^T R, R upper,
// and V = J R^T J is upper with 4^k (H + shift) = V V^T.
//
// Right-looking in panels of 64 rows, three launches each for all matrices (cholesky_panel.cuh):
// one block a matrix factorises the diagonal block and inverts it; one block a tile of 64 columns
// solves the rest of the panel by a product with that inverse; one block a tile updates the
// trailing upper triangle. D^3 / 3 flop a matrix at 16 flop a byte of trailing matrix (floats).
//
// The factor is double where the device multiplies doubles at half the rate of floats. Elsewhere,
// doubles at a sixty-fourth, it is so below a damping of 1e-3, and float, as on the CPU, from it
// on.

#include "core/damping.h"
#include "cuda/cholesky.cuh"
#include "cuda/cholesky_panel.cuh"

namespace spade::cuda {
namespace {

using namespace cholesky;

bool needs_double(const Device& device, double damp) {
  const bool fast = device.minor == 0 && device.major >= 8 && device.major <= 10;
  return fast || damp < kFloatFromDamp;
}

template <class T>
void factorise(const char* function, const CholeskyBatch& batch, int64_t S, double damp,
               const CholeskyScratch& scratch, float* v, cudaStream_t stream) {
  const unsigned matrices = static_cast<unsigned>(S);
  const int64_t D = batch.D;
  T* factor = static_cast<T*>(scratch.factor);
  T* inverse = static_cast<T*>(scratch.inverse);
  SPADE_LAUNCH(load_reversed<T>, dim3(blocks_of(D, kTurn), matrices), dim3(kCholeskyThreads), 0,
               stream, batch, damp, factor);
  check_launch(function);
  for (int64_t first = 0; first < D; first += kPanel) {
    SPADE_LAUNCH(factor_diagonal<T>, dim3(matrices), dim3(kCholeskyThreads), 0, stream, batch,
                 factor, inverse, first);
    check_launch(function);
    const int64_t rest = D - first - kPanel;
    if (rest <= 0) break;
    const unsigned tiles = blocks_of(rest, kTile);
    SPADE_LAUNCH(solve_panel<T>, dim3(tiles, matrices), dim3(kTileThreads), 0, stream, batch,
                 factor, inverse, first);
    check_launch(function);
    SPADE_LAUNCH(update_trailing<T>, dim3(static_cast<unsigned>(upper_tiles(tiles)), matrices),
                 dim3(kTileThreads), 0, stream, batch, factor, first);
    check_launch(function);
  }
  SPADE_LAUNCH(store_factor<T>,
               dim3(static_cast<unsigned>(upper_tiles(blocks_of(D, kTurn))), matrices),
               dim3(kCholeskyThreads), 0, stream, batch, factor, v);
  check_launch(function);
}

}  // namespace

CholeskyScratch take_cholesky(Workspace& workspace, const Device& device, int64_t S, int64_t D,
                              double damp) {
  const int64_t size = needs_double(device, damp) ? sizeof(double) : sizeof(float);
  CholeskyScratch scratch;
  scratch.factor = workspace.take<char>(S * D * D * size);
  scratch.inverse = workspace.take<char>(S * kPanel * kPanel * size);
  scratch.mean = workspace.take<double>(S);
  scratch.failed = workspace.take<int32_t>(S);
  return scratch;
}

void reversed_cholesky(const char* function, const Device& device, const float* h, int64_t S,
                       int64_t D, double damp, const CholeskyScratch& scratch, float* v,
                       double* damp_used, int32_t* info, cudaStream_t stream) {
  const CholeskyBatch batch{h, D, scratch.mean, scratch.failed, info, damp_used};
  SPADE_LAUNCH(begin_ladder, dim3(static_cast<unsigned>(S)), dim3(kCholeskyThreads), 0, stream,
               batch);
  check_launch(function);
  for (double next; damp >= 0; damp = next) {
    next = next_damp(damp);
    if (needs_double(device, damp))
      factorise<double>(function, batch, S, damp, scratch, v, stream);
    else
      factorise<float>(function, batch, S, damp, scratch, v, stream);
    SPADE_LAUNCH(settle_rung, dim3(blocks_of(S, kCholeskyThreads)), dim3(kCholeskyThreads), 0,
                 stream, batch, S, damp, next < 0);
    check_launch(function);
  }
}

}  // namespace spade::cuda

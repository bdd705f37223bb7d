// Batched reversed Cholesky, of matrices of many sizes, with a damping ladder for each.
#pragma once

#include <cfloat>
#include <vector>

#include "cuda/launch.h"

namespace spade::cuda {

constexpr int kPanel = 64;  // rows of a panel of the factorisation

// Matrices of one size. T: float or double, F: what they are factorised in.
struct CholeskyPiece {
  const void* h;      // [S, D, D] of T
  void* v;            // [S, D, D] of T: V; its strict lower triangle is not written
  double* damp_used;  // [S]
  int32_t* info;      // [S]: 0, or SPADE_SINGULAR and v is not written
  int64_t S, D;       // >= 1
  void* factor;       // scratch [S, D, D] of F: 4^k J (H + shift) J, then its factor
  void* inverse;      // scratch [S, kPanel, kPanel] of F: of the panel's diagonal block
  double* mean;       // scratch [S]: of the diagonal of H', which has 1 for each dead column
  int32_t* failed;    // scratch [S]: this damping is not enough
};

// At most kMostPieces pieces, and a copy of them on the device.
struct CholeskyBatch {
  std::vector<CholeskyPiece> pieces;
  CholeskyPiece* table;  // scratch
};

// Lays the scratch memory of a batch whose S and D are known.
template <class T>
void take_cholesky(Workspace& workspace, const Device& device, double damp, CholeskyBatch& batch);

// v = V, upper, with 4^k (H' + damp_used mean(diag H') I) = V V^T: V^-1 is the upper Cholesky
// factor of the inverse of the left side. H' is H with every dead column (H_jj = 0) given a unit
// diagonal; 4^k brings mean(diag H') into [1/2, 4). Each matrix walks the ladder of
// spade_damped_inverse by itself, on the device: the work of every rung is queued, and its blocks
// return at once for matrices that have succeeded.
template <class T>
void reversed_cholesky(const char* function, const Device& device, double damp,
                       const CholeskyBatch& batch, cudaStream_t stream);

namespace cholesky {

// The power of 4 that brings numbers like `mean` into [1/2, 4), if a double holds it: it changes no
// digit of the factor, and weights and masks depend on no scale, but squares of weights over those
// of U would leave the range of floats.
__device__ __forceinline__ double scale_for(double mean) {
  if (mean == 0 || !(fabs(mean) <= DBL_MAX)) return 1;
  return ldexp(1.0, -2 * max(ilogb(mean) / 2, -511));
}

}  // namespace cholesky
}  // namespace spade::cuda

// Batched reversed Cholesky with a damping ladder for each matrix.
#pragma once

#include "cuda/launch.h"

namespace spade::cuda {

constexpr int kPanel = 64;  // rows of a panel of the factorisation

// Scratch memory of reversed_cholesky for S matrices D x D.
struct CholeskyScratch {
  void* factor;     // [S, D, D]: 4^k J (H + shift) J, then its factor; double or float
  void* inverse;    // [S, kPanel, kPanel]: of the panel's diagonal block
  double* mean;     // [S]: of the diagonal of H', which has 1 for each dead column
  int32_t* failed;  // [S]: this damping is not enough
};
CholeskyScratch take_cholesky(Workspace& workspace, const Device& device, int64_t S, int64_t D,
                              double damp);

// v = V, upper, with 4^k (H' + damp_used mean(diag H') I) = V V^T: V^-1 is the upper Cholesky
// factor of the inverse of the left side. H' is H with every dead column (H_jj = 0) given a unit
// diagonal; 4^k brings mean(diag H') into [1/2, 4). Each matrix walks the ladder of
// spade_damped_inverse by itself, on the device: the work of every rung is queued, and its blocks
// return at once for matrices that have succeeded.
//
// h: [S, D, D]. v: [S, D, D], the strict lower triangle is not written. damp_used: [S]; info: [S],
// 0 or SPADE_SINGULAR, v is then not written. S, D >= 1.
void reversed_cholesky(const char* function, const Device& device, const float* h, int64_t S,
                       int64_t D, double damp, const CholeskyScratch& scratch, float* v,
                       double* damp_used, int32_t* info, cudaStream_t stream);

}  // namespace spade::cuda

// Dense Cholesky factorisation, inverse and the damping ladder. Row-major, lower triangles.
#pragma once

#include <cstdint>

namespace spade {

// a = L L^T in place (strict upper triangle untouched); false if a is not positive definite.
// n^3 / 3 flop in tiles of BLAS; the same bits for every number of threads.
template <class T>
bool cholesky(T* a, int64_t n, int threads);

// out = (L L^T)^-1, both triangles; `l` becomes L^-1. 2 n^3 / 3 flop.
template <class T>
void cholesky_inverse(T* l, int64_t n, T* out, int threads);

// Diagonal of H with 1 for every dead column (H_jj = 0), to out; returns the mean of it.
template <class T>
double live_diagonal(const T* h, int64_t n, double* out);

// The next rung of the damping ladder, or a negative number past 1.
double next_damp(double damp);

}  // namespace spade

// Dense Cholesky factorisation H = U^T U, inverse, diagonal.
#pragma once

#include <cstdint>

#include "core/parallel.h"
#include "cpu/panels.h"

namespace spade {

// u = scale * (H with `diagonal` + shift in place of its own), n x n, upper triangle; with both
// indices reversed if asked to. Of h the lower triangle is read.
template <class S, class T>
void pack(const S* h, const double* diagonal, double shift, double scale, bool reversed,
          const Panels<T>& u, int threads);

// u = U in place and the inverses of its diagonal tiles, [count, kPanel, kPanel]; false if the
// matrix is not positive definite. n^3 / 3 flop; the same bits for every number of threads. Once
// `done` is cancelled neither means anything.
template <class T>
bool cholesky(const Panels<T>& u, T* inverses, int threads, Progress& done);

// out = (U^T U)^-1, n x n, both triangles, and its diagonal in double, unless `done` is cancelled.
// 2 n^3 / 3 flop.
template <class S>
void cholesky_inverse(const Panels<double>& u, const double* inverses, S* out, double* diagonal,
                      int threads, Progress& done);

// Diagonal of H with 1 for every dead column (H_jj = 0), to out; returns the mean of it.
template <class T>
double live_diagonal(const T* h, int64_t n, double* out);

}  // namespace spade

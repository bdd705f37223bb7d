// The BLAS and LAPACK routines that libspade uses, always on one thread (see blas.cpp).
#pragma once

#include <cstdint>

#if defined(SPADE_SCIPY_OPENBLAS)
#define SPADE_BLAS(name) scipy_##name
#else
#define SPADE_BLAS(name) name
#endif

extern "C" {
void SPADE_BLAS(cblas_sgemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                             const float* a, int lda, const float* b, int ldb, float beta, float* c,
                             int ldc);
void SPADE_BLAS(cblas_dgemm)(int order, int trans_a, int trans_b, int m, int n, int k, double alpha,
                             const double* a, int lda, const double* b, int ldb, double beta,
                             double* c, int ldc);
void SPADE_BLAS(cblas_strsm)(int order, int side, int uplo, int trans, int diag, int m, int n,
                             float alpha, const float* a, int lda, float* b, int ldb);
void SPADE_BLAS(cblas_dtrsm)(int order, int side, int uplo, int trans, int diag, int m, int n,
                             double alpha, const double* a, int lda, double* b, int ldb);
void SPADE_BLAS(spotrf_)(const char* uplo, const int* n, float* a, const int* lda, int* info);
void SPADE_BLAS(dpotrf_)(const char* uplo, const int* n, double* a, const int* lda, int* info);
void SPADE_BLAS(dpotri_)(const char* uplo, const int* n, double* a, const int* lda, int* info);
void SPADE_BLAS(dpotrs_)(const char* uplo, const int* n, const int* nrhs, const double* a,
                         const int* lda, double* b, const int* ldb, int* info);
}

namespace spade {

enum { kRowMajor = 101, kColMajor = 102, kNoTrans = 111, kTrans = 112, kUpper = 121, kLower = 122,
       kNonUnit = 131, kUnit = 132, kLeft = 141, kRight = 142 };

// Call before any BLAS routine: parallelism and determinism are libspade's own, so BLAS stays serial.
void use_serial_blas();

inline void gemm(int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda,
                 const float* b, int ldb, float beta, float* c, int ldc) {
  SPADE_BLAS(cblas_sgemm)(kRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
inline void gemm(int ta, int tb, int m, int n, int k, double alpha, const double* a, int lda,
                 const double* b, int ldb, double beta, double* c, int ldc) {
  SPADE_BLAS(cblas_dgemm)(kRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace spade

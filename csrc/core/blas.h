// The BLAS and LAPACK routines that libspade uses, row-major.
#pragma once

#include <cstdint>
#include <string>

#if defined(SPADE_SCIPY_OPENBLAS)
#define SPADE_BLAS(name) scipy_##name
#else
#define SPADE_BLAS(name) name
#endif

#define SPADE_DECLARE_BLAS(c, T)                                                               \
  void SPADE_BLAS(cblas_##c##gemm)(int order, int trans_a, int trans_b, int m, int n, int k,   \
                                   T alpha, const T* a, int lda, const T* b, int ldb, T beta,  \
                                   T* c_, int ldc);                                            \
  void SPADE_BLAS(c##potrf_)(const char* uplo, const int* n, T* a, const int* lda, int* info); \
  void SPADE_BLAS(c##potrs_)(const char* uplo, const int* n, const int* nrhs, const T* a,      \
                             const int* lda, T* b, const int* ldb, int* info);
extern "C" {
SPADE_DECLARE_BLAS(s, float)
SPADE_DECLARE_BLAS(d, double)
}
#undef SPADE_DECLARE_BLAS

namespace spade::blas {

constexpr int kRowMajor = 101;
constexpr int kNoTranspose = 111;

// Call once before the others: parallelism and determinism are libspade's own, so its own copy of
// OpenBLAS stays serial. A system BLAS is shared with others and keeps its setting.
void use_one_thread();

// Which BLAS this is, for spade_build_info.
std::string name();

#define SPADE_DEFINE_BLAS(c, T)                                                                  \
  /* C = A B; A is m x k */                                                                      \
  inline void gemm(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b,         \
                   int64_t ldb, T* out, int64_t ldc) {                                           \
    SPADE_BLAS(cblas_##c##gemm)                                                                  \
    (kRowMajor, kNoTranspose, kNoTranspose, static_cast<int>(m), static_cast<int>(n),            \
     static_cast<int>(k), T(1), a, static_cast<int>(lda), b, static_cast<int>(ldb), T(0), out,   \
     static_cast<int>(ldc));                                                                     \
  }                                                                                              \
  /* A = L L^T in the lower triangle; false if A is not positive definite */                     \
  inline bool potrf(int64_t n, T* a, int64_t lda) {                                              \
    const int n_ = static_cast<int>(n), lda_ = static_cast<int>(lda);                            \
    int info = 0;                                                                                \
    SPADE_BLAS(c##potrf_)("U", &n_, a, &lda_, &info); /* column-major upper = row-major lower */ \
    return info == 0;                                                                            \
  }                                                                                              \
  /* b = (L L^T)^-1 b for one vector */                                                          \
  inline void potrs(int64_t n, const T* a, int64_t lda, T* b) {                                  \
    const int n_ = static_cast<int>(n), lda_ = static_cast<int>(lda), one = 1;                   \
    int info = 0;                                                                                \
    SPADE_BLAS(c##potrs_)("U", &n_, &one, a, &lda_, b, &n_, &info);                              \
  }
SPADE_DEFINE_BLAS(s, float)
SPADE_DEFINE_BLAS(d, double)
#undef SPADE_DEFINE_BLAS

}  // namespace spade::blas

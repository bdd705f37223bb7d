/**
 * The operations of spade.h on an NVIDIA GPU. C99; no CUDA header is needed to include this one.
 *
 * Rules of every function here, beside those of spade.h
 *  - Pointers are device memory except where a comment says host; `stream` is a cudaStream_t (NULL:
 *    the default stream). Work is queued and the call returns: nothing is allocated, nothing waits.
 *  - Scratch memory is the caller's: ask the `..._workspace_bytes` function beside each operation
 *    and pass at least that much, aligned to 256 bytes. Where the query takes `limit`, work is cut
 *    into chunks of rows or samples whose scratch stays within `limit` bytes, or takes the least
 *    that one row or sample needs if that is more.
 *  - Statuses speak of arguments and launches (SPADE_CUDA_ERROR carries CUDA's text); what only the
 *    device knows comes in `info` arrays.
 *  - Not checked: NaN or Inf in inputs.
 *  - Without the CUDA half of the library, a driver or a GPU every operation returns
 *    SPADE_CUDA_UNAVAILABLE.
 */
#ifndef SPADE_CUDA_H
#define SPADE_CUDA_H

#include <stddef.h>

#include "spade/spade.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Whether the CUDA half is loaded and finds a GPU of compute capability 8.0 or higher. Loads it on
 * the first call: libspade_cuda.so in the folder of libspade, or the file that the environment
 * variable SPADE_CUDA_LIBRARY names. Calls on other GPUs of the machine, if there are any, fail
 * with SPADE_CUDA_ERROR. */
SPADE_API int spade_cuda_is_available(void);

/** Why spade_cuda_is_available() is 0; "" if it is 1. */
SPADE_API const char* spade_cuda_unavailable_reason(void);

/** How the CUDA half was built: one JSON object of strings: "nvcc", "architectures"; "{}" without
 * one. */
SPADE_API const char* spade_cuda_build_info(void);

/** Element type: of a layer's inputs the first three, of its weights the first and the last. */
typedef enum {
  SPADE_FLOAT32 = 0,
  SPADE_FLOAT16 = 1,
  SPADE_BFLOAT16 = 2,
  SPADE_FLOAT64 = 3
} spade_dtype_t;

/** How products of float32 numbers are formed on tensor cores. 16-bit inputs are exact either way.
 */
typedef enum {
  SPADE_PRECISION_DEFAULT = 0, /* x = hi + lo in fp16, three products: error of float32 */
  SPADE_PRECISION_FAST = 1     /* hi alone, one product: relative error about 1e-5 */
} spade_precision_t;

/* ------------------------------------------------------------------ Hessian */

/**
 * Add X X^T to H for each of S samples; see spade_hessian_linear_f32.
 *
 * @param x      N x D rows of element type `dtype`, row n at x + n * ldx; sample s owns rows
 *               [s N / S, (s + 1) N / S), S divides N
 * @param dtype  SPADE_FLOAT32, SPADE_FLOAT16 or SPADE_BFLOAT16
 * @param precision  a spade_precision_t
 * @param[in,out] h  S x D x D
 */
SPADE_API spade_status_t spade_cuda_hessian_linear_workspace_bytes(int64_t S, int64_t N, int64_t D,
                                                                   int dtype, int precision,
                                                                   size_t* bytes /* host */);
SPADE_API spade_status_t spade_cuda_hessian_linear(const void* x, int dtype, int64_t S, int64_t N,
                                                   int64_t D, int64_t ldx, int precision, double* h,
                                                   void* workspace, size_t workspace_bytes,
                                                   void* stream);

/**
 * Add X X^T of a convolution's unfolded inputs to H for each of S samples; see
 * spade_hessian_conv2d_f32.
 *
 * @param conv  host; conv->batch images, S divides it; sample s owns images
 *              [s batch / S, (s + 1) batch / S)
 * @param[in,out] h  S x groups x D x D
 */
SPADE_API spade_status_t spade_cuda_hessian_conv2d_workspace_bytes(const spade_conv2d_t* conv,
                                                                   int64_t S, int dtype,
                                                                   int precision,
                                                                   size_t* bytes /* host */);
SPADE_API spade_status_t spade_cuda_hessian_conv2d(const void* x, int dtype,
                                                   const spade_conv2d_t* conv, int64_t S,
                                                   int precision, double* h, void* workspace,
                                                   size_t workspace_bytes, void* stream);

/* ---------------------------------------------------------------- Exact OBC */

/** Arithmetic of the trailing update of spade_cuda_obc_trace. */
typedef enum {
  SPADE_OBC_UPDATE_AUTO = 0, /* by the device */
  SPADE_OBC_UPDATE_FFMA = 1, /* float32 */
  SPADE_OBC_UPDATE_FP16 = 2  /* three fp16 tensor-core products, scaled exactly */
} spade_obc_update_t;

/**
 * Eliminate `steps` weights of each row in exact OBC order; see spade_obc_trace_f32.
 *
 * @param hinv    G x D x D: rows [g R / G, (g + 1) R / G) have the g-th matrix, here and in the
 *                functions below; G divides R
 * @param update  a spade_obc_update_t
 * @param limit   bytes of scratch to stay within; rows are eliminated in chunks
 */
SPADE_API spade_status_t spade_cuda_obc_trace_workspace_bytes(int64_t R, int64_t D, int64_t steps,
                                                              size_t limit,
                                                              size_t* bytes /* host */);
SPADE_API spade_status_t spade_cuda_obc_trace(const float* w, const float* hinv, int64_t R,
                                              int64_t G, int64_t D, int64_t steps, int update,
                                              int32_t* order, float* loss, int32_t* info,
                                              void* workspace, size_t workspace_bytes,
                                              void* stream);

/** As spade_cuda_obc_trace with n of each m consecutive columns eliminated, D / m * n steps; see
 * spade_obc_trace_nm_f32. */
SPADE_API spade_status_t spade_cuda_obc_trace_nm_workspace_bytes(int64_t R, int64_t D, int64_t n,
                                                                 int64_t m, size_t limit,
                                                                 size_t* bytes /* host */);
SPADE_API spade_status_t spade_cuda_obc_trace_nm(const float* w, const float* hinv, int64_t R,
                                                 int64_t G, int64_t D, int64_t n, int64_t m,
                                                 int update, int32_t* order, float* loss,
                                                 int32_t* info, void* workspace,
                                                 size_t workspace_bytes, void* stream);

/** What an elimination in double removes from each row. */
typedef struct {
  int64_t steps;       /* blocks to remove, in [0, D / block]; ignored when m > 0 */
  int64_t n, m;        /* of each m consecutive columns n are removed; m = 0: no such rule */
  int64_t block;       /* columns that are removed together; divides D, 1 with n:m */
  int64_t reserved[4]; /* must be 0 */
} spade_obc_pattern_t;

/**
 * Exact OBC in double, one pivot at a time, of any number of columns: see spade_obc_trace_f64 and
 * its _nm and _block forms. Orders are R x steps, indices of blocks where block > 1. It is bound by
 * memory: D^3 / 2 doubles are read per row, fewer with blocks. spade_cuda_obc_trace and
 * spade_cuda_obc_trace_nm are the fast ones. A row takes D^2 + 2 block D doubles of scratch.
 */
SPADE_API spade_status_t spade_cuda_obc_trace_pattern_workspace_bytes(
    int64_t R, int64_t D, const spade_obc_pattern_t* pattern /* host */, size_t limit,
    size_t* bytes /* host */);
SPADE_API spade_status_t spade_cuda_obc_trace_pattern_f32(
    const float* w, const float* hinv, int64_t R, int64_t G, int64_t D,
    const spade_obc_pattern_t* pattern /* host */, int32_t* order, float* loss, int32_t* info,
    void* workspace, size_t workspace_bytes, void* stream);
SPADE_API spade_status_t spade_cuda_obc_trace_pattern_f64(
    const double* w, const double* hinv, int64_t R, int64_t G, int64_t D,
    const spade_obc_pattern_t* pattern /* host */, int32_t* order, double* loss, int32_t* info,
    void* workspace, size_t workspace_bytes, void* stream);

/** Weights of each row after its first counts[r] eliminations; see spade_obc_weights_f32.
 *
 * @param h  G x D x D, as hinv
 */
SPADE_API spade_status_t spade_cuda_obc_weights_workspace_bytes(int64_t R, int64_t D, size_t limit,
                                                                size_t* bytes /* host */);
SPADE_API spade_status_t spade_cuda_obc_weights(const float* w, const float* h, const float* hinv,
                                                int64_t R, int64_t G, int64_t D, int64_t steps,
                                                const int32_t* order, const int64_t* counts,
                                                float* out, int32_t* info, void* workspace,
                                                size_t workspace_bytes, void* stream);

SPADE_API spade_status_t spade_cuda_obc_weights_f64(const double* w, const double* h,
                                                    const double* hinv, int64_t R, int64_t G,
                                                    int64_t D, int64_t steps, const int32_t* order,
                                                    const int64_t* counts, double* out,
                                                    int32_t* info, void* workspace,
                                                    size_t workspace_bytes, void* stream);

/* ---------------------------------------------------------------- SparseGPT */

/** One layer of spade_cuda_sparsegpt_prune; see spade_sparsegpt_prune_f32. */
typedef struct {
  int64_t S, R, D;           /* samples; rows and columns of the weights */
  spade_sparsegpt_t options; /* host */
  const void* w;             /* R x D; sample s starts at w + s * w_stride elements (0: shared) */
  int64_t w_stride;
  const void* h;       /* S x D x D */
  void* out;           /* S x R x D */
  double* damp_used;   /* S */
  int32_t* info;       /* S; 0 or SPADE_SINGULAR, out[s] is then a copy of the dense weights */
  int64_t reserved[4]; /* must be 0 */
} spade_cuda_sparsegpt_layer_t;

/**
 * SparseGPT for all samples of L layers at once. Layers of equal damping, at most 64 at a time,
 * share every launch, so that there are as many as the layer of most columns takes. Each sample of
 * each layer walks the damping ladder by itself. The result of a sample does not depend on the
 * others.
 *
 * @param layers  host, L of them; the workspace query reads no pointer of theirs
 * @param dtype   SPADE_FLOAT32 or SPADE_FLOAT64: the type of w, h and out of all layers, and of
 *                the arithmetic
 */
SPADE_API spade_status_t
spade_cuda_sparsegpt_prune_workspace_bytes(int64_t L, const spade_cuda_sparsegpt_layer_t* layers,
                                           int dtype, size_t limit, size_t* bytes /* host */);
SPADE_API spade_status_t spade_cuda_sparsegpt_prune(int64_t L,
                                                    const spade_cuda_sparsegpt_layer_t* layers,
                                                    int dtype, void* workspace,
                                                    size_t workspace_bytes, void* stream);

#ifdef __cplusplus
}
#endif

#endif /* SPADE_CUDA_H */

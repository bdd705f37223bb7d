/**
 * libspade: Hessians, exact OBC and SparseGPT for sample-specific sparsity. C99.
 *
 * Notation: R rows = outputs, D columns = inputs (x kernel taps), N samples of the layer's input,
 * X [D, N], H = X X^T [D, D], A = H^-1. All matrices are row-major and dense unless strides are
 * given.
 *
 * Rules of every function
 *  - Inputs are read only. Outputs never overlap inputs unless a comment says so.
 *  - `threads` >= 1 is the most OpenMP threads to start, in no case more than twice the processors
 *    or 64; results are bit-identical for every value of it. In a child of fork() calls run on the
 *    calling thread alone: an OpenMP runtime that ran before the fork would wait for ever there.
 *  - Arrays have fewer than 2^60 entries.
 *  - `progress` may be NULL. It is called on the calling thread only, at most about 20 times per
 *    second.
 *  - Returns SPADE_SUCCESS or the status of the failure; spade_last_error() then has the text.
 *    On any status but SPADE_SUCCESS the contents of the outputs are unspecified, except `info`
 *    arrays.
 *  - Nothing is thrown, printed or kept in global state. Calls are thread-safe.
 *  - Functions come in float (`_f32`) and double (`_f64`) form with the same contract.
 */
#ifndef SPADE_SPADE_H
#define SPADE_SPADE_H

#include <stdint.h>

#if defined(_WIN32)
#define SPADE_API __declspec(dllexport)
#else
#define SPADE_API __attribute__((visibility("default")))
#endif

/* The version of this header; spade_version() returns that of the library that is loaded. */
#define SPADE_VERSION_MAJOR 0
#define SPADE_VERSION_MINOR 1
#define SPADE_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/** The status that an operation returns. */
typedef enum {
  SPADE_SUCCESS = 0,
  SPADE_INVALID_ARGUMENT = 1, /* a size, pointer or option out of range */
  SPADE_NOT_FINITE = 2,       /* NaN or Inf in an input, or a result out of the range of its type */
  SPADE_SINGULAR = 3, /* a matrix is not positive definite, even with damp = 1, or its inverse
                         is out of the range of its type */
  SPADE_OUT_OF_MEMORY = 4,
  SPADE_CANCELLED = 5, /* the progress callback asked to stop */
  SPADE_INTERNAL = 6,
  SPADE_CUDA_UNAVAILABLE = 7, /* no CUDA half of the library, no driver or no GPU */
  SPADE_CUDA_ERROR = 8        /* CUDA refused a call; the text has its reason */
} spade_status_t;

/** Report of work done; `done` counts up to `total`. A non-zero return stops the call, whose
 *  status is then SPADE_CANCELLED. */
typedef int (*spade_progress_fn)(void* user, int64_t done, int64_t total);

typedef struct {
  spade_progress_fn report;
  void* user;
  void* reserved[2]; /* must be NULL */
} spade_progress_t;

/** Text of the last failure on the calling thread; "" if there was none. It is valid until the
 *  next call on the thread. */
SPADE_API const char* spade_last_error(void);

/** Version of the library, "major.minor.patch". */
SPADE_API const char* spade_version(void);

/** Instruction set that the CPU kernels run with: "avx512", "avx2" or "plain". */
SPADE_API const char* spade_cpu_isa(void);

/** How the library was built: one JSON object of strings: "compiler", "kernels" (instruction sets
 * compiled), "openmp" (the date of its specification), "blas". */
SPADE_API const char* spade_build_info(void);

/* ------------------------------------------------------------------ Hessian */

/**
 * Add X X^T of a linear layer's inputs to H. H is kept in double, so that sums over many batches do
 * not depend on how the samples were split. Inputs whose squares leave the range of float (the
 * largest |x| beyond 1e15 or below 1e-15) are summed in double. Entries of H below about 1e-30 of
 * its largest may be lost.
 *
 * @param x    N x D, row n starts at x + n * ldx (ldx >= D): each row is one column of X
 * @param[in,out] h  D x D, symmetric; both triangles are written
 */
SPADE_API spade_status_t spade_hessian_linear_f32(const float* x, int64_t N, int64_t D, int64_t ldx,
                                                  double* h, int threads,
                                                  const spade_progress_t* progress);
SPADE_API spade_status_t spade_hessian_linear_f64(const double* x, int64_t N, int64_t D,
                                                  int64_t ldx, double* h, int threads,
                                                  const spade_progress_t* progress);

/**
 * As spade_hessian_linear for one batch: H is written, not added to, in the type of x. Sums are in
 * double all the same. The status is SPADE_NOT_FINITE also if the largest entry of H is not a
 * normal number of its type.
 *
 * @param[out] h  D x D; undefined after a failure
 */
SPADE_API spade_status_t spade_hessian_linear_set_f32(const float* x, int64_t N, int64_t D,
                                                      int64_t ldx, float* h, int threads,
                                                      const spade_progress_t* progress);
SPADE_API spade_status_t spade_hessian_linear_set_f64(const double* x, int64_t N, int64_t D,
                                                      int64_t ldx, double* h, int threads,
                                                      const spade_progress_t* progress);

/**
 * A 2-d convolution and its input, zero-padded. `stride_*` of the input are in elements, so NCHW
 * and channels_last need no copy. Pads may differ per side ("same" with even kernels).
 */
typedef struct {
  int64_t batch, channels, height, width; /* input B x C x H x W */
  int64_t stride_batch, stride_channel, stride_row, stride_col;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;                       /* >= 1 */
  int64_t pad_top, pad_bottom, pad_left, pad_right; /* >= 0 */
  int64_t dilation_h, dilation_w;                   /* >= 1 */
  int64_t groups;                                   /* divides channels */
  int64_t reserved[5];                              /* must be 0 */
} spade_conv2d_t;

/** How spade_hessian_conv2d computes. AUTO takes the form of fewer estimated operations. */
typedef enum {
  SPADE_HESSIAN_AUTO = 0,
  SPADE_HESSIAN_TAP_OFFSETS = 1, /* distinct tap offsets, borders apart; only adds */
  SPADE_HESSIAN_DIRECT = 2       /* unfold in tiles that stay in cache */
} spade_hessian_form_t;

/**
 * Add X X^T of a convolution's unfolded inputs to H, without materialising the unfolded inputs. The
 * kernel with its dilation must not be larger than the padded image. Ranges are those of
 * spade_hessian_linear.
 *
 * @param form  a spade_hessian_form_t
 * @param[in,out] h  groups x D x D with D = channels / groups * kernel_h * kernel_w; column order:
 *                   channel-major, then kernel row, then kernel column, as weight.flatten(1)
 */
SPADE_API spade_status_t spade_hessian_conv2d_f32(const float* x, const spade_conv2d_t* conv,
                                                  int form, double* h, int threads,
                                                  const spade_progress_t* progress);
SPADE_API spade_status_t spade_hessian_conv2d_f64(const double* x, const spade_conv2d_t* conv,
                                                  int form, double* h, int threads,
                                                  const spade_progress_t* progress);

/**
 * As spade_hessian_conv2d for one batch: H is written, not added to, in the type of x. Sums are in
 * double all the same. H need not be cleared and is touched once. The status is SPADE_NOT_FINITE
 * also if the largest entry of H is not a normal number of its type.
 *
 * @param[out] h  groups x D x D; undefined after a failure
 */
SPADE_API spade_status_t spade_hessian_conv2d_set_f32(const float* x, const spade_conv2d_t* conv,
                                                      int form, float* h, int threads,
                                                      const spade_progress_t* progress);
SPADE_API spade_status_t spade_hessian_conv2d_set_f64(const double* x, const spade_conv2d_t* conv,
                                                      int form, double* h, int threads,
                                                      const spade_progress_t* progress);

/* ------------------------------------------------------- Inverse and damping */

/**
 * Damped inverse A = (H' + damp_used * mean(diag H') * I)^-1, factorised in double.
 *
 * H' is H with every dead column (H_jj = 0) given a unit diagonal. If the sum is not positive
 * definite the damping grows tenfold (from 1e-6 if it was 0) up to 1.
 * @param h               D x D, symmetric; the lower triangle is read
 * @param damp            >= 0, relative to the mean of the diagonal
 * @param[out] hinv       D x D, both triangles; undefined after a failure
 * @param[out] damped     D x D, the matrix that was inverted; NULL if not wanted
 * @param[out] damp_used  the damping that succeeded, >= damp
 * @returns SPADE_SINGULAR if damp = 1 (or `damp`, if larger) is not enough, or if the inverse has
 *          entries on its diagonal that are not normal numbers of its type
 */
SPADE_API spade_status_t spade_damped_inverse_f32(const float* h, int64_t D, double damp,
                                                  float* hinv, float* damped, double* damp_used,
                                                  int threads, const spade_progress_t* progress);
SPADE_API spade_status_t spade_damped_inverse_f64(const double* h, int64_t D, double damp,
                                                  double* hinv, double* damped, double* damp_used,
                                                  int threads, const spade_progress_t* progress);

/** The damping to try next when `damp` was not enough: ten times as much, from 1e-6 if it was 0, at
 *  most 1. The result is negative if there is none. */
SPADE_API double spade_next_damp(double damp);

/* ---------------------------------------------------------------- Exact OBC */

/**
 * Eliminate every weight of each row in exact OBC order.
 *
 * One step: p = argmin_j w_j^2 / A_jj over the kept weights, A = inverse Hessian of the kept set;
 * ties: lowest j; then w -= A[:,p] w_p / A_pp and A -= A[:,p] A[p,:] / A_pp. The order does not
 * depend on the scale of a row; weights below 1e-19 (in double 1e-154) of the row's largest may
 * count as 0.
 * @param w           R x D
 * @param hinv        D x D, symmetric positive definite, shared by all rows
 * @param steps       0 <= steps <= D: how many weights of each row to eliminate
 * @param[out] order  R x steps; order[r][k] is the column removed at step k
 * @param[out] loss   R x steps; 0.5 w_p^2 / A_pp at step k, Inf or 0 beyond the range of its type
 * @param[out] info   R; 0, or k > 0 if step k (from 1) met A_pp <= 0 or NaN: the row is valid up to
 *                    step k - 1 and -1 / NaN after it. The status is SPADE_SUCCESS all the same.
 */
SPADE_API spade_status_t spade_obc_trace_f32(const float* w, const float* hinv, int64_t R,
                                             int64_t D, int64_t steps, int32_t* order, float* loss,
                                             int32_t* info, int threads,
                                             const spade_progress_t* progress);
SPADE_API spade_status_t spade_obc_trace_f64(const double* w, const double* hinv, int64_t R,
                                             int64_t D, int64_t steps, int32_t* order, double* loss,
                                             int32_t* info, int threads,
                                             const spade_progress_t* progress);

/**
 * As spade_obc_trace with n of each m consecutive columns eliminated: when a group has lost n
 * columns, its others are kept. D is a multiple of m; each row takes D / m * n steps.
 */
SPADE_API spade_status_t spade_obc_trace_nm_f32(const float* w, const float* hinv, int64_t R,
                                                int64_t D, int64_t n, int64_t m, int32_t* order,
                                                float* loss, int32_t* info, int threads,
                                                const spade_progress_t* progress);
SPADE_API spade_status_t spade_obc_trace_nm_f64(const double* w, const double* hinv, int64_t R,
                                                int64_t D, int64_t n, int64_t m, int32_t* order,
                                                double* loss, int32_t* info, int threads,
                                                const spade_progress_t* progress);

/**
 * As spade_obc_trace for blocks of `block` consecutive columns (block divides D): one step removes
 * the block b of least w_b^T (A_bb)^-1 w_b.
 * @param[out] order  R x D/block, indices of blocks
 * @param[out] loss   R x D/block, 0.5 w_b^T (A_bb)^-1 w_b
 */
SPADE_API spade_status_t spade_obc_trace_block_f32(const float* w, const float* hinv, int64_t R,
                                                   int64_t D, int64_t block, int32_t* order,
                                                   float* loss, int32_t* info, int threads,
                                                   const spade_progress_t* progress);
SPADE_API spade_status_t spade_obc_trace_block_f64(const double* w, const double* hinv, int64_t R,
                                                   int64_t D, int64_t block, int32_t* order,
                                                   double* loss, int32_t* info, int threads,
                                                   const spade_progress_t* progress);

/**
 * How many steps each row of a layer takes when those with the ceil(sparsity R steps) least losses
 * of all rows are taken (0.3 of 10 counts as 3): as many as it has among them. Ties: lowest
 * row-major index; NaN last.
 *
 * @param loss      R x steps, as from spade_obc_trace
 * @param sparsity  in [0, 1]
 * @param[out] counts  R, for spade_obc_weights
 */
SPADE_API spade_status_t spade_obc_counts_f32(const float* loss, int64_t R, int64_t steps,
                                              double sparsity, int64_t* counts);
SPADE_API spade_status_t spade_obc_counts_f64(const double* loss, int64_t R, int64_t steps,
                                              double sparsity, int64_t* counts);

/**
 * Weights of each row after its first counts[r] eliminations: the least-squares optimum of the kept
 * columns, w_K = w0_K + H_KK^-1 H_KP w0_P, pruned ones exactly 0. Solved over the smaller side:
 * kept (with H) or pruned (with A), in double.
 *
 * @param w       R x D, the dense weights w0
 * @param h       D x D, damped Hessian (the inverse of hinv), symmetric; both triangles are read
 * @param hinv    D x D, symmetric; both triangles are read
 * @param order   R x steps, as from spade_obc_trace
 * @param counts  R, 0 <= counts[r] <= steps
 * @param[out] out   R x D
 * @param[out] info  R; 0, 1 if the solve met a matrix that is not positive definite, or 2 if
 *                   weights are out of the range of their type (the row of `out` is then
 *                   unspecified)
 */
SPADE_API spade_status_t spade_obc_weights_f32(const float* w, const float* h, const float* hinv,
                                               int64_t R, int64_t D, int64_t steps,
                                               const int32_t* order, const int64_t* counts,
                                               float* out, int32_t* info, int threads,
                                               const spade_progress_t* progress);
SPADE_API spade_status_t spade_obc_weights_f64(const double* w, const double* h, const double* hinv,
                                               int64_t R, int64_t D, int64_t steps,
                                               const int32_t* order, const int64_t* counts,
                                               double* out, int32_t* info, int threads,
                                               const spade_progress_t* progress);

/**
 * As spade_obc_weights after counts[r] of the steps of spade_obc_trace_block, of `block` columns
 * each; block = 1 is spade_obc_weights.
 *
 * @param steps   0 <= steps <= D / block
 * @param order   R x steps, indices of blocks
 * @param[out] info  as of spade_obc_weights
 */
SPADE_API spade_status_t spade_obc_weights_block_f32(const float* w, const float* h,
                                                     const float* hinv, int64_t R, int64_t D,
                                                     int64_t block, int64_t steps,
                                                     const int32_t* order, const int64_t* counts,
                                                     float* out, int32_t* info, int threads,
                                                     const spade_progress_t* progress);
SPADE_API spade_status_t spade_obc_weights_block_f64(const double* w, const double* h,
                                                     const double* hinv, int64_t R, int64_t D,
                                                     int64_t block, int64_t steps,
                                                     const int32_t* order, const int64_t* counts,
                                                     double* out, int32_t* info, int threads,
                                                     const spade_progress_t* progress);

/** Options of spade_obc_eliminate and spade_obc_prune. */
typedef struct {
  double sparsity; /* in [0, 1]; only spade_obc_prune reads it, when m = 0 */
  int64_t n, m;  /* of each m consecutive columns n are removed; m = 0: no such rule; m divides D */
  int64_t block; /* >= 1: columns that are removed together; divides D, 1 with n:m */
  double damp;   /* >= 0, relative to the mean of the diagonal */
  int64_t reserved[3]; /* must be 0 */
} spade_obc_t;

/** The outcome for a layer. It is written on every status but SPADE_INVALID_ARGUMENT. */
typedef struct {
  double damp;          /* the damping that was used */
  int64_t row;          /* the row that was given up, or -1 */
  int32_t step;         /* where its elimination stopped (from 1); 0: in the solve of its weights */
  int32_t needs_double; /* 1 where float is not enough, see the functions */
  int64_t reserved[5];  /* is written as 0 */
} spade_obc_outcome_t;

/**
 * Whether exact OBC of a layer may run in float: losses and the inverse are then in its range, and
 * the damping is at least 1e-3; less leaves rank-deficient Hessians too ill-conditioned.
 *
 * @param mean  mean of the diagonal of H, with 1 for a dead column (H_jj = 0)
 * @param most  the largest |w|
 * @param damp  the damping
 * @returns 1 or 0
 */
SPADE_API int spade_obc_fits_float(double mean, double most, double damp);

/**
 * A layer's elimination in one call: damped inverse, dead columns set to zero, and the trace of all
 * steps, D / m * n or D / block of each row.
 *
 * In float, outcome->needs_double = 1 says that float is not enough: spade_obc_fits_float is 0, or
 * a row lost definiteness. The status is SPADE_SUCCESS and the outputs are unspecified; call the
 * _f64 form.
 * @param w             R x D
 * @param h             D x D, symmetric; the lower triangle is read
 * @param[out] order    R x steps, as of spade_obc_trace, spade_obc_trace_nm or
 *                      spade_obc_trace_block
 * @param[out] loss     R x steps
 * @param[out] dense    R x D: w with 0 in dead columns
 * @param[out] damped   D x D, the matrix that was inverted
 * @param[out] hinv     D x D, its inverse
 * @param[out] outcome  one
 * @param progress      counts rows
 * @returns SPADE_SINGULAR as spade_damped_inverse, or with outcome->row the first row that met
 *          A_pp <= 0 or NaN
 */
SPADE_API spade_status_t spade_obc_eliminate_f32(const float* w, const float* h, int64_t R,
                                                 int64_t D, const spade_obc_t* options,
                                                 int32_t* order, float* loss, float* dense,
                                                 float* damped, float* hinv,
                                                 spade_obc_outcome_t* outcome, int threads,
                                                 const spade_progress_t* progress);
SPADE_API spade_status_t spade_obc_eliminate_f64(const double* w, const double* h, int64_t R,
                                                 int64_t D, const spade_obc_t* options,
                                                 int32_t* order, double* loss, double* dense,
                                                 double* damped, double* hinv,
                                                 spade_obc_outcome_t* outcome, int threads,
                                                 const spade_progress_t* progress);

/**
 * Prune a layer by exact OBC: spade_obc_eliminate, spade_obc_counts (all steps with n:m) and
 * spade_obc_weights_block. Where float is not enough, the call runs in double by itself, and
 * outcome->needs_double says that it did.
 *
 * @param w         R x D
 * @param h         D x D, symmetric; the lower triangle is read
 * @param[out] out  R x D, pruned weights exactly 0
 * @param[out] outcome  one
 * @param progress  counts rows of the elimination
 * @returns SPADE_SINGULAR as spade_obc_eliminate, or with outcome->row a row whose kept columns
 *          have no positive definite matrix; SPADE_NOT_FINITE also with outcome->row a row whose
 *          pruned weights are out of the range of their type
 */
SPADE_API spade_status_t spade_obc_prune_f32(const float* w, const float* h, int64_t R, int64_t D,
                                             const spade_obc_t* options, float* out,
                                             spade_obc_outcome_t* outcome, int threads,
                                             const spade_progress_t* progress);
SPADE_API spade_status_t spade_obc_prune_f64(const double* w, const double* h, int64_t R, int64_t D,
                                             const spade_obc_t* options, double* out,
                                             spade_obc_outcome_t* outcome, int threads,
                                             const spade_progress_t* progress);

/* ---------------------------------------------------------------- SparseGPT */

/** Options of spade_sparsegpt_prune. */
typedef struct {
  double sparsity;    /* in [0, 1]; ignored when m > 0 */
  int64_t block_size; /* >= 1: columns of one mask block */
  int64_t n, m;       /* of each m consecutive weights of a row n are removed; m = 0: any */
  double damp;        /* >= 0, relative to the mean of the diagonal */
  int64_t extra; /* >= 0: weights per block removed beyond the floor; 1 in the published code */
  int64_t reserved[2]; /* must be 0 */
} spade_sparsegpt_t;

/**
 * SparseGPT for S Hessians at once, one Cholesky each.
 *
 * In each block of block_size columns the floor(sparsity * R * width) weights of least
 * w^2 / U_jj^2 over all rows are removed (U: upper Cholesky factor of H^-1; ties: lowest row-major
 * index), and the columns to the right compensate. A dead column (H_jj = 0) is pruned first, at no
 * loss. The result does not depend on the scales of w and h. The status is SPADE_NOT_FINITE also if
 * a pruned weight is out of the range of its type.
 * @param w         R x D weights; sample s starts at w + s * w_stride (0: shared by all samples)
 * @param h         S x D x D, symmetric; the lower triangles are read
 * @param[out] out  S x R x D
 * @param[out] damp_used  S; damping that succeeded, see spade_damped_inverse
 * @param[out] info       S; 0, or SPADE_SINGULAR: out[s] is then a copy of the dense weights; the
 *                        other samples are not affected and the status is SPADE_SUCCESS
 */
SPADE_API spade_status_t spade_sparsegpt_prune_f32(const float* w, int64_t w_stride, const float* h,
                                                   int64_t S, int64_t R, int64_t D,
                                                   const spade_sparsegpt_t* options, float* out,
                                                   double* damp_used, int32_t* info, int threads,
                                                   const spade_progress_t* progress);
SPADE_API spade_status_t spade_sparsegpt_prune_f64(const double* w, int64_t w_stride,
                                                   const double* h, int64_t S, int64_t R, int64_t D,
                                                   const spade_sparsegpt_t* options, double* out,
                                                   double* damp_used, int32_t* info, int threads,
                                                   const spade_progress_t* progress);

/**
 * Numbers that spade_sparsegpt_factor keeps of one D x D Hessian, about D^2 / 2.
 */
SPADE_API int64_t spade_sparsegpt_factor_size(int64_t D);

/**
 * What spade_sparsegpt_prune does with the Hessians before it looks at weights: their factors, for
 * spade_sparsegpt_sweep of any number of sparsities.
 * @param h         S x D x D, symmetric; the lower triangles are read
 * @param damp      >= 0, relative to the mean of the diagonal
 * @param[out] factors    S x spade_sparsegpt_factor_size(D), in an order of the library's own
 * @param[out] damp_used  S; damping that succeeded, see spade_damped_inverse
 * @param[out] info       S; 0, or SPADE_SINGULAR: the sample has no factor
 */
SPADE_API spade_status_t spade_sparsegpt_factor_f32(const float* h, int64_t S, int64_t D,
                                                    double damp, float* factors, double* damp_used,
                                                    int32_t* info, int threads,
                                                    const spade_progress_t* progress);
SPADE_API spade_status_t spade_sparsegpt_factor_f64(const double* h, int64_t S, int64_t D,
                                                    double damp, double* factors, double* damp_used,
                                                    int32_t* info, int threads,
                                                    const spade_progress_t* progress);

/**
 * The rest of spade_sparsegpt_prune, with the same bits: prune weights by the factors of Hessians.
 * @param w         R x D weights; sample s starts at w + s * w_stride (0: shared by all samples)
 * @param h         S x D x D, as they were factorised; the diagonals are read
 * @param factors   of spade_sparsegpt_factor, none of a sample that failed
 * @param damps     S; its damp_used
 * @param options   its damp is not read
 * @param[out] out     S x R x D
 * @param[out] losses  S; tr((W - W') H (W - W')^T) for the H without damping, to the rounding of
 * that for the damped one
 */
SPADE_API spade_status_t spade_sparsegpt_sweep_f32(const float* w, int64_t w_stride, const float* h,
                                                   const float* factors, const double* damps,
                                                   int64_t S, int64_t R, int64_t D,
                                                   const spade_sparsegpt_t* options, float* out,
                                                   double* losses, int threads,
                                                   const spade_progress_t* progress);
SPADE_API spade_status_t spade_sparsegpt_sweep_f64(const double* w, int64_t w_stride,
                                                   const double* h, const double* factors,
                                                   const double* damps, int64_t S, int64_t R,
                                                   int64_t D, const spade_sparsegpt_t* options,
                                                   double* out, double* losses, int threads,
                                                   const spade_progress_t* progress);

#ifdef __cplusplus
}
#endif

#endif /* SPADE_SPADE_H */

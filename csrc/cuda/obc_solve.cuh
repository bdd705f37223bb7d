// Solve G x = b for each row's own positive definite G, in double: G = M over an index set of the
// shared matrix M. One block of threads per row.
//
// Left-looking Cholesky by tiles of 64 x 64, G's entries gathered when their tile's turn comes:
//     T_IJ = G_IJ - sum_{K<J} L_IK L_JK^T,   L_JJ = chol(T_JJ),   L_IJ = T_IJ L_JJ^-T,
// with L_JJ^-1 kept in place of L_JJ, so that both it and the substitutions are products:
//     y_J = L_JJ^-1 (b_J - sum_{K<J} L_JK y_K),   x_J = L_JJ^-T (y_J - sum_{I>J} L_IJ^T x_I).
// k^3 / 3 flop and k^3 / 48 bytes read a row. Rows and columns past k are those of the identity.
#pragma once

#include "cuda/launch.h"

namespace spade::cuda::obc {

constexpr int kSolveThreads = 256;
constexpr int kEdge = 64;               // of a tile
constexpr int kEdgeStride = kEdge + 1;  // in shared memory: rows fall into different banks
constexpr int kDepth = 16;              // columns of a product's operands in shared memory
constexpr int kDepthStride = kEdge + 2;

__host__ __device__ inline int64_t factor_size(int64_t k) {
  const int64_t tiles = (k + kEdge - 1) / kEdge;
  return tiles * (tiles + 1) / 2 * kEdge * kEdge;
}

struct SolveShared {
  double left[kDepth * kDepthStride], right[kDepth * kDepthStride];
  double tile[kEdge * kEdgeStride], inverse[kEdge * kEdgeStride];
  double vector[kEdge], partial[kSolveThreads], root[kEdge];
};

template <class T>
class Solver {
 public:
  // `factor`: factor_size(k) entries; `x`: tiles * kEdge entries, b on entry and x on exit;
  // `set`: k indices of the D x D matrix.
  __device__ __forceinline__ Solver(SolveShared& shared, const T* matrix, int D, const int* set,
                                    int k, double* factor, double* x)
      : s(shared),
        matrix_(matrix),
        set_(set),
        factor_(factor),
        x_(x),
        D_(D),
        k_(k),
        tiles_((k + kEdge - 1) / kEdge),
        tid(static_cast<int>(threadIdx.x)),
        row0(tid / 16 * 4),
        column0(tid % 16 * 4) {}

  // False if G is not positive definite. Every thread calls.
  __device__ __forceinline__ bool solve() {
    for (int J = 0; J < tiles_; ++J)
      for (int I = J; I < tiles_; ++I)
        if (!make_tile(I, J)) return false;
    for (int J = 0; J < tiles_; ++J) forward(J);
    for (int J = tiles_ - 1; J >= 0; --J) backward(J);
    return true;
  }

 private:
  __device__ __forceinline__ double* tile_at(int I, int J) const {
    return factor_ + (static_cast<int64_t>(I) * (I + 1) / 2 + J) * (kEdge * kEdge);
  }

  __device__ __forceinline__ double gathered(int i, int j) const {
    if (i >= k_ || j >= k_) return i == j ? 1.0 : 0.0;
    return static_cast<double>(matrix_[static_cast<int64_t>(set_[i]) * D_ + set_[j]]);
  }

  // sum -= a b^T for two tiles of the factor, each thread its 4 x 4 entries.
  __device__ __forceinline__ void subtract_product(const double* a, const double* b,
                                                   double (&sum)[4][4]) {
#pragma unroll 1
    for (int first = 0; first < kEdge; first += kDepth) {
      __syncthreads();  // the operands before have been read
      for (int e = tid; e < kEdge * kDepth; e += kSolveThreads) {
        const int i = e / kDepth, l = e % kDepth;
        s.left[l * kDepthStride + i] = a[i * kEdge + first + l];
        s.right[l * kDepthStride + i] = b[i * kEdge + first + l];
      }
      __syncthreads();  // the operands are complete
#pragma unroll
      for (int l = 0; l < kDepth; ++l)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            sum[i][j] -=
                s.left[l * kDepthStride + row0 + i] * s.right[l * kDepthStride + column0 + j];
    }
  }

  __device__ __forceinline__ bool make_tile(int I, int J) {
    double sum[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        sum[i][j] = gathered(I * kEdge + row0 + i, J * kEdge + column0 + j);
    for (int K = 0; K < J; ++K) subtract_product(tile_at(I, K), tile_at(J, K), sum);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) s.tile[(row0 + i) * kEdgeStride + column0 + j] = sum[i][j];
    __syncthreads();  // the tile is complete
    if (I == J) {
      if (!factorise()) return false;
      invert();
    }
    double* to = tile_at(I, J);
    for (int e = tid; e < kEdge * kEdge; e += kSolveThreads) {
      const int i = e / kEdge, j = e % kEdge;
      if (I == J) {
        to[e] = s.inverse[i * kEdgeStride + j];
        continue;
      }
      double entry = 0;
#pragma unroll 8
      for (int l = 0; l < kEdge; ++l)
        entry += s.tile[i * kEdgeStride + l] * s.inverse[j * kEdgeStride + l];
      to[e] = entry;
    }
    __syncthreads();  // the factor's tile is written, this one has been used
    return true;
  }

  // tile = its Cholesky factor below the diagonal; the diagonal goes to root.
  __device__ __forceinline__ bool factorise() {
    for (int j = 0; j < kEdge; ++j) {
      const double pivot = s.tile[j * kEdgeStride + j];
      if (!(pivot > 0)) return false;
      const double root = sqrt(pivot);
      if (tid == j) s.root[j] = root;
      if (tid > j && tid < kEdge) s.tile[tid * kEdgeStride + j] /= root;
      __syncthreads();  // column j is final
      for (int e = tid; e < kEdge * kEdge; e += kSolveThreads) {
        const int i = e / kEdge, l = e % kEdge;
        if (l > j && l <= i)
          s.tile[i * kEdgeStride + l] -= s.tile[i * kEdgeStride + j] * s.tile[l * kEdgeStride + j];
      }
      __syncthreads();  // the rest is up to date
    }
    return true;
  }

  // inverse = tile^-1, one column a thread.
  __device__ __forceinline__ void invert() {
    if (tid < kEdge) {
      const int c = tid;
      for (int i = 0; i < kEdge; ++i) {
        double sum = i == c ? 1.0 : 0.0;
        for (int l = c; l < i; ++l)
          sum -= s.tile[i * kEdgeStride + l] * s.inverse[l * kEdgeStride + c];
        s.inverse[i * kEdgeStride + c] = i < c ? 0.0 : sum / s.root[i];
      }
    }
    __syncthreads();  // the inverse is complete
  }

  // vector = x_J - what is known, given as four partial sums an entry; then x_J = inverse vector or
  // its transpose.
  __device__ __forceinline__ void finish(int J, double partial, bool transposed) {
    s.partial[tid] = partial;
    __syncthreads();  // partial sums are complete
    if (tid < kEdge)
      s.vector[tid] =
          x_[J * kEdge + tid] - (s.partial[tid] + s.partial[tid + kEdge] +
                                 (s.partial[tid + 2 * kEdge] + s.partial[tid + 3 * kEdge]));
    __syncthreads();  // the vector is complete
    const double* inverse = tile_at(J, J);
    if (tid < kEdge) {
      double sum = 0;
      for (int l = 0; l < kEdge; ++l)
        sum += (transposed ? inverse[l * kEdge + tid] : inverse[tid * kEdge + l]) * s.vector[l];
      x_[J * kEdge + tid] = sum;
    }
    __syncthreads();  // x_J is known
  }

  __device__ __forceinline__ void forward(int J) {
    const int i = tid % kEdge, part = tid / kEdge;
    double sum = 0;
    for (int K = 0; K < J; ++K) {
      const double* row = tile_at(J, K) + i * kEdge + part * (kEdge / 4);
      const double* y = x_ + K * kEdge + part * (kEdge / 4);
      for (int l = 0; l < kEdge / 4; ++l) sum += row[l] * y[l];
    }
    finish(J, sum, false);
  }

  __device__ __forceinline__ void backward(int J) {
    const int j = tid % kEdge, part = tid / kEdge;
    double sum = 0;
    for (int I = J + 1; I < tiles_; ++I) {
      const double* column = tile_at(I, J) + part * (kEdge / 4) * kEdge + j;
      const double* x = x_ + I * kEdge + part * (kEdge / 4);
      for (int l = 0; l < kEdge / 4; ++l) sum += column[l * kEdge] * x[l];
    }
    finish(J, sum, true);
  }

  SolveShared& s;
  const T* matrix_;
  const int* set_;
  double *factor_, *x_;
  const int D_, k_, tiles_, tid, row0, column0;
};

}  // namespace spade::cuda::obc

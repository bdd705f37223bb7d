// Exact OBC of a row in double, one pivot at a time: blocks of c columns, n:m patterns, or single
// columns, any number of them.
//
// Left-looking Cholesky of A = H^-1 by blocks b of c consecutive columns (c = 1: columns):
//     P = argmin w_b^T A_bb^-1 w_b,   A_PP = L L^T,   z = L^-1 w_P,
//     u = (A[:,P] - U U[P,:]^T) L^-T,   w -= u z,   A_bb -= u_b u_b^T,   U gets the columns u.
// Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), section 4. One
// block of threads a row, D^3 / 2 FMA over D^3 / 2c entries of U: bound by memory.
#pragma once

#include "cuda/obc_matrices.cuh"

namespace spade::cuda::obc {

constexpr int kPatternThreads = 256;
constexpr int kMostBlock = 32;  // c

// A chunk of rows. T: type of the caller's arrays; blocks = D / block.
template <class T>
struct PatternRows {
  const T* weights;  // [rows, D]
  RowMatrices<T> hinv;
  int D, block, blocks, steps;
  int n, m;          // n of each m columns go; m = 0: no such rule
  double* u;         // [rows, steps * block, D]
  double* w;         // [rows, D]
  double* diagonal;  // [rows, block, block, blocks]: A_bb, up to date
  double* factor;    // [rows, block, block, blocks]: L of A_bb
  double* z;         // [rows, block, blocks]
  double* score;     // [rows, blocks]
  int* alive;        // [rows, blocks]: 1 if the block may go
  int* gone;         // [rows, D / m]
  int32_t* order;    // [rows, steps]
  T* loss;           // [rows, steps]
  int32_t* info;     // [rows]
};

struct PatternShared {
  double least[kPatternThreads / 32];
  int best[kPatternThreads / 32];
  double score;
  int chosen;  // block, -1: the row stops
  int closed;  // n:m group that is full, -1: none
  double factor[kMostBlock * kMostBlock], z[kMostBlock];
};

template <class T>
class PatternRow {
 public:
  __device__ __forceinline__ PatternRow(const PatternRows<T>& rows, PatternShared& shared)
      : rows_(rows),
        s_(shared),
        r_(blockIdx.x),
        D_(rows.D),
        c_(rows.block),
        blocks_(rows.blocks),
        hinv_(rows.hinv.of(r_)),
        u_(rows.u + r_ * rows.steps * c_ * D_),
        w_(rows.w + r_ * D_),
        diagonal_(rows.diagonal + r_ * c_ * D_),
        factor_(rows.factor + r_ * c_ * D_),
        z_(rows.z + r_ * D_),
        score_(rows.score + r_ * blocks_),
        alive_(rows.alive + r_ * blocks_),
        tid(static_cast<int>(threadIdx.x)) {}

  __device__ __forceinline__ void eliminate() {
    start();
    for (int step = 0; step < rows_.steps; ++step) {
      choose();
      if (tid == 0) take(step);
      __syncthreads();  // the choice is known
      if (s_.chosen < 0) return stop(step);
      prepare();
      __syncthreads();  // L, z and who is left are known
      extend(step * c_);
      __syncthreads();  // u and w are complete
      for (int b = tid; b < blocks_; b += kPatternThreads)
        if (alive_[b]) refresh(b, step * c_);
    }
    if (tid == 0) rows_.info[r_] = 0;
  }

 private:
  __device__ __forceinline__ double& entry(double* matrices, int i, int j, int b) const {
    return matrices[static_cast<int64_t>(i * c_ + j) * blocks_ + b];
  }
  __device__ __forceinline__ double& u(int t, int j) const {
    return u_[static_cast<int64_t>(t) * D_ + j];
  }

  __device__ __forceinline__ void start() {
    for (int j = tid; j < D_; j += kPatternThreads)
      w_[j] = static_cast<double>(rows_.weights[r_ * D_ + j]);
    if (rows_.m > 0)
      for (int g = tid; g < D_ / rows_.m; g += kPatternThreads)
        rows_.gone[r_ * (D_ / rows_.m) + g] = 0;
    __syncthreads();  // w is complete
    for (int b = tid; b < blocks_; b += kPatternThreads) {
      alive_[b] = 1;
      for (int i = 0; i < c_; ++i)
        for (int j = 0; j <= i; ++j)
          entry(diagonal_, i, j, b) =
              static_cast<double>(hinv_[(b * c_ + i) * static_cast<int64_t>(D_) + b * c_ + j]);
      score_[b] = score_of(b);
    }
  }

  // w_b^T A_bb^-1 w_b, leaving L and z; one that is not positive definite scores -1, so that it is
  // chosen and stops the row, or infinity if it is a single zero.
  __device__ __forceinline__ double score_of(int b) const {
    double sum = 0;
    for (int i = 0; i < c_; ++i) {
      double right = w_[b * c_ + i];
      for (int j = 0; j <= i; ++j) {
        double x = entry(diagonal_, i, j, b);
        for (int k = 0; k < j; ++k) x -= entry(factor_, i, k, b) * entry(factor_, j, k, b);
        if (j == i && !(x > 0)) return c_ == 1 && !(x < 0) ? HUGE_VAL : -1.0;
        x = j < i ? x / entry(factor_, j, j, b) : sqrt(x);
        entry(factor_, i, j, b) = x;
        if (j < i) right -= x * z_[j * blocks_ + b];
      }
      const double z = right / entry(factor_, i, i, b);
      z_[i * blocks_ + b] = z;
      sum += z * z;
    }
    return sum;
  }

  // The warps' best blocks; ties: lowest block.
  __device__ __forceinline__ void choose() {
    double least = HUGE_VAL;
    int best = INT32_MAX;
    for (int b = tid; b < blocks_; b += kPatternThreads)
      if (alive_[b] && score_[b] < least) {
        least = score_[b];
        best = b;
      }
    for (int by = 16; by; by /= 2) {
      const double other = __shfl_xor_sync(~0u, least, by);
      const int at = __shfl_xor_sync(~0u, best, by);
      if (other < least || (other == least && at < best)) {
        least = other;
        best = at;
      }
    }
    if (tid % 32 == 0) {
      s_.least[tid / 32] = least;
      s_.best[tid / 32] = best;
    }
    __syncthreads();  // every warp's best is known
  }

  // For one thread: the best block leaves, and closes its n:m group when that is full.
  __device__ __forceinline__ void take(int step) {
    double least = HUGE_VAL;
    int best = INT32_MAX;
    for (int warp = 0; warp < kPatternThreads / 32; ++warp)
      if (s_.least[warp] < least || (s_.least[warp] == least && s_.best[warp] < best)) {
        least = s_.least[warp];
        best = s_.best[warp];
      }
    s_.chosen = best == INT32_MAX || least < 0 ? -1 : best;
    s_.closed = -1;
    if (s_.chosen < 0) return;
    rows_.order[r_ * rows_.steps + step] = best;
    rows_.loss[r_ * rows_.steps + step] = static_cast<T>(0.5 * least);
    alive_[best] = 0;
    if (rows_.m == 0) return;
    const int group = best / rows_.m;
    if (++rows_.gone[r_ * (D_ / rows_.m) + group] == rows_.n) s_.closed = group;
  }

  __device__ __forceinline__ void prepare() {
    for (int e = tid; e < c_ * c_; e += kPatternThreads)
      if (e % c_ <= e / c_) s_.factor[e] = entry(factor_, e / c_, e % c_, s_.chosen);
    if (tid < c_) s_.z[tid] = z_[tid * blocks_ + s_.chosen];
    if (s_.closed >= 0)
      for (int i = tid; i < rows_.m; i += kPatternThreads) alive_[s_.closed * rows_.m + i] = 0;
  }

  // Columns t .. t + c - 1 of U, and w.
  __device__ __forceinline__ void extend(int t) {
    constexpr int kTogether = 4;  // columns that share a reading of U
    const int pivot = s_.chosen * c_;
    for (int j = tid; j < D_; j += kPatternThreads) {
      if (!alive_[j / c_]) continue;
      for (int first = 0; first < c_; first += kTogether) {
        double v[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
          v[i] =
              first + i < c_
                  ? static_cast<double>(hinv_[(pivot + first + i) * static_cast<int64_t>(D_) + j])
                  : 0.0;
        for (int q = 0; q < t; ++q) {
          const double x = u(q, j);
#pragma unroll
          for (int i = 0; i < kTogether; ++i)
            if (first + i < c_) v[i] -= u(q, pivot + first + i) * x;
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
          if (first + i < c_) u(t + first + i, j) = v[i];
      }
      double change = 0;
      for (int i = 0; i < c_; ++i) {
        double x = u(t + i, j);
        for (int k = 0; k < i; ++k) x -= s_.factor[i * c_ + k] * u(t + k, j);
        x /= s_.factor[i * c_ + i];
        u(t + i, j) = x;
        change += x * s_.z[i];
      }
      w_[j] -= change;
    }
  }

  __device__ __forceinline__ void refresh(int b, int t) {
    for (int i = 0; i < c_; ++i)
      for (int j = 0; j <= i; ++j) {
        double x = entry(diagonal_, i, j, b);
        for (int k = 0; k < c_; ++k) x -= u(t + k, b * c_ + i) * u(t + k, b * c_ + j);
        entry(diagonal_, i, j, b) = x;
      }
    score_[b] = score_of(b);
  }

  // From this step on there is nothing: -1 and NaN.
  __device__ __forceinline__ void stop(int step) {
    if (tid == 0) rows_.info[r_] = step + 1;
    for (int k = step + tid; k < rows_.steps; k += kPatternThreads) {
      rows_.order[r_ * rows_.steps + k] = -1;
      rows_.loss[r_ * rows_.steps + k] = static_cast<T>(__uint_as_float(0x7FC00000u));
    }
  }

  const PatternRows<T>& rows_;
  PatternShared& s_;
  const int64_t r_;
  const int D_, c_, blocks_;
  const T* const hinv_;
  double *const u_, *const w_, *const diagonal_, *const factor_, *const z_, *const score_;
  int* const alive_;
  const int tid;
};

template <class T>
__global__ void __launch_bounds__(kPatternThreads, 2) obc_pattern(PatternRows<T> rows) {
  SPADE_SHARED(PatternShared, shared, 1);
  PatternRow<T>(rows, *shared).eliminate();
}

}  // namespace spade::cuda::obc

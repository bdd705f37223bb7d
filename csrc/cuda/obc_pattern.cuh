// Exact OBC of a row in double, one pivot at a time: blocks of c consecutive columns, n:m patterns,
// or single columns, any number of them.
//
// Left-looking Cholesky of A = H^-1 by blocks b (c = 1: columns):
//     P = argmin w_b^T A_bb^-1 w_b,   A_PP = L L^T,   z = L^-1 w_P,
//     u = (A[:,P] - U U[P,:]^T) L^-T,   w -= u z,   A_bb -= u_b u_b^T,   U gets the columns u.
// Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), section 4. One
// block of threads per row. D^3 / 2 FMA with U, up to 4 for one number read of it, and 7 D^2 c / 12
// with A_bb, L and u, for one each: bound by memory.
#pragma once

#include "cuda/obc_matrices.cuh"

namespace spade::cuda::obc {

constexpr int kPatternThreads = 256;

// A chunk of rows. T: type of the caller's arrays; blocks = D / block.
template <class T>
struct PatternRows {
  const T* weights;  // [rows, D]
  RowMatrices<T> hinv;
  int D, block, blocks, steps;
  int n, m;          // n of each m columns go; m = 0: no such rule
  double* u;         // [rows, steps * block, D]
  double* w;         // [rows, D]
  double* diagonal;  // [rows, block, D]: [j, b c + i] has A_ij of A_bb, i >= j, up to date
  double* factor;    // [rows, block, D]: in the same places L of A_bb
  double* z;         // [rows, D]: L^-1 w_b
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
  int chosen;  // block, -1: the row stops
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
    score();
    for (int step = 0; step < rows_.steps; ++step) {
      choose();
      if (tid == 0) take(step);
      __syncthreads();  // the choice and who is left are known
      if (s_.chosen < 0) return stop(step);
      extend(step * c_);
      __syncthreads();  // u and w are complete
      update(step * c_);
      score();
    }
    if (tid == 0) rows_.info[r_] = 0;
  }

 private:
  __device__ __forceinline__ double& at(double* columns, int t, int j) const {
    return columns[static_cast<int64_t>(t) * D_ + j];
  }
  __device__ __forceinline__ double a(int i, int j) const {
    return static_cast<double>(hinv_[static_cast<int64_t>(i) * D_ + j]);
  }

  __device__ __forceinline__ void start() {
    for (int p = tid; p < D_; p += kPatternThreads) {
      const int i = p % c_, first = p - i;
      w_[p] = static_cast<double>(rows_.weights[r_ * D_ + p]);
      for (int j = 0; j <= i; ++j) at(diagonal_, j, p) = a(first + j, p);
    }
    for (int b = tid; b < blocks_; b += kPatternThreads) alive_[b] = 1;
    if (rows_.m > 0)
      for (int g = tid; g < D_ / rows_.m; g += kPatternThreads)
        rows_.gone[r_ * (D_ / rows_.m) + g] = 0;
    __syncthreads();  // w and alive are complete
  }

  // A_bb of the blocks that are left, less the newest columns t .. t + c - 1 of U.
  __device__ __forceinline__ void update(int t) {
    for (int p = tid; p < D_; p += kPatternThreads) {
      if (!alive_[p / c_]) continue;
      const int i = p % c_, first = p - i;
      for (int j = 0; j <= i; ++j) {
        double x = at(diagonal_, j, p);
        for (int k = 0; k < c_; ++k) x -= at(u_, t + k, p) * at(u_, t + k, first + j);
        at(diagonal_, j, p) = x;
      }
    }
  }

  // L, z and scores of the blocks that are left, all blocks column by column together: thread p has
  // row p of L, thread b has z_b.
  __device__ __forceinline__ void score() {
    for (int j = 0;; ++j) {
      for (int p = tid; p < D_; p += kPatternThreads) {
        const int i = p % c_, first = p - i;
        if (i < j || !alive_[p / c_]) continue;
        double x = at(diagonal_, j, p);
        for (int k = 0; k < j; ++k) x -= at(factor_, k, p) * at(factor_, k, first + j);
        at(factor_, j, p) = i == j && x > 0 ? sqrt(x) : x;
      }
      __syncthreads();  // L_jj, and below it L_ij L_jj, are known
      for (int b = tid; b < blocks_; b += kPatternThreads)
        if (alive_[b]) add_to_score(b, j);
      if (j + 1 == c_) return;
      for (int p = tid; p < D_; p += kPatternThreads) {
        const int i = p % c_, first = p - i;
        if (i > j && alive_[p / c_]) at(factor_, j, p) /= at(factor_, j, first + j);
      }
      __syncthreads();  // column j of L is complete
    }
  }

  // z_j of block b, and its square to z^T z = w_b^T A_bb^-1 w_b. A block that is not positive
  // definite scores -1, so that it is chosen and stops the row, or infinity if it is a single zero.
  __device__ __forceinline__ void add_to_score(int b, int j) {
    const int first = b * c_;
    const double sum = j ? score_[b] : 0.0, pivot = at(factor_, j, first + j);
    if (sum < 0) return;
    if (!(pivot > 0)) {
      score_[b] = c_ == 1 && !(pivot < 0) ? HUGE_VAL : -1.0;
      return;
    }
    double right = w_[first + j];
    for (int k = 0; k < j; ++k) right -= at(factor_, k, first + j) * z_[first + k];
    const double z = right / pivot;
    z_[first + j] = z;
    score_[b] = sum + z * z;
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

  // For one thread: the best block leaves, and the rest of its n:m group when that is full.
  __device__ __forceinline__ void take(int step) {
    double least = HUGE_VAL;
    int best = INT32_MAX;
    for (int warp = 0; warp < kPatternThreads / 32; ++warp)
      if (s_.least[warp] < least || (s_.least[warp] == least && s_.best[warp] < best)) {
        least = s_.least[warp];
        best = s_.best[warp];
      }
    s_.chosen = best == INT32_MAX || least < 0 ? -1 : best;
    if (s_.chosen < 0) return;
    rows_.order[r_ * rows_.steps + step] = best;
    rows_.loss[r_ * rows_.steps + step] = static_cast<T>(0.5 * least);
    alive_[best] = 0;
    if (rows_.m == 0) return;
    const int group = best / rows_.m;
    if (++rows_.gone[r_ * (D_ / rows_.m) + group] < rows_.n) return;
    for (int i = 0; i < rows_.m; ++i) alive_[group * rows_.m + i] = 0;
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
        for (int i = 0; i < kTogether; ++i) v[i] = first + i < c_ ? a(pivot + first + i, j) : 0.0;
        for (int q = 0; q < t; ++q) {
          const double x = at(u_, q, j);
#pragma unroll
          for (int i = 0; i < kTogether; ++i)
            if (first + i < c_) v[i] -= at(u_, q, pivot + first + i) * x;
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
          if (first + i < c_) at(u_, t + first + i, j) = v[i];
      }
      double change = 0;
      for (int i = 0; i < c_; ++i) {
        double x = at(u_, t + i, j);
        for (int k = 0; k < i; ++k) x -= at(factor_, k, pivot + i) * at(u_, t + k, j);
        x /= at(factor_, i, pivot + i);
        at(u_, t + i, j) = x;
        change += x * z_[pivot + i];
      }
      w_[j] -= change;
    }
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

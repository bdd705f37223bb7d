// spade_cuda_obc_weights and its _f64 form: the weights of a row after its first counts[r]
// eliminations, by the smaller solve, in double.
//
// Kept set K, pruned set P, damped H and A = H^-1 (the order alone decides K):
//     |K| <= |P|:  w_K = H_KK^-1 (H w0)_K          |P| < |K|:  w = w0 - A[:,P] A_PP^-1 w0_P.
// One block of threads per row: it gathers the set, solves (obc_solve.cuh), and writes the row.
// k^3 / 3 + 2 k D flop with k = min(|K|, |P|). Rows go in chunks that the workspace holds: at most
// D^2 / 8 doubles each.

#include <algorithm>

#include "core/checks.h"
#include "cuda/obc_chunk.h"
#include "cuda/obc_matrices.cuh"
#include "cuda/obc_solve.cuh"
#include "cuda/ops.h"

namespace spade::cuda::obc {

template <class T>
struct WeightsTask {
  const T* w;  // [rows, D]
  RowMatrices<T> h, hinv;
  const int32_t* order;   // [rows, steps]
  const int64_t* counts;  // [rows]
  T* out;                 // [rows, D]
  int32_t* info;          // [rows]
  int D, steps, width;    // width: D / 2 rounded up to kEdge
  int64_t factor_size;
  double* factor;  // [rows, factor_size]
  double* x;       // [rows, width]
  int* gone;       // [rows, D]: 1 for a pruned column
  int* set;        // [rows, width]: the smaller side, in order
};

// Columns j with gone[j] == value, in order; returns how many there are.
__device__ __forceinline__ int collect(const int* gone, int value, int D, int* counts, int* set,
                                       int most) {
  const int tid = static_cast<int>(threadIdx.x), lane = tid & 31, warp = tid >> 5;
  int before = 0;
  for (int first = 0; first < D; first += kSolveThreads) {
    const int j = first + tid;
    const bool in = j < D && gone[j] == value;
    const unsigned mask = __ballot_sync(~0u, in);
    if (lane == 0) counts[warp] = __popc(mask);
    __syncthreads();  // counts are complete
    int at = before + __popc(mask & ((1u << lane) - 1));
    for (int other = 0; other < kSolveThreads / 32; ++other) {
      if (other < warp) at += counts[other];
      before += counts[other];
    }
    if (in && at < most) set[at] = j;
    __syncthreads();  // counts have been read
  }
  return before;
}

template <class T>
__global__ void __launch_bounds__(kSolveThreads) obc_solve(WeightsTask<T> task) {
  SPADE_DYNAMIC_SHARED(SolveShared, shared);
  SPADE_SHARED(int, tally, kSolveThreads / 32);
  const int64_t r = blockIdx.x;
  const int tid = static_cast<int>(threadIdx.x), lane = tid & 31, warp = tid >> 5, D = task.D;
  const T* w0 = task.w + r * D;
  T* out = task.out + r * D;
  int* gone = task.gone + r * D;
  int* set = task.set + r * task.width;
  double* x = task.x + r * task.width;
  const int32_t* order = task.order + r * task.steps;
  const int64_t count = task.counts[r];
  if (tid == 0) task.info[r] = 1;  // until it is solved
  if (count < 0 || count > task.steps) return;
  for (int j = tid; j < D; j += kSolveThreads) gone[j] = 0;
  __syncthreads();  // no column is gone
  for (int k = tid; k < count; k += kSolveThreads)
    if (order[k] >= 0 && order[k] < D) atomicOr(gone + order[k], 1);
  __syncthreads();  // pruned columns are marked
  const int pruned = static_cast<int>(count), kept = D - pruned;
  const bool by_kept = kept <= pruned;
  const int k = by_kept ? kept : pruned;
  const T* matrix = (by_kept ? task.h : task.hinv).of(r);
  if (collect(gone, by_kept ? 0 : 1, D, tally, set, k) != k)
    return;  // columns out of range, or twice

  // b = (H w0)_K, one warp an entry, or w0_P; zeros up to the tile's edge
  for (int i = warp; i < (k + kEdge - 1) / kEdge * kEdge; i += kSolveThreads / 32) {
    double sum = 0;
    if (i < k && by_kept) {
      const T* row = matrix + static_cast<int64_t>(set[i]) * D;
      for (int j = lane; j < D; j += 32)
        sum += static_cast<double>(row[j]) * static_cast<double>(w0[j]);
      for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(~0u, sum, by);
    } else if (i < k) {
      sum = static_cast<double>(w0[set[i]]);
    }
    if (lane == 0) x[i] = sum;
  }
  // The factorisation's barriers come before anyone reads b.
  const bool solved =
      Solver<T>(*shared, matrix, D, set, k, task.factor + r * task.factor_size, x).solve();
  if (!solved) return;
  if (tid == 0) task.info[r] = 0;
  if (by_kept) {
    for (int j = tid; j < D; j += kSolveThreads)
      if (gone[j]) out[j] = T(0);
    for (int i = tid; i < k; i += kSolveThreads) out[set[i]] = static_cast<T>(x[i]);
    return;
  }
  for (int j = tid; j < D; j += kSolveThreads) {
    double sum = static_cast<double>(w0[j]);
    if (!gone[j])
      for (int i = 0; i < k; ++i)
        sum -= x[i] * static_cast<double>(matrix[static_cast<int64_t>(set[i]) * D + j]);
    out[j] = gone[j] ? T(0) : static_cast<T>(sum);
  }
}

namespace {

template <class T>
void lay_out(Workspace& workspace, WeightsTask<T>& task, int64_t count) {
  const int64_t half = task.D / 2;
  task.width = static_cast<int>((half + kEdge - 1) / kEdge * kEdge);
  task.factor_size = factor_size(half);
  task.factor = workspace.take<double>(count * task.factor_size);
  task.x = workspace.take<double>(count * task.width);
  task.gone = workspace.take<int>(count * task.D);
  task.set = workspace.take<int>(count * task.width);
}

size_t weights_bytes(int64_t count, int64_t D) {
  Workspace counter;
  WeightsTask<double> task{};
  task.D = static_cast<int>(D);
  lay_out(counter, task, count);
  return counter.bytes();
}

int64_t weights_chunk(int64_t R, int64_t D, size_t limit) {
  return chunk_of(R, R, limit, [&](int64_t count) { return weights_bytes(count, D); });
}

template <class T>
void weights(const char* function, const T* w, const T* h, const T* hinv, int64_t R, int64_t G,
             int64_t D, int64_t steps, const int32_t* order, const int64_t* counts, T* out,
             int32_t* info, void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  check_size(function, "R", R);
  check_matrices(function, R, G);
  check_size(function, "D", D);
  SPADE_CHECK(steps >= 0 && steps <= D, "%s: steps must be in [0, D = %lld], got %lld", function,
              static_cast<long long>(D), static_cast<long long>(steps));
  check_pointer(function, "counts", counts, R);
  check_pointer(function, "info", info, R);
  check_pointer(function, "order", order, R * steps);
  check_pointer(function, "w", w, R * D);
  check_pointer(function, "h", h, R * D);
  check_pointer(function, "hinv", hinv, R * D);
  check_pointer(function, "out", out, R * D);
  if (R == 0) return;
  if (D == 0)
    return fill_bytes(function, info, 0, static_cast<size_t>(R) * sizeof(int32_t), stream);
  const int64_t chunk = weights_chunk(R, D, workspace_bytes);
  Workspace memory(function, workspace, workspace_bytes, weights_bytes(chunk, D));
  WeightsTask<T> task{};
  task.h = matrices_of(h, R, G, D);
  task.hinv = matrices_of(hinv, R, G, D);
  task.D = static_cast<int>(D);
  task.steps = static_cast<int>(steps);
  lay_out(memory, task, chunk);
  for (int64_t first = 0; first < R; first += chunk) {
    const unsigned count = static_cast<unsigned>(std::min(chunk, R - first));
    task.h.chunk_start = task.hinv.chunk_start = static_cast<unsigned>(first);
    task.w = w + first * D;
    task.order = order + first * steps;
    task.counts = counts + first;
    task.out = out + first * D;
    task.info = info + first;
    SPADE_LAUNCH(obc_solve<T>, dim3(count), dim3(kSolveThreads), sizeof(SolveShared), stream, task);
    check_launch(function);
  }
}

}  // namespace
}  // namespace spade::cuda::obc

namespace spade::cuda {

using namespace obc;

spade_status_t obc_weights_workspace_bytes(int64_t R, int64_t D, size_t limit, size_t* bytes) {
  return guarded([&] {
    const char* function = "spade_cuda_obc_weights_workspace_bytes";
    check_size(function, "R", R);
    check_size(function, "D", D);
    check_pointer(function, "bytes", bytes, 1);
    *bytes = R && D ? weights_bytes(weights_chunk(R, D, limit), D) : 0;
  });
}

spade_status_t obc_weights(const float* w, const float* h, const float* hinv, int64_t R, int64_t G,
                           int64_t D, int64_t steps, const int32_t* order, const int64_t* counts,
                           float* out, int32_t* info, void* workspace, size_t workspace_bytes,
                           void* stream) {
  return guarded([&] {
    weights("spade_cuda_obc_weights", w, h, hinv, R, G, D, steps, order, counts, out, info,
            workspace, workspace_bytes, as_stream(stream));
  });
}

spade_status_t obc_weights_f64(const double* w, const double* h, const double* hinv, int64_t R,
                               int64_t G, int64_t D, int64_t steps, const int32_t* order,
                               const int64_t* counts, double* out, int32_t* info, void* workspace,
                               size_t workspace_bytes, void* stream) {
  return guarded([&] {
    weights("spade_cuda_obc_weights_f64", w, h, hinv, R, G, D, steps, order, counts, out, info,
            workspace, workspace_bytes, as_stream(stream));
  });
}

}  // namespace spade::cuda

// spade_cuda_obc_trace_pattern: exact OBC in double with blocks, n:m or single columns, of any
// number of columns (obc_pattern.cuh). Rows go in chunks that the workspace holds: D^2 + 2 c D
// doubles each.

#include <algorithm>

#include "core/checks.h"
#include "cuda/obc_chunk.h"
#include "cuda/obc_pattern.cuh"
#include "cuda/ops.h"

namespace spade::cuda::obc {
namespace {

template <class T>
void lay_out(Workspace& workspace, PatternRows<T>& rows, int64_t count) {
  const int64_t D = rows.D, c = rows.block;
  rows.u = workspace.take<double>(count * rows.steps * c * D);
  rows.w = workspace.take<double>(count * D);
  rows.diagonal = workspace.take<double>(count * c * D);
  rows.factor = workspace.take<double>(count * c * D);
  rows.z = workspace.take<double>(count * D);
  rows.score = workspace.take<double>(count * rows.blocks);
  rows.alive = workspace.take<int>(count * rows.blocks);
  rows.gone = workspace.take<int>(rows.m > 0 ? count * (D / rows.m) : 0);
}

template <class T>
size_t bytes_of(PatternRows<T> rows, int64_t count) {
  Workspace counter;
  lay_out(counter, rows, count);
  return counter.bytes();
}

template <class T>
int64_t chunk_rows(const PatternRows<T>& rows, int64_t R, size_t limit) {
  return chunk_of(R, R, limit, [&](int64_t count) { return bytes_of(rows, count); });
}

template <class T>
PatternRows<T> check_pattern(const char* function, int64_t R, int64_t D,
                             const spade_obc_pattern_t* pattern) {
  check_size(function, "R", R);
  check_size(function, "D", D);
  check_pointer(function, "pattern", pattern, 1);
  check_reserved(function, *pattern);
  const spade_obc_pattern_t p = *pattern;
  const auto number = [](int64_t x) { return static_cast<long long>(x); };
  SPADE_CHECK(p.block >= 1 && D % p.block == 0,
              "%s: block must be >= 1 and divide D = %lld, got %lld", function, number(D),
              number(p.block));
  SPADE_CHECK(p.m >= 0 && (p.m == 0 || D % p.m == 0), "%s: m must divide D = %lld, got %lld",
              function, number(D), number(p.m));
  SPADE_CHECK(p.n >= 0 && p.n <= p.m, "%s: n must be in [0, m = %lld], got %lld", function,
              number(p.m), number(p.n));
  SPADE_CHECK(p.m == 0 || p.block == 1, "%s: block must be 1 with n:m, got %lld", function,
              number(p.block));
  SPADE_CHECK(p.m > 0 || (p.steps >= 0 && p.steps <= D / p.block),
              "%s: steps must be in [0, D / block = %lld], got %lld", function, number(D / p.block),
              number(p.steps));
  PatternRows<T> rows{};
  rows.D = static_cast<int>(D);
  rows.block = static_cast<int>(p.block);
  rows.blocks = static_cast<int>(D / p.block);
  rows.n = static_cast<int>(p.n);
  rows.m = static_cast<int>(p.m);
  rows.steps = static_cast<int>(p.m > 0 ? D / p.m * p.n : p.steps);
  return rows;
}

template <class T>
void trace_pattern(const char* function, const T* w, const T* hinv, int64_t R, int64_t G, int64_t D,
                   const spade_obc_pattern_t* pattern, int32_t* order, T* loss, int32_t* info,
                   void* memory, size_t bytes, cudaStream_t stream) {
  PatternRows<T> rows = check_pattern<T>(function, R, D, pattern);
  check_matrices(function, R, G);
  check_pointer(function, "info", info, R);
  if (R == 0) return;
  if (rows.steps == 0)
    return fill_bytes(function, info, 0, static_cast<size_t>(R) * sizeof(int32_t), stream);
  check_pointer(function, "w", w, 1);
  check_pointer(function, "hinv", hinv, 1);
  check_pointer(function, "order", order, 1);
  check_pointer(function, "loss", loss, 1);
  const int64_t chunk = chunk_rows(rows, R, bytes);
  Workspace workspace(function, memory, bytes, bytes_of(rows, chunk));
  lay_out(workspace, rows, chunk);
  rows.hinv = matrices_of(hinv, R, G, D);
  for (int64_t first = 0; first < R; first += chunk) {
    rows.hinv.chunk_start = static_cast<unsigned>(first);
    rows.weights = w + first * D;
    rows.order = order + first * rows.steps;
    rows.loss = loss + first * rows.steps;
    rows.info = info + first;
    SPADE_LAUNCH(obc_pattern<T>, dim3(static_cast<unsigned>(std::min(chunk, R - first))),
                 dim3(kPatternThreads), 0, stream, rows);
    check_launch(function);
  }
}

}  // namespace
}  // namespace spade::cuda::obc

namespace spade::cuda {

spade_status_t obc_trace_pattern_workspace_bytes(int64_t R, int64_t D,
                                                 const spade_obc_pattern_t* pattern, size_t limit,
                                                 size_t* bytes) {
  return guarded([&] {
    const char* function = "spade_cuda_obc_trace_pattern_workspace_bytes";
    const auto rows = obc::check_pattern<double>(function, R, D, pattern);
    check_pointer(function, "bytes", bytes, 1);
    *bytes = R && rows.steps ? obc::bytes_of(rows, obc::chunk_rows(rows, R, limit)) : 0;
  });
}

spade_status_t obc_trace_pattern_f32(const float* w, const float* hinv, int64_t R, int64_t G,
                                     int64_t D, const spade_obc_pattern_t* pattern, int32_t* order,
                                     float* loss, int32_t* info, void* workspace,
                                     size_t workspace_bytes, void* stream) {
  return guarded([&] {
    obc::trace_pattern("spade_cuda_obc_trace_pattern_f32", w, hinv, R, G, D, pattern, order, loss,
                       info, workspace, workspace_bytes, as_stream(stream));
  });
}

spade_status_t obc_trace_pattern_f64(const double* w, const double* hinv, int64_t R, int64_t G,
                                     int64_t D, const spade_obc_pattern_t* pattern, int32_t* order,
                                     double* loss, int32_t* info, void* workspace,
                                     size_t workspace_bytes, void* stream) {
  return guarded([&] {
    obc::trace_pattern("spade_cuda_obc_trace_pattern_f64", w, hinv, R, G, D, pattern, order, loss,
                       info, workspace, workspace_bytes, as_stream(stream));
  });
}

}  // namespace spade::cuda

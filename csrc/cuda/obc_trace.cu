// spade_cuda_obc_trace and spade_cuda_obc_trace_nm: exact OBC in float32, as blocked Cholesky of A
// = H^-1 pivoted by argmin w_j^2 / A_jj.
//
// Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), Algorithm 1, with
// the blocking of LAPACK's pstrf; the pivot rule runs several pivots ahead (obc_round.cuh). By D:
//   <= 64    one warp per row (obc_single.cuh)
//   <= 576   one block per row, one launch (obc_single.cuh)
//   <= 4608  kPanel pivots (obc_panel.cuh), then an update of the row's packed matrix
//            (obc_update.cuh, obc_update_half.cuh), and so on; R D^3 / 3 flop, nearly all there.
// Rows go in chunks that the workspace holds: D^2 / 2 floats each (obc_layout.h).

#include "core/checks.h"
#include "cuda/obc_single.cuh"
#include "cuda/obc_trace.h"
#include "cuda/obc_update.cuh"
#include "cuda/obc_update_half.cuh"
#include "cuda/ops.h"

namespace spade::cuda::obc {

// w, diagonal and column of every position; nothing has gone.
__global__ void obc_start(ObcRows rows) {
  const int64_t r = blockIdx.y;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i == 0) {
    rows.info[r] = 0;
    rows.size[r] = rows.D;
  }
  if (i >= rows.D) return;
  if (rows.m > 0 && i < rows.D / rows.m) rows.gone[r * (rows.D / rows.m) + i] = 0;
  rows.w[r * rows.width + i] = rows.weights[r * rows.D + i];
  rows.diagonal[r * rows.width + i] = rows.hinv.of(r)[static_cast<int64_t>(i) * rows.D + i];
  rows.column[r * rows.width + i] = i;
}

template <int NT, int NI, int C>
static constexpr PanelKernel panel_kernel() {
  return {obc_panel<NT, NI, C>, NT, NT * NI, panel_shared_bytes<NT, NI, C>,
          sizeof(RoundShared<C>) + 2 * NI * NT / 32 * sizeof(int) + 64};
}

const PanelKernel kPanelKernels[] = {panel_kernel<256, 4, 16>(), panel_kernel<512, 3, 16>(),
                                     panel_kernel<512, 5, 16>(), panel_kernel<512, 5, 8>(),
                                     panel_kernel<512, 9, 8>(),  panel_kernel<512, 9, 4>()};

const PanelKernel& choose_panel(const Device& device, int size) {
  for (const PanelKernel& k : kPanelKernels)
    if (size <= k.most && k.dynamic_bytes(size) + k.static_bytes <= device.shared_bytes) return k;
  fail(SPADE_INTERNAL, "spade_cuda_obc_trace: no panel kernel for %d columns in %zu bytes", size,
       device.shared_bytes);
}

namespace {

void run_tiled(const Device& device, const Elimination& e, const ObcRows& rows, int64_t count,
               bool half, cudaStream_t stream) {
  const unsigned n = static_cast<unsigned>(count);
  SPADE_LAUNCH(obc_start, dim3(static_cast<unsigned>(rows.D + 255) / 256, n), dim3(256), 0, stream,
               rows);
  for (int step = 0; step < rows.steps;) {
    const int pivots = std::min(kPanel, rows.steps - step);
    const bool more = step + pivots < rows.steps;
    const int size = static_cast<int>(e.most_left(step));
    const PanelKernel& panel = choose_panel(device, size);
    SPADE_LAUNCH(panel.kernel, dim3(n), dim3(static_cast<unsigned>(panel.threads)),
                 panel.dynamic_bytes(size), stream, PanelTask{rows, step, pivots, more, half});
    step += pivots;
    if (more) {
      const int tiles = (static_cast<int>(e.most_left(step)) + kPackedTile - 1) / kPackedTile;
      const dim3 grid(static_cast<unsigned>(tiles * (tiles + 1) / 2), n);
      const UpdateTask task{rows, step == pivots};
      if (half)
        SPADE_LAUNCH(obc_update_half, grid, dim3(kUpdateThreads), kHalfSharedBytes, stream, task);
      else
        SPADE_LAUNCH(obc_update_ffma, grid, dim3(kUpdateThreads), 0, stream, task);
    }
  }
}

template <int NT, int NI, int C>
void launch_single(const ObcRows& rows, int64_t count, cudaStream_t stream) {
  SPADE_LAUNCH((obc_single<NT, NI, C>), dim3(static_cast<unsigned>(count)), dim3(NT),
               (single_shared_bytes<NT, NI, C>(rows.D, rows.steps)), stream, rows);
}

template <int kColumns>
void launch_warp(const ObcRows& rows, int64_t count, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((count + kWarpsOfBlock - 1) / kWarpsOfBlock));
  SPADE_LAUNCH(obc_warp<kColumns>, grid, dim3(32 * kWarpsOfBlock), 0, stream, rows, count);
}

void run_warp(const ObcRows& rows, int64_t count, cudaStream_t stream) {
  if (rows.D <= 16)
    launch_warp<16>(rows, count, stream);
  else if (rows.D <= 32)
    launch_warp<32>(rows, count, stream);
  else
    launch_warp<kMostByWarp>(rows, count, stream);
}

void run_single(const ObcRows& rows, int64_t count, cudaStream_t stream) {
  if (rows.D <= 256)
    launch_single<128, 2, 16>(rows, count, stream);
  else
    launch_single<192, 3, 16>(rows, count, stream);
}

}  // namespace

void trace(const char* function, ObcForm form, const float* w, const float* hinv, int64_t R,
           int64_t G, const Elimination& e, int update, int32_t* order, float* loss, int32_t* info,
           void* memory, size_t bytes, cudaStream_t stream) {
  const int64_t chunk = chunk_rows(form, R, e, bytes);
  Workspace workspace(function, memory, bytes, bytes_of(form, chunk, e));
  ObcRows rows = lay_out(workspace, form, chunk, e);
  rows.hinv = matrices_of(hinv, R, G, e.D);
  const Device device = form == ObcForm::kTiled ? current_device(function) : Device{};
  // Tensor cores pay where three fp16 products outrun float32: not on the GPUs of 8.6 and 8.9.
  const bool fast_half = device.major >= 9 || (device.major == 8 && device.minor == 0);
  const bool half =
      update == SPADE_OBC_UPDATE_FP16 || (update == SPADE_OBC_UPDATE_AUTO && fast_half);
  for (int64_t first = 0; first < R; first += chunk) {
    const int64_t count = std::min(chunk, R - first);
    rows.hinv.chunk_start = static_cast<unsigned>(first);
    rows.weights = w + first * e.D;
    rows.order = order + first * e.steps;
    rows.loss = loss + first * e.steps;
    rows.info = info + first;
    if (form == ObcForm::kTiled)
      run_tiled(device, e, rows, count, half, stream);
    else if (form == ObcForm::kSingle)
      run_single(rows, count, stream);
    else
      run_warp(rows, count, stream);
    check_launch(function);
  }
}

namespace {

void check_columns(const char* function, int64_t R, int64_t D) {
  check_size(function, "R", R);
  check_size(function, "D", D);
  SPADE_CHECK(D <= kMostColumns, "%s: D must be at most %d, got %lld", function, kMostColumns,
              static_cast<long long>(D));
}

Elimination unstructured(const char* function, int64_t R, int64_t D, int64_t steps) {
  check_columns(function, R, D);
  SPADE_CHECK(steps >= 0 && steps <= D, "%s: steps must be in [0, D = %lld], got %lld", function,
              static_cast<long long>(D), static_cast<long long>(steps));
  return {D, steps};
}

Elimination nm(const char* function, int64_t R, int64_t D, int64_t n, int64_t m) {
  check_columns(function, R, D);
  SPADE_CHECK(m >= 1 && D % m == 0, "%s: m must be >= 1 and divide D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(m));
  SPADE_CHECK(n >= 0 && n <= m, "%s: n must be in [0, m = %lld], got %lld", function,
              static_cast<long long>(m), static_cast<long long>(n));
  return {D, D / m * n, n, m};
}

size_t workspace_bytes_of(const char* function, int64_t R, const Elimination& e, size_t limit,
                          const size_t* bytes) {
  check_pointer(function, "bytes", bytes, 1);
  const ObcForm form = form_of(e.D);
  return R > 0 && e.steps > 0 ? bytes_of(form, chunk_rows(form, R, e, limit), e) : 0;
}

void check_and_trace(const char* function, const float* w, const float* hinv, int64_t R, int64_t G,
                     const Elimination& e, int update, int32_t* order, float* loss, int32_t* info,
                     void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  SPADE_CHECK(update >= SPADE_OBC_UPDATE_AUTO && update <= SPADE_OBC_UPDATE_FP16,
              "%s: update must be a spade_obc_update_t, got %d", function, update);
  check_matrices(function, R, G);
  check_pointer(function, "info", info, R);
  if (R == 0) return;
  if (e.steps == 0)
    return fill_bytes(function, info, 0, static_cast<size_t>(R) * sizeof(int32_t), stream);
  check_pointer(function, "w", w, 1);
  check_pointer(function, "hinv", hinv, 1);
  check_pointer(function, "order", order, 1);
  check_pointer(function, "loss", loss, 1);
  trace(function, form_of(e.D), w, hinv, R, G, e, update, order, loss, info, workspace,
        workspace_bytes, stream);
}

}  // namespace
}  // namespace spade::cuda::obc

namespace spade::cuda {

spade_status_t obc_trace_workspace_bytes(int64_t R, int64_t D, int64_t steps, size_t limit,
                                         size_t* bytes) {
  return guarded([&] {
    const char* function = "spade_cuda_obc_trace_workspace_bytes";
    const obc::Elimination e = obc::unstructured(function, R, D, steps);
    *bytes = obc::workspace_bytes_of(function, R, e, limit, bytes);
  });
}

spade_status_t obc_trace(const float* w, const float* hinv, int64_t R, int64_t G, int64_t D,
                         int64_t steps, int update, int32_t* order, float* loss, int32_t* info,
                         void* workspace, size_t workspace_bytes, void* stream) {
  return guarded([&] {
    const char* function = "spade_cuda_obc_trace";
    obc::check_and_trace(function, w, hinv, R, G, obc::unstructured(function, R, D, steps), update,
                         order, loss, info, workspace, workspace_bytes, as_stream(stream));
  });
}

spade_status_t obc_trace_nm_workspace_bytes(int64_t R, int64_t D, int64_t n, int64_t m,
                                            size_t limit, size_t* bytes) {
  return guarded([&] {
    const char* function = "spade_cuda_obc_trace_nm_workspace_bytes";
    const obc::Elimination e = obc::nm(function, R, D, n, m);
    *bytes = obc::workspace_bytes_of(function, R, e, limit, bytes);
  });
}

spade_status_t obc_trace_nm(const float* w, const float* hinv, int64_t R, int64_t G, int64_t D,
                            int64_t n, int64_t m, int update, int32_t* order, float* loss,
                            int32_t* info, void* workspace, size_t workspace_bytes, void* stream) {
  return guarded([&] {
    const char* function = "spade_cuda_obc_trace_nm";
    obc::check_and_trace(function, w, hinv, R, G, obc::nm(function, R, D, n, m), update, order,
                         loss, info, workspace, workspace_bytes, as_stream(stream));
  });
}

}  // namespace spade::cuda

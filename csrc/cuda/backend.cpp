#include "cuda/backend.h"

#include "cuda/launch.h"
#include "cuda/ops.h"

#ifdef SPADE_CUDA_EMULATION
#define SPADE_NVCC_VERSION "emulated"
#define SPADE_CUDA_ARCHITECTURES ""
#endif

namespace spade::cuda {
namespace {

const char* build_info() {
  return "{\"nvcc\": \"" SPADE_NVCC_VERSION "\", \"architectures\": \"" SPADE_CUDA_ARCHITECTURES
         "\"}";
}

}  // namespace
}  // namespace spade::cuda

const spade::cuda::Backend* spade_cuda_backend() {
  using namespace spade::cuda;
  static const Backend backend = {
      kBackendVersion,
      unavailable_reason,
      build_info,
      spade_last_error,
      hessian_linear_workspace_bytes,
      hessian_linear,
      hessian_conv2d_workspace_bytes,
      hessian_conv2d,
      obc_trace_workspace_bytes,
      obc_trace,
      obc_trace_nm_workspace_bytes,
      obc_trace_nm,
      obc_trace_pattern_workspace_bytes,
      obc_trace_pattern_f32,
      obc_trace_pattern_f64,
      obc_weights_workspace_bytes,
      obc_weights,
      obc_weights_f64,
      sparsegpt_prune_workspace_bytes,
      sparsegpt_prune,
  };
  return &backend;
}

// The one symbol that libspade looks up in libspade_cuda: a table of the functions of spade/cuda.h.
#pragma once

#include "spade/cuda.h"

namespace spade::cuda {

struct Backend {
  int version;  // kBackendVersion of the build
  const char* (*unavailable_reason)();
  const char* (*build_info)();
  const char* (*last_error)();
  decltype(&spade_cuda_hessian_linear_workspace_bytes) hessian_linear_workspace_bytes;
  decltype(&spade_cuda_hessian_linear) hessian_linear;
  decltype(&spade_cuda_hessian_conv2d_workspace_bytes) hessian_conv2d_workspace_bytes;
  decltype(&spade_cuda_hessian_conv2d) hessian_conv2d;
  decltype(&spade_cuda_obc_trace_workspace_bytes) obc_trace_workspace_bytes;
  decltype(&spade_cuda_obc_trace) obc_trace;
  decltype(&spade_cuda_obc_trace_nm_workspace_bytes) obc_trace_nm_workspace_bytes;
  decltype(&spade_cuda_obc_trace_nm) obc_trace_nm;
  decltype(&spade_cuda_obc_trace_pattern_workspace_bytes) obc_trace_pattern_workspace_bytes;
  decltype(&spade_cuda_obc_trace_pattern_f32) obc_trace_pattern_f32;
  decltype(&spade_cuda_obc_trace_pattern_f64) obc_trace_pattern_f64;
  decltype(&spade_cuda_obc_weights_workspace_bytes) obc_weights_workspace_bytes;
  decltype(&spade_cuda_obc_weights) obc_weights;
  decltype(&spade_cuda_obc_weights_f64) obc_weights_f64;
  decltype(&spade_cuda_sparsegpt_prune_workspace_bytes) sparsegpt_prune_workspace_bytes;
  decltype(&spade_cuda_sparsegpt_prune) sparsegpt_prune;
};

constexpr int kBackendVersion = 5;

}  // namespace spade::cuda

extern "C" SPADE_API const spade::cuda::Backend* spade_cuda_backend();

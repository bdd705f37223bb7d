// The functions of spade/cuda.h that the CUDA half has, without their prefix spade_cuda_: of(name)
// for each. The table of backend.h, its entries and the declarations of ops.h are made from this.
#pragma once

// clang-format off: one a line
#define SPADE_CUDA_FUNCTIONS(of) \
  of(hessian_linear_workspace_bytes)    \
  of(hessian_linear)                    \
  of(hessian_conv2d_workspace_bytes)    \
  of(hessian_conv2d)                    \
  of(obc_trace_workspace_bytes)         \
  of(obc_trace)                         \
  of(obc_trace_nm_workspace_bytes)      \
  of(obc_trace_nm)                      \
  of(obc_trace_pattern_workspace_bytes) \
  of(obc_trace_pattern_f32)             \
  of(obc_trace_pattern_f64)             \
  of(obc_weights_workspace_bytes)       \
  of(obc_weights)                       \
  of(obc_weights_f64)                   \
  of(sparsegpt_prune_workspace_bytes)   \
  of(sparsegpt_prune)
// clang-format on

// spade/cuda.h: loads libspade_cuda from the folder of libspade, or the file that the environment
// variable SPADE_CUDA_LIBRARY names, on the first call, and passes every operation on to it.
#include <string>

#include "core/environment.h"
#include "core/status.h"
#include "cuda/backend.h"
#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace spade {
namespace {

using cuda::Backend;

struct CudaHalf {
  const Backend* backend = nullptr;  // NULL: `reason` says why
  std::string reason, build_info = "{}";
};

#if defined(_WIN32)

CudaHalf load() { return {nullptr, "libspade_cuda is not built for this system", "{}"}; }

#else

constexpr const char* kLibrary = "libspade_cuda.so";

// The folder that libspade itself was loaded from, with a slash.
std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&spade_version), &info) || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

CudaHalf load() {
  CudaHalf half;
  const char* chosen = environment("SPADE_CUDA_LIBRARY");
  const std::string path = chosen && *chosen ? chosen : own_folder() + kLibrary;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    half.reason = dlerror();
    return half;
  }
  using Entry = const Backend* (*)();
  const Entry entry = reinterpret_cast<Entry>(dlsym(library, "spade_cuda_backend"));
  const Backend* backend = entry ? entry() : nullptr;
  if (!backend || backend->version != cuda::kBackendVersion) {
    half.reason = path + " belongs to another version of libspade";
    return half;
  }
  half.build_info = backend->build_info();
  half.reason = backend->unavailable_reason();
  if (half.reason.empty()) half.backend = backend;
  return half;
}

#endif

const CudaHalf& cuda_half() {
  static const CudaHalf half = load();
  return half;
}

template <class Function, class... Arguments>
spade_status_t pass_on(const char* name, Function Backend::*function, Arguments... arguments) {
  const CudaHalf& half = cuda_half();
  if (!half.backend) {
    set_last_error((std::string(name) + ": " + half.reason).c_str());
    return SPADE_CUDA_UNAVAILABLE;
  }
  const spade_status_t status = (half.backend->*function)(arguments...);
  set_last_error(status == SPADE_SUCCESS ? "" : half.backend->last_error());
  return status;
}

}  // namespace
}  // namespace spade

int spade_cuda_is_available(void) { return spade::cuda_half().backend != nullptr; }

const char* spade_cuda_unavailable_reason(void) { return spade::cuda_half().reason.c_str(); }

const char* spade_cuda_build_info(void) { return spade::cuda_half().build_info.c_str(); }

#define SPADE_PASS_ON(function, ...) \
  spade::pass_on("spade_cuda_" #function, &spade::cuda::Backend::function, __VA_ARGS__)

spade_status_t spade_cuda_hessian_linear_workspace_bytes(int64_t S, int64_t N, int64_t D, int dtype,
                                                         int precision, size_t* bytes) {
  return SPADE_PASS_ON(hessian_linear_workspace_bytes, S, N, D, dtype, precision, bytes);
}

spade_status_t spade_cuda_hessian_linear(const void* x, int dtype, int64_t S, int64_t N, int64_t D,
                                         int64_t ldx, int precision, double* h, void* workspace,
                                         size_t workspace_bytes, void* stream) {
  return SPADE_PASS_ON(hessian_linear, x, dtype, S, N, D, ldx, precision, h, workspace,
                       workspace_bytes, stream);
}

spade_status_t spade_cuda_hessian_conv2d_workspace_bytes(const spade_conv2d_t* conv, int64_t S,
                                                         int dtype, int precision, size_t* bytes) {
  return SPADE_PASS_ON(hessian_conv2d_workspace_bytes, conv, S, dtype, precision, bytes);
}

spade_status_t spade_cuda_hessian_conv2d(const void* x, int dtype, const spade_conv2d_t* conv,
                                         int64_t S, int precision, double* h, void* workspace,
                                         size_t workspace_bytes, void* stream) {
  return SPADE_PASS_ON(hessian_conv2d, x, dtype, conv, S, precision, h, workspace, workspace_bytes,
                       stream);
}

spade_status_t spade_cuda_obc_trace_workspace_bytes(int64_t R, int64_t D, int64_t steps,
                                                    size_t limit, size_t* bytes) {
  return SPADE_PASS_ON(obc_trace_workspace_bytes, R, D, steps, limit, bytes);
}

spade_status_t spade_cuda_obc_trace(const float* w, const float* hinv, int64_t R, int64_t G,
                                    int64_t D, int64_t steps, int update, int32_t* order,
                                    float* loss, int32_t* info, void* workspace,
                                    size_t workspace_bytes, void* stream) {
  return SPADE_PASS_ON(obc_trace, w, hinv, R, G, D, steps, update, order, loss, info, workspace,
                       workspace_bytes, stream);
}

spade_status_t spade_cuda_obc_trace_nm_workspace_bytes(int64_t R, int64_t D, int64_t n, int64_t m,
                                                       size_t limit, size_t* bytes) {
  return SPADE_PASS_ON(obc_trace_nm_workspace_bytes, R, D, n, m, limit, bytes);
}

spade_status_t spade_cuda_obc_trace_nm(const float* w, const float* hinv, int64_t R, int64_t G,
                                       int64_t D, int64_t n, int64_t m, int update, int32_t* order,
                                       float* loss, int32_t* info, void* workspace,
                                       size_t workspace_bytes, void* stream) {
  return SPADE_PASS_ON(obc_trace_nm, w, hinv, R, G, D, n, m, update, order, loss, info, workspace,
                       workspace_bytes, stream);
}

spade_status_t spade_cuda_obc_trace_pattern_workspace_bytes(int64_t R, int64_t D,
                                                            const spade_obc_pattern_t* pattern,
                                                            size_t limit, size_t* bytes) {
  return SPADE_PASS_ON(obc_trace_pattern_workspace_bytes, R, D, pattern, limit, bytes);
}

spade_status_t spade_cuda_obc_trace_pattern_f32(const float* w, const float* hinv, int64_t R,
                                                int64_t G, int64_t D,
                                                const spade_obc_pattern_t* pattern, int32_t* order,
                                                float* loss, int32_t* info, void* workspace,
                                                size_t workspace_bytes, void* stream) {
  return SPADE_PASS_ON(obc_trace_pattern_f32, w, hinv, R, G, D, pattern, order, loss, info,
                       workspace, workspace_bytes, stream);
}

spade_status_t spade_cuda_obc_trace_pattern_f64(const double* w, const double* hinv, int64_t R,
                                                int64_t G, int64_t D,
                                                const spade_obc_pattern_t* pattern, int32_t* order,
                                                double* loss, int32_t* info, void* workspace,
                                                size_t workspace_bytes, void* stream) {
  return SPADE_PASS_ON(obc_trace_pattern_f64, w, hinv, R, G, D, pattern, order, loss, info,
                       workspace, workspace_bytes, stream);
}

spade_status_t spade_cuda_obc_weights_workspace_bytes(int64_t R, int64_t D, size_t limit,
                                                      size_t* bytes) {
  return SPADE_PASS_ON(obc_weights_workspace_bytes, R, D, limit, bytes);
}

spade_status_t spade_cuda_obc_weights(const float* w, const float* h, const float* hinv, int64_t R,
                                      int64_t G, int64_t D, int64_t steps, const int32_t* order,
                                      const int64_t* counts, float* out, int32_t* info,
                                      void* workspace, size_t workspace_bytes, void* stream) {
  return SPADE_PASS_ON(obc_weights, w, h, hinv, R, G, D, steps, order, counts, out, info, workspace,
                       workspace_bytes, stream);
}

spade_status_t spade_cuda_obc_weights_f64(const double* w, const double* h, const double* hinv,
                                          int64_t R, int64_t G, int64_t D, int64_t steps,
                                          const int32_t* order, const int64_t* counts, double* out,
                                          int32_t* info, void* workspace, size_t workspace_bytes,
                                          void* stream) {
  return SPADE_PASS_ON(obc_weights_f64, w, h, hinv, R, G, D, steps, order, counts, out, info,
                       workspace, workspace_bytes, stream);
}

spade_status_t spade_cuda_sparsegpt_prune_workspace_bytes(
    int64_t L, const spade_cuda_sparsegpt_layer_t* layers, int dtype, size_t limit, size_t* bytes) {
  return SPADE_PASS_ON(sparsegpt_prune_workspace_bytes, L, layers, dtype, limit, bytes);
}

spade_status_t spade_cuda_sparsegpt_prune(int64_t L, const spade_cuda_sparsegpt_layer_t* layers,
                                          int dtype, void* workspace, size_t workspace_bytes,
                                          void* stream) {
  return SPADE_PASS_ON(sparsegpt_prune, L, layers, dtype, workspace, workspace_bytes, stream);
}

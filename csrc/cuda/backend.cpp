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
#define SPADE_ENTRY(name) name,
  static const Backend backend = {kBackendVersion, unavailable_reason, build_info, spade_last_error,
                                  SPADE_CUDA_FUNCTIONS(SPADE_ENTRY)};
#undef SPADE_ENTRY
  return &backend;
}

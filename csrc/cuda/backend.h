// The one symbol that libspade looks up in libspade_cuda: a table of the functions of spade/cuda.h.
#pragma once

#include "cuda/functions.h"
#include "spade/cuda.h"

namespace spade::cuda {

struct Backend {
  int version;  // kBackendVersion of the build
  const char* (*unavailable_reason)();
  const char* (*build_info)();
  const char* (*last_error)();
#define SPADE_ENTRY(name) decltype(&spade_cuda_##name) name;
  SPADE_CUDA_FUNCTIONS(SPADE_ENTRY)
#undef SPADE_ENTRY
};

constexpr int kBackendVersion = 6;

}  // namespace spade::cuda

extern "C" SPADE_API const spade::cuda::Backend* spade_cuda_backend();

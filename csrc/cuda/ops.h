// The operations of spade/cuda.h under namespace spade::cuda, with the same types: each is defined
// in csrc/cuda/<op>.cu with its body in guarded(), and reaches libspade through the table of
// backend.h.
#pragma once

#include "core/status.h"
#include "cuda/functions.h"
#include "spade/cuda.h"

namespace spade::cuda {

#define SPADE_DECLARE(name) decltype(spade_cuda_##name) name;
SPADE_CUDA_FUNCTIONS(SPADE_DECLARE)
#undef SPADE_DECLARE

}  // namespace spade::cuda

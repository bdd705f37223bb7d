// How exact OBC runs on rows: its panel kernels and its chunks, for obc_trace.cu and its tests.
#pragma once

#include "cuda/obc_layout.h"
#include "cuda/obc_panel.cuh"

namespace spade::cuda::obc {

struct PanelKernel {
  void (*kernel)(PanelTask);
  int threads, most;  // columns
  size_t (*dynamic_bytes)(int size);
  size_t static_bytes;
};

// Fewest slots first; of those, most candidates first.
extern const PanelKernel kPanelKernels[6];

// The first that takes `size` columns in the device's shared memory.
const PanelKernel& choose_panel(const Device& device, int size);

// All rows, chunk after chunk, in the given form.
void trace(const char* function, ObcForm form, const float* w, const float* hinv, int64_t R,
           int64_t G, const Elimination& e, int update, int32_t* order, float* loss, int32_t* info,
           void* memory, size_t bytes, cudaStream_t stream);

}  // namespace spade::cuda::obc

#include "spade/cuda.h"

#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <tuple>
#include <vector>

#include "python/common.h"

namespace spade::python {

namespace {

using Address = uintptr_t;

// Launching is quick, but a full queue waits: without the GIL.
template <class Call>
void queue(Call&& call) {
  spade_status_t status;
  {
    py::gil_scoped_release released;
    status = call();
  }
  check(status);
}

template <class Call>
size_t workspace(Call&& call) {
  size_t bytes = 0;
  check(call(&bytes));
  return bytes;
}

void bind_hessian_cuda(py::module_& module) {
  module.def("cuda_hessian_linear_workspace",
             [](int64_t S, int64_t N, int64_t D, int dtype, int precision) {
               return workspace([&](size_t* bytes) {
                 return spade_cuda_hessian_linear_workspace_bytes(S, N, D, dtype, precision, bytes);
               });
             });
  module.def("cuda_hessian_linear",
             [](Address x, int dtype, int64_t S, int64_t N, int64_t D, int64_t ldx, int precision,
                Address h, Address scratch, size_t bytes, Address stream) {
               queue([&] {
                 return spade_cuda_hessian_linear(pointer<void>(x), dtype, S, N, D, ldx, precision,
                                                  pointer<double>(h), pointer<void>(scratch), bytes,
                                                  pointer<void>(stream));
               });
             });
  module.def("cuda_hessian_conv2d_workspace", [](const Conv2dFields& fields, int64_t S, int dtype,
                                                 int precision) {
    const spade_conv2d_t conv = conv2d_of(fields);
    return workspace([&](size_t* bytes) {
      return spade_cuda_hessian_conv2d_workspace_bytes(&conv, S, dtype, precision, bytes);
    });
  });
  module.def("cuda_hessian_conv2d",
             [](Address x, int dtype, const Conv2dFields& fields, int64_t S, int precision,
                Address h, Address scratch, size_t bytes, Address stream) {
               const spade_conv2d_t conv = conv2d_of(fields);
               queue([&] {
                 return spade_cuda_hessian_conv2d(pointer<void>(x), dtype, &conv, S, precision,
                                                  pointer<double>(h), pointer<void>(scratch), bytes,
                                                  pointer<void>(stream));
               });
             });
}

template <class T, class Function>
void bind_obc_weights_cuda(py::module_& module, const char* name, Function function) {
  module.def(name, [function](Address w, Address h, Address hinv, int64_t R, int64_t G, int64_t D,
                              int64_t steps, Address order, Address counts, Address out,
                              Address info, Address scratch, size_t bytes, Address stream) {
    queue([&] {
      return function(pointer<T>(w), pointer<T>(h), pointer<T>(hinv), R, G, D, steps,
                      pointer<int32_t>(order), pointer<int64_t>(counts), pointer<T>(out),
                      pointer<int32_t>(info), pointer<void>(scratch), bytes, pointer<void>(stream));
    });
  });
}

template <class T, class Function>
void bind_obc_pattern_cuda(py::module_& module, const char* name, Function function) {
  module.def(name,
             [function](Address w, Address hinv, int64_t R, int64_t G, int64_t D, int64_t steps,
                        int64_t n, int64_t m, int64_t block, Address order, Address loss,
                        Address info, Address scratch, size_t bytes, Address stream) {
               const spade_obc_pattern_t pattern{steps, n, m, block};
               queue([&] {
                 return function(pointer<T>(w), pointer<T>(hinv), R, G, D, &pattern,
                                 pointer<int32_t>(order), pointer<T>(loss), pointer<int32_t>(info),
                                 pointer<void>(scratch), bytes, pointer<void>(stream));
               });
             });
}

void bind_obc_cuda(py::module_& module) {
  module.def("cuda_obc_trace_workspace", [](int64_t R, int64_t D, int64_t steps, size_t limit) {
    return workspace([&](size_t* bytes) {
      return spade_cuda_obc_trace_workspace_bytes(R, D, steps, limit, bytes);
    });
  });
  module.def("cuda_obc_trace", [](Address w, Address hinv, int64_t R, int64_t G, int64_t D,
                                  int64_t steps, int update, Address order, Address loss,
                                  Address info, Address scratch, size_t bytes, Address stream) {
    queue([&] {
      return spade_cuda_obc_trace(pointer<float>(w), pointer<float>(hinv), R, G, D, steps, update,
                                  pointer<int32_t>(order), pointer<float>(loss),
                                  pointer<int32_t>(info), pointer<void>(scratch), bytes,
                                  pointer<void>(stream));
    });
  });
  module.def("cuda_obc_trace_nm_workspace",
             [](int64_t R, int64_t D, int64_t n, int64_t m, size_t limit) {
               return workspace([&](size_t* bytes) {
                 return spade_cuda_obc_trace_nm_workspace_bytes(R, D, n, m, limit, bytes);
               });
             });
  module.def("cuda_obc_trace_nm", [](Address w, Address hinv, int64_t R, int64_t G, int64_t D,
                                     int64_t n, int64_t m, int update, Address order, Address loss,
                                     Address info, Address scratch, size_t bytes, Address stream) {
    queue([&] {
      return spade_cuda_obc_trace_nm(pointer<float>(w), pointer<float>(hinv), R, G, D, n, m, update,
                                     pointer<int32_t>(order), pointer<float>(loss),
                                     pointer<int32_t>(info), pointer<void>(scratch), bytes,
                                     pointer<void>(stream));
    });
  });
  module.def("cuda_obc_weights_workspace", [](int64_t R, int64_t D, size_t limit) {
    return workspace(
        [&](size_t* bytes) { return spade_cuda_obc_weights_workspace_bytes(R, D, limit, bytes); });
  });
  bind_obc_weights_cuda<float>(module, "cuda_obc_weights_f32", spade_cuda_obc_weights);
  bind_obc_weights_cuda<double>(module, "cuda_obc_weights_f64", spade_cuda_obc_weights_f64);
  module.def("cuda_obc_trace_pattern_workspace", [](int64_t R, int64_t D, int64_t steps, int64_t n,
                                                    int64_t m, int64_t block, size_t limit) {
    const spade_obc_pattern_t pattern{steps, n, m, block};
    return workspace([&](size_t* bytes) {
      return spade_cuda_obc_trace_pattern_workspace_bytes(R, D, &pattern, limit, bytes);
    });
  });
  bind_obc_pattern_cuda<float>(module, "cuda_obc_trace_pattern_f32",
                               spade_cuda_obc_trace_pattern_f32);
  bind_obc_pattern_cuda<double>(module, "cuda_obc_trace_pattern_f64",
                                spade_cuda_obc_trace_pattern_f64);
}

// The fields of spade_cuda_sparsegpt_layer_t in order, those of its options among them.
using LayerFields = std::tuple<int64_t, int64_t, int64_t, double, int64_t, int64_t, int64_t, double,
                               int64_t, Address, int64_t, Address, Address, Address, Address>;

std::vector<spade_cuda_sparsegpt_layer_t> layers_of(const std::vector<LayerFields>& all) {
  std::vector<spade_cuda_sparsegpt_layer_t> layers;
  for (const auto& [S, R, D, sparsity, block_size, n, m, damp, extra, w, w_stride, h, out,
                    damp_used, info] : all)
    layers.push_back({S,
                      R,
                      D,
                      {sparsity, block_size, n, m, damp, extra, {}},
                      pointer<void>(w),
                      w_stride,
                      pointer<void>(h),
                      pointer<void>(out),
                      pointer<double>(damp_used),
                      pointer<int32_t>(info),
                      {}});
  return layers;
}

void bind_sparsegpt_cuda(py::module_& module) {
  module.def("cuda_sparsegpt_prune_workspace",
             [](const std::vector<LayerFields>& fields, int dtype, size_t limit) {
               const auto layers = layers_of(fields);
               return workspace([&](size_t* bytes) {
                 return spade_cuda_sparsegpt_prune_workspace_bytes(
                     static_cast<int64_t>(layers.size()), layers.data(), dtype, limit, bytes);
               });
             });
  module.def("cuda_sparsegpt_prune", [](const std::vector<LayerFields>& fields, int dtype,
                                        Address scratch, size_t bytes, Address stream) {
    const auto layers = layers_of(fields);
    queue([&] {
      return spade_cuda_sparsegpt_prune(static_cast<int64_t>(layers.size()), layers.data(), dtype,
                                        pointer<void>(scratch), bytes, pointer<void>(stream));
    });
  });
}

}  // namespace

SPADE_BINDINGS(module) {
  module.def("cuda_is_available", [] { return spade_cuda_is_available() != 0; });
  module.def("cuda_unavailable_reason", &spade_cuda_unavailable_reason);
  module.def("cuda_build_info", &spade_cuda_build_info);
  bind_hessian_cuda(module);
  bind_obc_cuda(module);
  bind_sparsegpt_cuda(module);
}

}  // namespace spade::python

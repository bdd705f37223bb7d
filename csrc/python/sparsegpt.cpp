#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "python/common.h"

namespace spade::python {

namespace {

// The damping and the info of each sample.
template <class T, class Prune>
void bind(py::module_& module, const char* name, Prune prune) {
  using Address = uintptr_t;
  module.def(name, [=](Address w, int64_t w_stride, Address h, int64_t S, int64_t R, int64_t D,
                       double sparsity, int64_t block_size, int64_t n, int64_t m, double damp,
                       int64_t extra, Address out, int threads, py::object progress) {
    const spade_sparsegpt_t options{sparsity, block_size, n, m, damp, extra, {}};
    std::vector<double> damp_used(static_cast<size_t>(S));
    std::vector<int32_t> info(static_cast<size_t>(S));
    run(std::move(progress), [&](const spade_progress_t* target) {
      return prune(pointer<T>(w), w_stride, pointer<T>(h), S, R, D, &options, pointer<T>(out),
                   damp_used.data(), info.data(), threads, target);
    });
    return std::make_pair(damp_used, info);
  });
}

}  // namespace

SPADE_BINDINGS(module) {
  bind<float>(module, "sparsegpt_prune_f32", spade_sparsegpt_prune_f32);
  bind<double>(module, "sparsegpt_prune_f64", spade_sparsegpt_prune_f64);
}

}  // namespace spade::python

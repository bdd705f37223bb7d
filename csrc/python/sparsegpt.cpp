#include "python/common.h"

namespace spade::python {

namespace {

template <class T, class Prune>
void bind(py::module_& module, const char* name, Prune prune) {
  using Address = uintptr_t;
  module.def(name, [=](Address w, int64_t w_stride, Address h, int64_t S, int64_t R, int64_t D,
                       double sparsity, int64_t block_size, int64_t n, int64_t m, double damp,
                       int64_t extra, Address out, Address damp_used, Address info, int threads,
                       py::object progress) {
    const spade_sparsegpt_t options{sparsity, block_size, n, m, damp, extra};
    run(std::move(progress), [&](const spade_progress_t* target) {
      return prune(pointer<T>(w), w_stride, pointer<T>(h), S, R, D, &options, pointer<T>(out),
                   pointer<double>(damp_used), pointer<int32_t>(info), threads, target);
    });
  });
}

}  // namespace

void bind_sparsegpt(py::module_& module) {
  bind<float>(module, "sparsegpt_prune_f32", spade_sparsegpt_prune_f32);
  bind<double>(module, "sparsegpt_prune_f64", spade_sparsegpt_prune_f64);
}

}  // namespace spade::python

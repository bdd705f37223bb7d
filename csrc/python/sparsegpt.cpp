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

template <class T, class Factor, class Sweep>
void bind_steps(py::module_& module, const char* factor_name, Factor factor, const char* sweep_name,
                Sweep sweep) {
  using Address = uintptr_t;
  module.def(factor_name, [=](Address h, int64_t S, int64_t D, double damp, Address factors,
                              int threads, py::object progress) {
    std::vector<double> damp_used(static_cast<size_t>(S));
    std::vector<int32_t> info(static_cast<size_t>(S));
    run(std::move(progress), [&](const spade_progress_t* target) {
      return factor(pointer<T>(h), S, D, damp, pointer<T>(factors), damp_used.data(), info.data(),
                    threads, target);
    });
    return std::make_pair(damp_used, info);
  });
  module.def(sweep_name, [=](Address w, int64_t w_stride, Address h, Address factors,
                             const std::vector<double>& damps, int64_t S, int64_t R, int64_t D,
                             double sparsity, int64_t block_size, Address out, int threads,
                             py::object progress) {
    if (static_cast<int64_t>(damps.size()) != S)
      throw py::value_error("spade_sparsegpt_sweep: damps must have one entry per sample");
    const spade_sparsegpt_t options{sparsity, block_size, 0, 0, 0.0, 0, {}};
    std::vector<double> losses(static_cast<size_t>(S));
    run(std::move(progress), [&](const spade_progress_t* target) {
      return sweep(pointer<T>(w), w_stride, pointer<T>(h), pointer<T>(factors), damps.data(), S, R,
                   D, &options, pointer<T>(out), losses.data(), threads, target);
    });
    return losses;
  });
}

}  // namespace

SPADE_BINDINGS(module) {
  bind<float>(module, "sparsegpt_prune_f32", spade_sparsegpt_prune_f32);
  bind<double>(module, "sparsegpt_prune_f64", spade_sparsegpt_prune_f64);
  bind_steps<float>(module, "sparsegpt_factor_f32", spade_sparsegpt_factor_f32,
                    "sparsegpt_sweep_f32", spade_sparsegpt_sweep_f32);
  bind_steps<double>(module, "sparsegpt_factor_f64", spade_sparsegpt_factor_f64,
                     "sparsegpt_sweep_f64", spade_sparsegpt_sweep_f64);
  module.def("sparsegpt_factor_size", spade_sparsegpt_factor_size);
}

}  // namespace spade::python

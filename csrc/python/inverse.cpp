#include "python/common.h"

namespace spade::python {

namespace {

// The damping that was used.
template <class T, class Call>
void bind(py::module_& module, const char* name, Call call) {
  using Address = uintptr_t;
  module.def(name, [=](Address h, int64_t D, double damp, Address hinv, int threads) {
    double damp_used = damp;
    run(py::none(), [&](const spade_progress_t* target) {
      return call(pointer<T>(h), D, damp, pointer<T>(hinv), nullptr, &damp_used, threads, target);
    });
    return damp_used;
  });
}

}  // namespace

SPADE_BINDINGS(module) {
  bind<float>(module, "damped_inverse_f32", spade_damped_inverse_f32);
  bind<double>(module, "damped_inverse_f64", spade_damped_inverse_f64);
}

}  // namespace spade::python

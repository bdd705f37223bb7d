#include "python/common.h"

namespace spade::python {

namespace {

template <class T, class Call>
double damped_inverse(Call call, uintptr_t h, int64_t D, double damp, uintptr_t hinv, int threads) {
  double damp_used = damp;
  run(py::none(), [&](const spade_progress_t* target) {
    return call(pointer<T>(h), D, damp, pointer<T>(hinv), &damp_used, threads, target);
  });
  return damp_used;
}

}  // namespace

void bind_inverse(py::module_& module) {
  module.def("damped_inverse_f32", [](uintptr_t h, int64_t D, double damp, uintptr_t hinv, int threads) {
    return damped_inverse<float>(spade_damped_inverse_f32, h, D, damp, hinv, threads);
  });
  module.def("damped_inverse_f64", [](uintptr_t h, int64_t D, double damp, uintptr_t hinv, int threads) {
    return damped_inverse<double>(spade_damped_inverse_f64, h, D, damp, hinv, threads);
  });
}

}  // namespace spade::python

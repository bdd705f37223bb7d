#include <pybind11/stl.h>

#include <utility>

#include "python/common.h"

namespace spade::python {

namespace {

// The damping that was used and the number of dead columns; damped may be 0.
template <class T, class Call>
void bind(py::module_& module, const char* name, Call call) {
  using Address = uintptr_t;
  module.def(name,
             [=](Address h, int64_t D, double damp, Address hinv, Address damped, int threads) {
               double damp_used = damp;
               run(py::none(), [&](const spade_progress_t* target) {
                 return call(pointer<T>(h), D, damp, pointer<T>(hinv), pointer<T>(damped),
                             &damp_used, threads, target);
               });
               int64_t dead = 0;
               for (int64_t j = 0; j < D; ++j) dead += pointer<T>(h)[j * D + j] == T(0);
               return std::make_pair(damp_used, dead);
             });
}

}  // namespace

void bind_inverse(py::module_& module) {
  bind<float>(module, "damped_inverse_f32", spade_damped_inverse_f32);
  bind<double>(module, "damped_inverse_f64", spade_damped_inverse_f64);
}

}  // namespace spade::python

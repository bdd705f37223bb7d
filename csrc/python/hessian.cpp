#include <pybind11/stl.h>

#include "python/declared.h"

namespace spade::python {

namespace {

using Address = uintptr_t;

// A function of a layer's inputs that adds to or writes H of type S.
template <class T, class S, class Conv>
void bind_conv2d(py::module_& module, const std::string& name, Conv conv2d) {
  module.def(name.c_str(), [=](Address x, const Conv2dFields& fields, int form, Address h,
                               int threads, py::object progress) {
    const spade_conv2d_t conv = conv2d_of(fields);
    run(std::move(progress), [&](const spade_progress_t* target) {
      return conv2d(pointer<T>(x), &conv, form, pointer<S>(h), threads, target);
    });
  });
}

}  // namespace

SPADE_BINDINGS(module) {
  SPADE_BIND(module, hessian_linear);
  SPADE_BIND(module, hessian_linear_set);
  bind_conv2d<float, double>(module, "hessian_conv2d_f32", spade_hessian_conv2d_f32);
  bind_conv2d<double, double>(module, "hessian_conv2d_f64", spade_hessian_conv2d_f64);
  bind_conv2d<float, float>(module, "hessian_conv2d_set_f32", spade_hessian_conv2d_set_f32);
  bind_conv2d<double, double>(module, "hessian_conv2d_set_f64", spade_hessian_conv2d_set_f64);
}

}  // namespace spade::python

#include <pybind11/stl.h>

#include <array>
#include <cstring>

#include "python/common.h"

namespace spade::python {

namespace {

// batch, channels, height, width and their strides, then kernel, stride, pads, dilation, groups:
// the order of the fields of spade_conv2d_t.
using Conv2d = std::array<int64_t, 19>;
static_assert(sizeof(Conv2d) == sizeof(spade_conv2d_t));

using Address = uintptr_t;

// A function of a layer's inputs that adds to or writes H of type S.
template <class T, class S, class Conv>
void bind_conv2d(py::module_& module, const std::string& name, Conv conv2d) {
  module.def(name.c_str(), [=](Address x, const Conv2d& fields, int form, Address h, int threads,
                               py::object progress) {
    spade_conv2d_t conv;
    std::memcpy(&conv, fields.data(), sizeof conv);
    run(std::move(progress), [&](const spade_progress_t* target) {
      return conv2d(pointer<T>(x), &conv, form, pointer<S>(h), threads, target);
    });
  });
}

template <class T, class S, class Linear>
void bind_linear(py::module_& module, const std::string& name, Linear linear) {
  module.def(name.c_str(), [=](Address x, int64_t N, int64_t D, int64_t ldx, Address h, int threads,
                               py::object progress) {
    run(std::move(progress), [&](const spade_progress_t* target) {
      return linear(pointer<T>(x), N, D, ldx, pointer<S>(h), threads, target);
    });
  });
}

}  // namespace

void bind_hessian(py::module_& module) {
  bind_linear<float, double>(module, "hessian_linear_f32", spade_hessian_linear_f32);
  bind_linear<double, double>(module, "hessian_linear_f64", spade_hessian_linear_f64);
  bind_linear<float, float>(module, "hessian_linear_set_f32", spade_hessian_linear_set_f32);
  bind_linear<double, double>(module, "hessian_linear_set_f64", spade_hessian_linear_set_f64);
  bind_conv2d<float, double>(module, "hessian_conv2d_f32", spade_hessian_conv2d_f32);
  bind_conv2d<double, double>(module, "hessian_conv2d_f64", spade_hessian_conv2d_f64);
  bind_conv2d<float, float>(module, "hessian_conv2d_set_f32", spade_hessian_conv2d_set_f32);
  bind_conv2d<double, double>(module, "hessian_conv2d_set_f64", spade_hessian_conv2d_set_f64);
}

}  // namespace spade::python

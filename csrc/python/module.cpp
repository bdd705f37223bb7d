#include <cmath>

#include "core/buffer.h"
#include "core/finite.h"
#include "python/common.h"

namespace spade::python {

int ProgressBridge::report(void* self, int64_t done, int64_t total) {
  auto* bridge = static_cast<ProgressBridge*>(self);
  py::gil_scoped_acquire held;
  bool failed = PyErr_CheckSignals() != 0;
  if (!failed && !bridge->callback_.is_none()) {
    PyObject* result = PyObject_CallFunction(
        bridge->callback_.ptr(), "LL", static_cast<long long>(done), static_cast<long long>(total));
    failed = result == nullptr;
    Py_XDECREF(result);
  }
  if (failed) {
    bridge->raised_ = true;
    PyErr_Fetch(&bridge->type_, &bridge->value_, &bridge->traceback_);
  }
  return failed;
}

void ProgressBridge::rethrow() {
  PyErr_Restore(type_, value_, traceback_);
  throw py::error_already_set();
}

const Bindings*& Bindings::first() {
  static const Bindings* first = nullptr;
  return first;
}

void check(spade_status_t status) {
  if (status == SPADE_SUCCESS) return;
  const char* text = spade_last_error();
  PyObject* type = PyExc_RuntimeError;
  if (status == SPADE_INVALID_ARGUMENT || status == SPADE_NOT_FINITE) type = PyExc_ValueError;
  if (status == SPADE_OUT_OF_MEMORY) type = PyExc_MemoryError;
  if (status == SPADE_SINGULAR) type = PyExc_ArithmeticError;
  PyErr_SetString(type, text);
  throw py::error_already_set();
}

}  // namespace spade::python

namespace {

template <class T>
bool is_finite(uintptr_t x, int64_t count) {
  spade::python::py::gil_scoped_release released;
  return !std::isnan(spade::largest(spade::python::pointer<T>(x), count));
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  using namespace spade::python;
  module.doc() =
      "Bindings of libspade: addresses and sizes in, results in place. Use spade_ext instead.";
  module.def("version", &spade_version);
  module.def("cpu_isa", &spade_cpu_isa);
  module.def("build_info", &spade_build_info);
  module.def("next_damp", &spade_next_damp);
  module.def("obc_fits_float", [](double mean, double most, double damp) {
    return spade_obc_fits_float(mean, most, damp) != 0;
  });
  module.def("advise_huge_pages", [](uintptr_t address, size_t bytes) {
    spade::advise_huge_pages(pointer<void>(address), bytes);
  });
  module.def("all_finite_f32", &is_finite<float>);
  module.def("all_finite_f64", &is_finite<double>);
  Bindings::add_all(module);
}

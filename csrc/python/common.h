// Shared by the bindings: status -> Python exception, progress -> Python callback and
// KeyboardInterrupt.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstring>

#include "spade/spade.h"

namespace spade::python {

namespace py = pybind11;

// Tensors cross the binding as addresses (tensor.data_ptr()); the Python layer has checked them.
template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Calls `callback(done, total)` (None: nothing) and lets signals be handled while a native call
// runs. A Python exception raised meanwhile cancels the call and is rethrown by run().
class ProgressBridge {
 public:
  explicit ProgressBridge(py::object callback) : callback_(std::move(callback)) {}

  const spade_progress_t* target() { return &target_; }
  bool raised() const { return raised_; }
  void rethrow();

 private:
  static int report(void* self, int64_t done, int64_t total);

  py::object callback_;
  spade_progress_t target_{&ProgressBridge::report, this, {}};
  bool raised_ = false;
  PyObject *type_ = nullptr, *value_ = nullptr, *traceback_ = nullptr;
};

// The fields of spade_conv2d_t in order, but for those that are reserved: batch, channels, height,
// width and their strides, then kernel, stride, pads, dilation, groups.
using Conv2dFields = std::array<int64_t, 19>;

inline spade_conv2d_t conv2d_of(const Conv2dFields& fields) {
  static_assert(sizeof fields == offsetof(spade_conv2d_t, reserved));
  spade_conv2d_t conv{};
  std::memcpy(&conv, fields.data(), sizeof fields);
  return conv;
}

// Turn a status into ValueError, SingularHessianError, MemoryError or RuntimeError.
void check(spade_status_t status);

// The status of call(progress), run without the GIL; raises what the callback raised.
template <class Call>
spade_status_t status_of(py::object callback, Call&& call) {
  ProgressBridge bridge(std::move(callback));
  spade_status_t status;
  {
    py::gil_scoped_release released;
    status = call(bridge.target());
  }
  if (bridge.raised()) bridge.rethrow();
  return status;
}

// Run call(progress) without the GIL; raise what the callback or the status says.
template <class Call>
void run(py::object callback, Call&& call) {
  check(status_of(std::move(callback), std::forward<Call>(call)));
}

// Adds the functions of one file to the module: SPADE_BINDINGS(module) { module.def(...); }
class Bindings {
 public:
  explicit Bindings(void (*add)(py::module_&)) : next_(first()), add_(add) { first() = this; }
  static void add_all(py::module_& module) {
    for (const Bindings* one = first(); one; one = one->next_) one->add_(module);
  }

 private:
  static const Bindings*& first();

  const Bindings* next_;
  void (*add_)(py::module_&);
};

#define SPADE_BINDINGS(module)                                                 \
  static void add_bindings(::spade::python::py::module_& module);              \
  static const ::spade::python::Bindings bindings_of_this_file(&add_bindings); \
  static void add_bindings(::spade::python::py::module_& module)

}  // namespace spade::python

// Shared by the bindings: status -> Python exception, progress -> Python callback and
// KeyboardInterrupt.
#pragma once

#include <pybind11/pybind11.h>

#include "spade/spade.h"

namespace spade::python {

namespace py = pybind11;

// Tensors cross the binding as addresses (tensor.data_ptr()); the Python layer has checked them.
template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Whether no entry is NaN or Inf: x * 0 is then 0 for all of them, and sums of that vectorise.
template <class T>
bool all_finite(const T* x, int64_t count) {
  T sum[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int k = 0; k < 16; ++k) sum[k] += x[i + k] * T(0);
  for (; i < count; ++i) sum[0] += x[i] * T(0);
  T total = 0;
  for (const T s : sum) total += s;
  return total == T(0);
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
  spade_progress_t target_{&ProgressBridge::report, this};
  bool raised_ = false;
  PyObject *type_ = nullptr, *value_ = nullptr, *traceback_ = nullptr;
};

// Turn a status into ValueError, SingularHessianError, MemoryError or RuntimeError.
void check(spade_status_t status);

// Run call(progress) without the GIL; raise what the callback or the status says.
template <class Call>
void run(py::object callback, Call&& call) {
  ProgressBridge bridge(std::move(callback));
  spade_status_t status;
  {
    py::gil_scoped_release released;
    status = call(bridge.target());
  }
  if (bridge.raised()) bridge.rethrow();
  check(status);
}

void bind_cuda(py::module_& module);
void bind_hessian(py::module_& module);
void bind_inverse(py::module_& module);
void bind_obc(py::module_& module);
void bind_sparsegpt(py::module_& module);

}  // namespace spade::python

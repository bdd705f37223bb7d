#include "python/common.h"

namespace spade::python {

void bind_hessian(py::module_&) {}

}  // namespace spade::python

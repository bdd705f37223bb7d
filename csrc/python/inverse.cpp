#include "python/common.h"

namespace spade::python {

void bind_inverse(py::module_&) {}

}  // namespace spade::python

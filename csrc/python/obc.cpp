#include "python/common.h"

namespace spade::python {

void bind_obc(py::module_&) {}

}  // namespace spade::python

#include "python/common.h"

namespace spade::python {

void bind_sparsegpt(py::module_&) {}

}  // namespace spade::python

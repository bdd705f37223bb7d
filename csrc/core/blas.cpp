#include "core/blas.h"

#include <mutex>

#if defined(SPADE_SCIPY_OPENBLAS)
extern "C" void scipy_openblas_set_num_threads(int threads);
#endif

namespace spade::blas {

void use_one_thread() {
#if defined(SPADE_SCIPY_OPENBLAS)
  static std::once_flag once;
  std::call_once(once, [] { scipy_openblas_set_num_threads(1); });
#endif
}

}  // namespace spade::blas

#include "core/blas.h"

#include <mutex>

#if defined(SPADE_SCIPY_OPENBLAS)
extern "C" {
void scipy_openblas_set_num_threads(int threads);
char* scipy_openblas_get_config(void);
}
#endif

namespace spade::blas {

void use_one_thread() {
#if defined(SPADE_SCIPY_OPENBLAS)
  static std::once_flag once;
  std::call_once(once, [] { scipy_openblas_set_num_threads(1); });
#endif
}

std::string name() {
#if defined(SPADE_SCIPY_OPENBLAS)
  return std::string("scipy-openblas32, ") + scipy_openblas_get_config();
#else
  return "system";
#endif
}

}  // namespace spade::blas

#include <string>

#include "core/blas.h"
#include "spade/spade.h"

extern "C" const char* spade_version(void) { return SPADE_VERSION; }

#define SPADE_TEXT_OF(x) #x
#define SPADE_TEXT(x) SPADE_TEXT_OF(x)
#if defined(SPADE_X86_VARIANTS)
#define SPADE_KERNELS "plain avx2 avx512"
#else
#define SPADE_KERNELS "plain"
#endif

extern "C" const char* spade_build_info(void) {
  static const std::string text =
      std::string("{\"compiler\": \"" SPADE_COMPILER "\", \"kernels\": \"" SPADE_KERNELS
                  "\", \"openmp\": \"" SPADE_TEXT(_OPENMP) "\", \"blas\": \"") +
      spade::blas::name() + "\"}";
  return text.c_str();
}

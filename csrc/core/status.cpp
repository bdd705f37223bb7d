#include "core/status.h"

#include <cstdio>

#include "core/blas.h"

namespace spade {
namespace {
thread_local char last_error[512] = "";
}

void set_last_error(const char* text) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s", text);
}

void fail(spade_status_t status, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Failure(status, text);
}

}  // namespace spade

extern "C" const char* spade_last_error(void) { return spade::last_error; }

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

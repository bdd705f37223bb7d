#include "core/status.h"

#include <cstdio>

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

extern "C" const char* spade_build_info(void) {
  return "{\"compiler\": \"" SPADE_COMPILER
         "\", \"blas\": \""
#if defined(SPADE_SCIPY_OPENBLAS)
         "scipy-openblas32"
#else
         "system"
#endif
         "\", \"openmp\": \"" SPADE_TEXT(_OPENMP) "\"}";
}

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

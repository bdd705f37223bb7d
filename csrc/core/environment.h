// Environment variables.
#pragma once

#include <cstdlib>

namespace spade {

// The variable, or NULL if there is none or if the process runs with rights that its user lacks
// (setuid): who starts such a process must not choose what it loads.
inline const char* environment(const char* name) {
#if defined(__GLIBC__)
  return secure_getenv(name);
#else
  return std::getenv(name);
#endif
}

}  // namespace spade

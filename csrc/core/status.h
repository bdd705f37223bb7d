// Failures inside libspade: thrown as Failure, turned into a status and a per-thread text by
// guarded().
#pragma once

#include <cstdarg>
#include <exception>
#include <new>
#include <string>

#include "spade/spade.h"

namespace spade {

struct Failure : std::exception {
  spade_status_t status;
  std::string text;
  Failure(spade_status_t s, std::string t) : status(s), text(std::move(t)) {}
  const char* what() const noexcept override { return text.c_str(); }
};

// Throw a Failure with a printf-style text.
[[noreturn]] void fail(spade_status_t status, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

void set_last_error(const char* text) noexcept;

// Run the body of a C API function; no exception leaves it.
template <class Body>
spade_status_t guarded(Body&& body) noexcept {
  set_last_error("");
  try {
    body();
    return SPADE_SUCCESS;
  } catch (const Failure& failure) {
    set_last_error(failure.what());
    return failure.status;
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory");
    return SPADE_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return SPADE_INTERNAL;
  }
}

}  // namespace spade

// Check one argument of a C API function: names the function, the argument, expected and got.
#define SPADE_CHECK(condition, ...)                                       \
  do {                                                                    \
    if (!(condition)) ::spade::fail(SPADE_INVALID_ARGUMENT, __VA_ARGS__); \
  } while (0)

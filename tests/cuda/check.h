// Checks for tests of kernels under the emulation: device memory is heap memory of the exact size,
// poisoned, and each test body runs under three schedules.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/launch.h"

inline int g_failures = 0;
#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::printf("%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      ++g_failures;                                                             \
    }                                                                           \
  } while (0)

// A call that must succeed.
#define CHECK_SUCCESS(call)                                                          \
  do {                                                                               \
    if ((call) != SPADE_SUCCESS) {                                                   \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, spade_last_error()); \
      ++g_failures;                                                                  \
    }                                                                                \
  } while (0)

// A call that must fail with `status` and a text that contains `text`.
#define CHECK_FAILS(call, expected, text)                                                \
  do {                                                                                   \
    const spade_status_t got = (call);                                                   \
    if (got != (expected) || !std::strstr(spade_last_error(), text)) {                   \
      std::printf("%s:%d: %s: status %d, text \"%s\"\n", __FILE__, __LINE__, #call, got, \
                  spade_last_error());                                                   \
      ++g_failures;                                                                      \
    }                                                                                    \
  } while (0)

// Memory as a kernel sees it: `count` entries, aligned as workspaces are, bytes 0xFF (NaN, -1), and
// not one byte more for AddressSanitizer.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count) : count_(static_cast<size_t>(count)) {
    if (posix_memalign(&memory_, spade::cuda::kAlignment, count_ ? count_ * sizeof(T) : 1))
      std::abort();
    poison();
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    if (count_) std::memcpy(memory_, values.data(), count_ * sizeof(T));
  }
  ~DeviceArray() { std::free(memory_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  void poison() { std::memset(memory_, 0xFF, count_ * sizeof(T)); }
  T* get() { return static_cast<T*>(memory_); }
  const T* get() const { return static_cast<const T*>(memory_); }
  T& operator[](int64_t i) { return get()[i]; }
  const T& operator[](int64_t i) const { return get()[i]; }
  int64_t size() const { return static_cast<int64_t>(count_); }
  std::vector<T> values() const { return {get(), get() + count_}; }

 private:
  size_t count_;
  void* memory_ = nullptr;
};

// Run `body` with the threads of each block and the blocks of each grid in reverse and in random
// order; what has run before this has run in order.
template <class Body>
void for_other_schedules(Body&& body) {
  using spade::emulation::Schedule;
  for (const Schedule s : {Schedule::kReverse, Schedule::kRandom}) {
    spade::emulation::schedule = s;
    body();
  }
  spade::emulation::schedule = Schedule::kForward;
}

template <class Body>
void for_each_schedule(Body&& body) {
  body();
  for_other_schedules(body);
}

// max |a - b| / max |b|
template <class A, class B>
double relative_error(const A& a, const B& b, int64_t count) {
  double error = 0, size = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double difference = std::fabs(double(a[i]) - double(b[i]));
    if (!(difference <= error)) error = difference;  // NaN stays
    size = std::fmax(size, std::fabs(double(b[i])));
  }
  return size > 0 ? error / size : error;
}

inline int report() {
  if (g_failures) std::printf("%d checks failed\n", g_failures);
  return g_failures ? 1 : 0;
}

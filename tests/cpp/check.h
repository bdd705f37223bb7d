// What the C++ tests share: test cases by name, CHECK, random layers, and the dense algebra they
// are checked against. One file of tests includes it: it has main.
#pragma once

#include <spade/spade.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::fprintf(stderr, "%s:%d: %s\n(%s)\n", __FILE__, __LINE__, #condition, \
                   spade_last_error());                                         \
      std::exit(1);                                                             \
    }                                                                           \
  } while (0)

#define CHECK_OK(call) CHECK((call) == SPADE_SUCCESS)

// The call fails with the status and a text that holds `part`.
#define CHECK_FAILS(call, status, part) \
  CHECK((call) == (status) && std::string(spade_last_error()).find(part) != std::string::npos)

struct TestCase {
  const char* name;
  void (*run)();
};

inline std::vector<TestCase>& test_cases() {
  static std::vector<TestCase> all;
  return all;
}

// TEST_CASE(name) { ... } is run by `test_file`, which runs all, and by `test_file name`.
#define TEST_CASE(name)                                                            \
  void name();                                                                     \
  const bool name##_is_registered = (test_cases().push_back({#name, name}), true); \
  void name()

// Without arguments all cases, with --list their names, otherwise the cases that are named.
int main(int argc, char** argv) {
  if (argc == 2 && !std::strcmp(argv[1], "--list")) {
    for (const TestCase& test : test_cases()) std::puts(test.name);
    return 0;
  }
  int run = 0;
  for (const TestCase& test : test_cases()) {
    bool chosen = argc == 1;
    for (int i = 1; i < argc; ++i) chosen = chosen || !std::strcmp(argv[i], test.name);
    if (!chosen) continue;
    test.run();
    ++run;
  }
  if (run < std::max(1, argc - 1)) {
    std::fprintf(stderr, "%s: no such test case; --list names them\n", argv[0]);
    return 1;
  }
  std::printf("%d test cases passed\n", run);
  return 0;
}

template <class T>
std::vector<T> normal(int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> distribution;
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) value = static_cast<T>(distribution(generator));
  return values;
}

// X^T X of N rows of D.
template <class T>
std::vector<double> gram(const std::vector<T>& x, int64_t N, int64_t D) {
  std::vector<double> h(static_cast<size_t>(D * D), 0.0);
  for (int64_t k = 0; k < N; ++k)
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = 0; j < D; ++j)
        h[i * D + j] += static_cast<double>(x[k * D + i]) * static_cast<double>(x[k * D + j]);
  return h;
}

// A well-conditioned Hessian: 16 rows and a ridge.
template <class T>
std::vector<T> hessian_of(int64_t D, unsigned seed) {
  std::vector<double> h = gram(normal<double>(16 * D, seed), 16, D);
  for (int64_t i = 0; i < D; ++i) h[i * D + i] += 16;
  return std::vector<T>(h.begin(), h.end());
}

template <class T>
bool close(T a, double b, double relative) {
  return std::abs(static_cast<double>(a) - b) <= relative * (1 + std::abs(b));
}

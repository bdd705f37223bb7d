// spade_cuda_obc_trace_pattern under the emulation: orders, losses and stops of the CPU library.
#include <array>
#include <random>

#include "check.h"
#include "cuda/ops.h"

namespace {

template <class T>
struct PatternProblem {
  int64_t R, D;
  std::vector<T> w, hinv;  // [R, D], [G, D, D]
  int64_t G = 1;
};

// A = V V^T / k + 0.05 I: correlated columns, condition about 1e3. Each eighth weight is zero.
template <class T>
PatternProblem<T> random_problem(int64_t R, int64_t D, unsigned seed) {
  constexpr int64_t k = 16;
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  PatternProblem<T> p{R, D, std::vector<T>(R * D), std::vector<T>(D * D)};
  std::vector<double> v(D * k);
  for (double& x : v) x = normal(generator);
  for (T& x : p.w) x = generator() % 8 ? normal(generator) : 0;
  for (int64_t i = 0; i < D; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = i == j ? 0.05 : 0;
      for (int64_t q = 0; q < k; ++q) sum += v[i * k + q] * v[j * k + q] / k;
      p.hinv[i * D + j] = p.hinv[j * D + i] = static_cast<T>(sum);
    }
  return p;
}

template <class T>
struct Result {
  std::vector<int32_t> order, info;
  std::vector<T> loss;
  bool operator==(const Result& other) const {
    return order == other.order && info == other.info &&
           std::memcmp(loss.data(), other.loss.data(), loss.size() * sizeof(T)) == 0;
  }
};

int64_t steps_of(const spade_obc_pattern_t& p, int64_t D) {
  return p.m > 0 ? D / p.m * p.n : p.steps;
}

spade_status_t entry(const float* w, const float* hinv, int64_t R, int64_t G, int64_t D,
                     const spade_obc_pattern_t& p, int32_t* order, float* loss, int32_t* info,
                     void* memory, size_t bytes) {
  return spade::cuda::obc_trace_pattern_f32(w, hinv, R, G, D, &p, order, loss, info, memory, bytes,
                                            nullptr);
}
spade_status_t entry(const double* w, const double* hinv, int64_t R, int64_t G, int64_t D,
                     const spade_obc_pattern_t& p, int32_t* order, double* loss, int32_t* info,
                     void* memory, size_t bytes) {
  return spade::cuda::obc_trace_pattern_f64(w, hinv, R, G, D, &p, order, loss, info, memory, bytes,
                                            nullptr);
}

template <class T>
Result<T> run(const PatternProblem<T>& p, const spade_obc_pattern_t& pattern,
              size_t limit = SIZE_MAX) {
  const int64_t steps = steps_of(pattern, p.D);
  const DeviceArray<T> w(p.w), hinv(p.hinv);
  DeviceArray<int32_t> order(p.R * steps), info(p.R);
  DeviceArray<T> loss(p.R * steps);
  size_t bytes = 0;
  CHECK_SUCCESS(spade::cuda::obc_trace_pattern_workspace_bytes(p.R, p.D, &pattern, limit, &bytes));
  DeviceArray<char> memory(static_cast<int64_t>(bytes));
  CHECK_SUCCESS(entry(w.get(), hinv.get(), p.R, p.G, p.D, pattern, order.get(), loss.get(),
                      info.get(), memory.get(), bytes));
  return {order.values(), info.values(), loss.values()};
}

// In double by the CPU library, from the same numbers.
template <class T>
Result<double> expected(const PatternProblem<T>& p, const spade_obc_pattern_t& pattern) {
  const int64_t steps = steps_of(pattern, p.D);
  const std::vector<double> w(p.w.begin(), p.w.end()), hinv(p.hinv.begin(), p.hinv.end());
  Result<double> result{std::vector<int32_t>(p.R * steps), std::vector<int32_t>(p.R),
                        std::vector<double>(p.R * steps)};
  int32_t *order = result.order.data(), *info = result.info.data();
  double* loss = result.loss.data();
  if (pattern.block > 1)
    CHECK_SUCCESS(spade_obc_trace_block_f64(w.data(), hinv.data(), p.R, p.D, pattern.block, order,
                                            loss, info, 1, nullptr));
  else if (pattern.m > 0)
    CHECK_SUCCESS(spade_obc_trace_nm_f64(w.data(), hinv.data(), p.R, p.D, pattern.n, pattern.m,
                                         order, loss, info, 1, nullptr));
  else
    CHECK_SUCCESS(
        spade_obc_trace_f64(w.data(), hinv.data(), p.R, p.D, steps, order, loss, info, 1, nullptr));
  return result;
}

template <class T>
void compare(const PatternProblem<T>& p, const spade_obc_pattern_t& pattern) {
  const Result<T> got = run(p, pattern);
  const Result<double> want = expected(p, pattern);
  CHECK(got.order == want.order);
  CHECK(got.info == want.info);
  const double tolerance = sizeof(T) == sizeof(double) ? 1e-9 : 1e-6;
  for (size_t i = 0; i < want.loss.size(); ++i)
    CHECK(want.order[i] < 0 ? std::isnan(got.loss[i])
                            : std::fabs(got.loss[i] - want.loss[i]) <= tolerance * want.loss[i]);
}

spade_obc_pattern_t columns(int64_t steps) { return {steps, 0, 0, 1}; }
spade_obc_pattern_t groups(int64_t n, int64_t m) { return {0, n, m, 1}; }
spade_obc_pattern_t blocks(int64_t D, int64_t c) { return {D / c, 0, 0, c}; }

void test_orders() {
  for (const int64_t D : {1, 2, 31, 33, 65, 257})
    compare(random_problem<double>(2, D, 1), columns(D));
  compare(random_problem<float>(3, 40, 2), columns(17));
  compare(random_problem<double>(2, 64, 3), groups(2, 4));
  compare(random_problem<float>(2, 72, 4), groups(5, 8));
  compare(random_problem<double>(2, 30, 5), groups(30, 30));
  for (const int64_t c : {2, 3, 4, 5, 8, 9, 16, 32})
    compare(random_problem<double>(2, c * 9, 6), blocks(c * 9, c));
  compare(random_problem<float>(2, 132, 7), blocks(132, 4));
}

// Blocks wider than a warp, and of many threads' columns; D below, at and above a block of threads.
void test_wide_blocks() {
  const int64_t sizes[][2] = {{33, 3}, {48, 5},  {64, 1},  {64, 4},
                              {85, 3}, {129, 2}, {150, 2}, {257, 1}};
  for (const auto [c, count] : sizes)
    compare(random_problem<double>(1, c * count, 6), blocks(c * count, c));
  compare(random_problem<float>(2, 192, 7), blocks(192, 64));
  compare(random_problem<float>(2, 48, 8), blocks(48, 48));
}

// More columns than the fast kernels take.
void test_many_columns() {
  const int64_t D = 4640;
  PatternProblem<float> p{1, D, std::vector<float>(D), std::vector<float>(D * D, 0.0f)};
  for (int64_t j = 0; j < D; ++j) {
    p.w[j] = 1.0f + static_cast<float>(j * 7 % D);
    p.hinv[j * D + j] = 1.0f;
    if (j) p.hinv[j * D + j - 1] = p.hinv[(j - 1) * D + j] = 0.3f;
  }
  compare(p, columns(4));
}

void test_schedules() {
  for (const spade_obc_pattern_t& pattern :
       {columns(40), groups(2, 4), blocks(40, 4), blocks(40, 20), blocks(40, 40)}) {
    const PatternProblem<double> p = random_problem<double>(3, 40, 9);
    const Result<double> first = run(p, pattern);
#ifdef __SANITIZE_THREAD__
    continue;
#endif
    CHECK(run(p, pattern, 1) == first);
    for_other_schedules([&] { CHECK(run(p, pattern) == first); });
  }
}

// Rows of several matrices: each matrix's rows come out as when it is alone, in chunks that cut
// across matrices too.
template <class T>
void test_matrices(const spade_obc_pattern_t& pattern) {
  constexpr int64_t rows = 2, D = 20, G = 3;
  PatternProblem<T> all{G * rows, D, {}, {}, G};
  Result<T> expected;
  for (unsigned g = 0; g < G; ++g) {
    const PatternProblem<T> p = random_problem<T>(rows, D, 10 + g);
    const Result<T> one = run(p, pattern);
    all.w.insert(all.w.end(), p.w.begin(), p.w.end());
    all.hinv.insert(all.hinv.end(), p.hinv.begin(), p.hinv.end());
    expected.order.insert(expected.order.end(), one.order.begin(), one.order.end());
    expected.info.insert(expected.info.end(), one.info.begin(), one.info.end());
    expected.loss.insert(expected.loss.end(), one.loss.begin(), one.loss.end());
  }
  for_other_schedules([&] { CHECK(run(all, pattern) == expected); });
  CHECK(run(all, pattern, 1) == expected);
}

// Equal scores: lowest block first.
void test_ties() {
  PatternProblem<float> p{1, 12, std::vector<float>(12, 1.0f), std::vector<float>(144, 0.0f)};
  for (int64_t j = 0; j < 12; ++j) p.hinv[j * 13] = 1.0f;
  for (const int64_t c : {1, 3}) {
    const Result<float> result = run(p, blocks(12, c));
    for (int64_t k = 0; k < 12 / c; ++k) CHECK(result.order[k] == k);
  }
}

// Rows stop where the CPU's do: A_pp < 0 or = 0 from the start, A_pp < 0 after some steps; p is the
// first, a middle or the last column of its block.
void test_stops() {
  for (const auto [D, c, p] : {std::array<int64_t, 3>{10, 1, 9},
                               {10, 2, 8},
                               {10, 2, 9},
                               {99, 33, 66},
                               {99, 33, 81},
                               {99, 33, 98},
                               {48, 48, 20}})
    for (const double there : {-1.0, 0.0, 0.5}) {
      PatternProblem<double> x{2, D, std::vector<double>(2 * D), std::vector<double>(D * D, 0.0)};
      for (int64_t j = 0; j < 2 * D; ++j) x.w[j] = 1.0 + j * 7 % 31 + j % D;
      for (int64_t j = 0; j < D; ++j) x.hinv[j * D + j] = 1.0;
      x.hinv[p * D + p] = there;
      if (there > 0) x.hinv[p] = x.hinv[p * D] = 2.0;
      compare(x, blocks(D, c));
      CHECK(run(x, blocks(D, c)).info[0] > 0);
    }
}

// A row of wide blocks needs U and twice its A_bb; chunks stay within the limit.
void test_memory() {
  const int64_t D = 96, R = 5;
  for (const int64_t c : {1, 48, 96}) {
    const auto bytes = [&](int64_t rows, size_t limit) {
      const spade_obc_pattern_t pattern = blocks(D, c);
      size_t size = 0;
      CHECK_SUCCESS(
          spade::cuda::obc_trace_pattern_workspace_bytes(rows, D, &pattern, limit, &size));
      return size;
    };
    const size_t one = bytes(1, 0);
    CHECK(one >= sizeof(double) * static_cast<size_t>(D * D + 2 * c * D));
    CHECK(bytes(R, 0) == one && bytes(R, 3 * one) <= 3 * one && bytes(R, 3 * one) > one);
    CHECK(bytes(R, SIZE_MAX) > 3 * one);
    for (const size_t limit : {3 * one, SIZE_MAX})  // the memory of a plan is enough for it
      CHECK(bytes(R, bytes(R, limit)) == bytes(R, limit));
    const PatternProblem<double> p = random_problem<double>(R, D, 9);
    CHECK(run(p, blocks(D, c), 2 * one) == run(p, blocks(D, c)));
  }
}

void test_arguments() {
  const float w[4] = {1, 2, 3, 4};
  float hinv[16] = {}, loss[4];
  int32_t order[4], info[1] = {7};
  for (int j = 0; j < 4; ++j) hinv[5 * j] = 1;
  const auto call = [&](const spade_obc_pattern_t& p) {
    return entry(w, hinv, 1, 1, 4, p, order, loss, info, nullptr, 0);
  };
  const auto refused = [&](const spade_obc_pattern_t& p, const char* text) {
    CHECK_FAILS(call(p), SPADE_INVALID_ARGUMENT, text);
  };
  refused({4, 0, 0, 0}, "block must be >= 1 and divide D = 4, got 0");
  refused({4, 0, 0, 3}, "divide D = 4, got 3");
  refused({4, 0, 0, -2}, "block must be >= 1 and divide D = 4, got -2");
  refused({1, 0, 0, 64}, "divide D = 4, got 64");
  refused({0, 1, 3, 1}, "m must divide D = 4, got 3");
  refused({0, 3, 2, 1}, "n must be in [0, m = 2], got 3");
  refused({0, 1, 2, 2}, "block must be 1 with n:m, got 2");
  refused({5, 0, 0, 1}, "steps must be in [0, D / block = 4], got 5");
  refused({4, 0, 0, 1}, "workspace_bytes must be at least");
  CHECK_SUCCESS(call({0, 0, 0, 1}));
  CHECK(info[0] == 0);
}

}  // namespace

int main() {
  test_schedules();
#ifdef __SANITIZE_THREAD__  // races show in one schedule, whatever the numbers
  return report();
#endif
  test_orders();
  test_matrices<float>(columns(20));
  test_matrices<double>(groups(2, 4));
  test_matrices<float>(blocks(20, 4));
  test_wide_blocks();
  test_many_columns();
  test_ties();
  test_stops();
  test_memory();
  test_arguments();
  return report();
}

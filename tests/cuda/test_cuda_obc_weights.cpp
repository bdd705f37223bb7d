// spade_cuda_obc_weights under the emulation against spade_obc_weights_f64.
#include <random>

#include "check.h"
#include "cuda/ops.h"

namespace {

struct WeightsProblem {
  int64_t R, D;
  std::vector<float> w, h, hinv;
  std::vector<int32_t> order;   // [R, D], random
  std::vector<int64_t> counts;  // [R]
  int64_t G = 1;                // matrices in h and hinv
};

WeightsProblem random_problem(int64_t D, const std::vector<int64_t>& counts, unsigned seed) {
  const int64_t R = static_cast<int64_t>(counts.size());
  WeightsProblem p{R,
                   D,
                   std::vector<float>(R * D),
                   std::vector<float>(D * D),
                   std::vector<float>(D * D),
                   std::vector<int32_t>(R * D),
                   counts};
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (float& x : p.w) x = normal(generator);
  std::vector<float> x(D * 8), raw(D * D);
  for (float& e : x) e = normal(generator);
  for (int64_t i = 0; i < D; ++i)
    for (int64_t j = 0; j < D; ++j)
      for (int64_t k = 0; k < 8; ++k) raw[i * D + j] += x[i * 8 + k] * x[j * 8 + k];
  double damp = 0;
  CHECK_SUCCESS(
      spade_damped_inverse_f32(raw.data(), D, 0.05, p.hinv.data(), p.h.data(), &damp, 1, nullptr));
  for (int64_t r = 0; r < R; ++r) {
    const auto row = p.order.begin() + r * D;
    for (int64_t j = 0; j < D; ++j) row[j] = static_cast<int32_t>(j);
    std::shuffle(row, row + D, generator);
  }
  return p;
}

struct Result {
  std::vector<float> out;
  std::vector<int32_t> info;
};

Result run(const WeightsProblem& p, size_t limit) {
  const DeviceArray<float> w(p.w), h(p.h), hinv(p.hinv);
  const DeviceArray<int32_t> order(p.order);
  const DeviceArray<int64_t> counts(p.counts);
  DeviceArray<float> out(p.R * p.D);
  DeviceArray<int32_t> info(p.R);
  size_t bytes = 0;
  CHECK_SUCCESS(spade::cuda::obc_weights_workspace_bytes(p.R, p.D, limit, &bytes));
  DeviceArray<char> memory(static_cast<int64_t>(bytes));
  CHECK_SUCCESS(spade::cuda::obc_weights(w.get(), h.get(), hinv.get(), p.R, p.G, p.D, p.D,
                                         order.get(), counts.get(), out.get(), info.get(),
                                         memory.get(), bytes, nullptr));
  return {out.values(), info.values()};
}

bool same(const Result& a, const Result& b) { return a.out == b.out && a.info == b.info; }

// The same numbers in double.
void check_double(const WeightsProblem& p, const std::vector<double>& w,
                  const std::vector<double>& h, const std::vector<double>& hinv,
                  const std::vector<double>& expected, const std::vector<int32_t>& expected_info) {
  const DeviceArray<double> on_w(w), on_h(h), on_hinv(hinv);
  const DeviceArray<int32_t> order(p.order);
  const DeviceArray<int64_t> counts(p.counts);
  DeviceArray<double> out(p.R * p.D);
  DeviceArray<int32_t> info(p.R);
  size_t bytes = 0;
  CHECK_SUCCESS(spade::cuda::obc_weights_workspace_bytes(p.R, p.D, SIZE_MAX, &bytes));
  DeviceArray<char> memory(static_cast<int64_t>(bytes));
  CHECK_SUCCESS(spade::cuda::obc_weights_f64(on_w.get(), on_h.get(), on_hinv.get(), p.R, p.G, p.D,
                                             p.D, order.get(), counts.get(), out.get(), info.get(),
                                             memory.get(), bytes, nullptr));
  CHECK(info.values() == expected_info);
  CHECK(relative_error(out.values(), expected, p.R * p.D) < 1e-11);
}

void check_weights(int64_t D, const std::vector<int64_t>& counts) {
  const WeightsProblem p = random_problem(D, counts, static_cast<unsigned>(D));
  const Result result = run(p, SIZE_MAX);
  const std::vector<double> w(p.w.begin(), p.w.end()), h(p.h.begin(), p.h.end());
  const std::vector<double> hinv(p.hinv.begin(), p.hinv.end());
  std::vector<double> out(p.R * D);
  std::vector<int32_t> info(p.R);
  CHECK_SUCCESS(spade_obc_weights_f64(w.data(), h.data(), hinv.data(), p.R, D, D, p.order.data(),
                                      p.counts.data(), out.data(), info.data(), 1, nullptr));
  CHECK(result.info == info);
  CHECK(relative_error(result.out, out, p.R * D) < 1e-6);
  check_double(p, w, h, hinv, out, info);
  for (int64_t r = 0; r < p.R; ++r)
    for (int64_t k = 0; k < counts[r]; ++k) CHECK(result.out[r * D + p.order[r * D + k]] == 0.0f);
}

// A row whose matrix is not positive definite, or whose order is not one, leaves the others alone.
void test_failures() {
  WeightsProblem p = random_problem(20, {5, 15, 0, 20, 21, 4, 18}, 1);
  p.hinv[3 * 20 + 3] = -1.0f;
  p.order[0] = 3;
  p.order[5 * 20] = -1;
  p.order[6 * 20] = p.order[6 * 20 + 1];
  const Result result = run(p, SIZE_MAX);
  CHECK((result.info == std::vector<int32_t>{1, 0, 0, 0, 1, 1, 1}));
  for (int j = 0; j < 20; ++j) CHECK(result.out[40 + j] == p.w[40 + j]);
  for (int j = 0; j < 20; ++j) CHECK(result.out[60 + j] == 0.0f);
}

void test_chunks() {
  const auto bytes_within = [](int64_t R, size_t limit) {
    size_t bytes = 0;
    CHECK_SUCCESS(spade::cuda::obc_weights_workspace_bytes(R, 30, limit, &bytes));
    return bytes;
  };
  const WeightsProblem p = random_problem(30, {3, 10, 15, 20, 29}, 2);
  const Result all = run(p, SIZE_MAX);
  CHECK(same(run(p, 2 * bytes_within(1, SIZE_MAX)), all));
  CHECK(same(run(p, 0), all));
  for (const int64_t R : {2, 5, 256}) {
    const size_t all_rows = bytes_within(R, SIZE_MAX);
    CHECK(bytes_within(R, all_rows) == all_rows && bytes_within(R, all_rows - 1) < all_rows);
  }
  size_t bytes = 0;  // a 512 x 4608 layer on 24 GB
  CHECK_SUCCESS(spade::cuda::obc_weights_workspace_bytes(512, 4608, size_t(20) << 30, &bytes));
  CHECK(bytes > size_t(10) << 30 && bytes <= size_t(20) << 30);
}

// Rows of several matrices: each matrix's rows come out as when it is alone, in chunks that cut
// across matrices too.
void test_matrices(int64_t D) {
  constexpr int64_t G = 3;
  const std::vector<int64_t> counts = {D / 3, D - 1};
  WeightsProblem all{2 * G, D, {}, {}, {}, {}, {}, G};
  Result expected;
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (unsigned g = 0; g < G; ++g) {
    const WeightsProblem p = random_problem(D, counts, 10 + g);
    const Result one = run(p, SIZE_MAX);
    append(all.w, p.w);
    append(all.h, p.h);
    append(all.hinv, p.hinv);
    append(all.order, p.order);
    append(all.counts, p.counts);
    append(expected.out, one.out);
    append(expected.info, one.info);
  }
  for_other_schedules([&] { CHECK(same(run(all, SIZE_MAX), expected)); });
  CHECK(same(run(all, 0), expected));
}

void test_arguments() {
  using spade::cuda::obc_weights;
  float x[1] = {1};
  int32_t order[1] = {0}, info[1];
  const int64_t counts[1] = {0};
  const auto call = [&](int64_t D, int64_t steps, float* out) {
    return obc_weights(x, x, x, 1, 1, D, steps, order, counts, out, info, nullptr, 0, nullptr);
  };
  CHECK_FAILS(call(1, 2, x), SPADE_INVALID_ARGUMENT, "steps must be in [0, D = 1], got 2");
  CHECK_FAILS(call(1, 1, nullptr), SPADE_INVALID_ARGUMENT, "out must not be NULL");
  CHECK_FAILS(call(1, 1, x), SPADE_INVALID_ARGUMENT, "workspace_bytes must be at least");
  CHECK_FAILS(call(-1, 0, x), SPADE_INVALID_ARGUMENT, "D must be in");
}

}  // namespace

int main() {
#ifdef __SANITIZE_THREAD__    // races show in one schedule, whatever the numbers
  check_weights(260, {129});  // three tiles, by the pruned columns
  check_weights(9, {5});      // by those kept
  return report();
#endif
  const WeightsProblem p = random_problem(135, {68}, 3);
  const Result expected = run(p, SIZE_MAX);
  for_other_schedules([&] { CHECK(same(run(p, SIZE_MAX), expected)); });
  for (const int64_t D : {1, 2, 7, 33}) check_weights(D, {0, D / 2, (D + 1) / 2, D});
  check_weights(128, {63, 64, 65});
  check_weights(131, {65, 66, 130});
  check_weights(260, {129, 131});
  for (const int64_t D : {9, 49, 70}) test_matrices(D);
  test_chunks();
  test_failures();
  test_arguments();
  return report();
}

// spade_cuda_obc_trace_nm under the emulation: orders, losses and stops as on the CPU.
#include "obc_problem.h"

namespace {

Elimination pattern(int64_t D, int64_t n, int64_t m) { return {D, D / m * n, n, m}; }

void check_pattern(ObcForm form, int64_t R, int64_t D, int64_t n, int64_t m,
                   int update = SPADE_OBC_UPDATE_FFMA) {
  const Elimination e = pattern(D, n, m);
  const ObcProblem p = random_problem(R, D, static_cast<unsigned>(D + m));
  const Result result = run(p, form, e, update);
  for (int64_t r = 0; r < R; ++r) check_row(p, result, r, e);

  const std::vector<double> w(p.w.begin(), p.w.end()), hinv(p.hinv.begin(), p.hinv.end());
  std::vector<double> loss(R * e.steps);
  std::vector<int32_t> order(R * e.steps), info(R);
  CHECK_SUCCESS(spade_obc_trace_nm_f64(w.data(), hinv.data(), R, D, n, m, order.data(), loss.data(),
                                       info.data(), 1, nullptr));
  for (int64_t i = 0; i < R * e.steps; ++i)
    CHECK(std::fabs(result.loss[i] - loss[i]) <= 2e-4 * loss[i]);
}

// A = I and equal weights: the first n columns of each group, group after group.
void test_ties(ObcForm form, int64_t D, int64_t n, int64_t m) {
  ObcProblem p{1, D, std::vector<float>(D, 1.0f), std::vector<float>(D * D, 0.0f)};
  for (int64_t j = 0; j < D; ++j) p.hinv[j * D + j] = 1.0f;
  const Elimination e = pattern(D, n, m);
  const Result result = run(p, form, e, SPADE_OBC_UPDATE_FP16);
  for (int64_t k = 0; k < e.steps; ++k) CHECK(result.order[k] == k / n * m + k % n);
}

// Negative A_pp of a column that its group keeps do no harm; of one that may go, they stop the row.
void test_stops(ObcForm form, int64_t D) {
  ObcProblem p{1, D, std::vector<float>(D), std::vector<float>(D * D, 0.0f)};
  for (int64_t j = 0; j < D; ++j) {
    p.w[j] = 1.0f + static_cast<float>(j);
    p.hinv[j * D + j] = 1.0f;
  }
  p.hinv[1] = p.hinv[D] = 2.0f;  // when column 0 goes, column 1 has 1 - 4
  const Result kept = run(p, form, pattern(D, 1, 2), SPADE_OBC_UPDATE_FFMA);
  CHECK(kept.info[0] == 0);
  for (int64_t k = 0; k < D / 2; ++k) CHECK(kept.order[k] == 2 * k);
  const Result stopped = run(p, form, pattern(D, 2, 2), SPADE_OBC_UPDATE_FFMA);
  CHECK(stopped.info[0] == 2 && stopped.order[0] == 0 && stopped.order[1] == -1);
}

// Each pivot of the second half fills a group: the most columns that can be left, and fewer.
void test_most_left() {
  const Elimination e = pattern(16, 2, 4);
  for (const int64_t step : {0, 1, 4, 5, 8})
    CHECK(e.most_left(step) == 16 - step - (step > 4 ? (step - 4) * 2 : 0));
  CHECK(pattern(16, 1, 1).most_left(16) == 0 && pattern(16, 4, 4).most_left(13) == 3);
}

void test_arguments() {
  using spade::cuda::obc_trace_nm;
  const float w[4] = {4, 3, 2, 1};
  float hinv[16] = {}, loss[4];
  for (int j = 0; j < 4; ++j) hinv[5 * j] = 1;
  int32_t order[4], info[1] = {7};
  const auto call = [&](int64_t D, int64_t n, int64_t m, int32_t* to) {
    return obc_trace_nm(w, hinv, 1, 1, D, n, m, 0, to, loss, info, nullptr, 0, nullptr);
  };
  CHECK_FAILS(call(4, 1, 0, order), SPADE_INVALID_ARGUMENT, "m must be >= 1 and divide D = 4, got");
  CHECK_FAILS(call(4, 1, 3, order), SPADE_INVALID_ARGUMENT, "divide D = 4, got 3");
  CHECK_FAILS(call(4, 5, 4, order), SPADE_INVALID_ARGUMENT, "n must be in [0, m = 4], got 5");
  CHECK_FAILS(call(4610, 1, 2, order), SPADE_INVALID_ARGUMENT, "D must be at most 4608, got");
  CHECK_FAILS(call(4, 1, 2, nullptr), SPADE_INVALID_ARGUMENT, "order must not be NULL");
  CHECK_SUCCESS(call(4, 0, 4, nullptr));
  CHECK(info[0] == 0);
  CHECK_SUCCESS(call(4, 1, 2, order));
  CHECK(order[0] == 3 && order[1] == 1);
  size_t bytes = 0;
  CHECK_SUCCESS(spade::cuda::obc_trace_nm_workspace_bytes(3, 1152, 2, 4, 0, &bytes));
  CHECK(bytes == bytes_of(ObcForm::kTiled, 1, pattern(1152, 2, 4)));
  CHECK_FAILS(spade::cuda::obc_trace_nm_workspace_bytes(3, 1152, 2, 5, 0, &bytes),
              SPADE_INVALID_ARGUMENT, "m must be >= 1");
}

}  // namespace

int main() {
#ifdef __SANITIZE_THREAD__
  test_schedules(ObcForm::kSingle, 2, pattern(72, 2, 4), SPADE_OBC_UPDATE_AUTO);
  test_schedules(ObcForm::kSingle, 1, pattern(200, 2, 4), SPADE_OBC_UPDATE_AUTO);  // kept ones move
  test_schedules(ObcForm::kTiled, 1, pattern(264, 2, 4), SPADE_OBC_UPDATE_FFMA);
  test_schedules(ObcForm::kTiled, 1, pattern(264, 2, 4), SPADE_OBC_UPDATE_FP16);
  return report();
#endif
  for (const int64_t D : {4, 16, 20, 32, 36, 64}) check_pattern(ObcForm::kWarp, 5, D, 2, 4);
  check_pattern(ObcForm::kWarp, 5, 32, 31, 32);
  check_pattern(ObcForm::kWarp, 5, 32, 32, 32);
  check_pattern(ObcForm::kWarp, 5, 31, 1, 1);
  check_pattern(ObcForm::kWarp, 5, 27, 2, 9);
  check_pattern(ObcForm::kWarp, 5, 49, 3, 7);
  check_pattern(ObcForm::kWarp, 5, 60, 11, 20);  // a group on both sides of column 32
  check_pattern(ObcForm::kWarp, 5, 64, 40, 64);
  for (const int64_t D : {4, 36, 128, 132}) check_pattern(ObcForm::kSingle, 2, D, 2, 4);
  check_pattern(ObcForm::kSingle, 2, 72, 4, 8);
  check_pattern(ObcForm::kSingle, 2, 66, 1, 3);
  check_pattern(ObcForm::kSingle, 2, 70, 69, 70);
  check_pattern(ObcForm::kSingle, 1, 260, 3, 4);
  for (const int update : {SPADE_OBC_UPDATE_FFMA, SPADE_OBC_UPDATE_FP16}) {
    check_pattern(ObcForm::kTiled, 2, 264, 2, 4, update);  // 132 steps: one after the update
    check_pattern(ObcForm::kTiled, 1, 400, 4, 8, update);
  }
  check_pattern(ObcForm::kTiled, 1, 256, 2, 4);  // ends with the panel
  check_pattern(ObcForm::kTiled, 1, 396, 1, 3);  // pivots fill a group each: two columns go at once
  check_pattern(ObcForm::kTiled, 1, 390, 9, 10);
  check_pattern(ObcForm::kTiled, 1, 130, 1, 1);
  test_schedules(ObcForm::kWarp, 5, pattern(12, 2, 4), SPADE_OBC_UPDATE_AUTO);
  test_schedules(ObcForm::kSingle, 2, pattern(72, 2, 4), SPADE_OBC_UPDATE_AUTO);
  test_schedules(ObcForm::kTiled, 2, pattern(264, 2, 4), SPADE_OBC_UPDATE_FFMA);
  test_schedules(ObcForm::kTiled, 1, pattern(264, 2, 4), SPADE_OBC_UPDATE_FP16);
  test_matrices(ObcForm::kWarp, 3, pattern(12, 2, 4), SPADE_OBC_UPDATE_AUTO);
  test_matrices(ObcForm::kSingle, 2, pattern(48, 2, 4), SPADE_OBC_UPDATE_AUTO);
  for (const ObcForm form : {ObcForm::kWarp, ObcForm::kSingle, ObcForm::kTiled}) {
    test_ties(form, 24, 2, 4);
    test_ties(form, 60, 7, 20);
    test_stops(form, 20);
    test_stops(form, 60);
  }
  test_ties(ObcForm::kTiled, 300, 2, 3);
  test_most_left();
  test_arguments();
  return report();
}

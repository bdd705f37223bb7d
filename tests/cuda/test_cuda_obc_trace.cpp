// spade_cuda_obc_trace under the emulation: orders and losses are those of float64, and where the
// CPU stops or ties are exact, so here.
#include "obc_problem.h"

namespace {

void check_trace(ObcForm form, int64_t R, int64_t D, int64_t steps, int update) {
  const ObcProblem p = random_problem(R, D, static_cast<unsigned>(D));
  const Result result = run(p, form, {D, steps}, update);
  for (int64_t r = 0; r < R; ++r) check_row(p, result, r, {D, steps});

  const std::vector<double> w(p.w.begin(), p.w.end()), hinv(p.hinv.begin(), p.hinv.end());
  std::vector<double> loss(R * steps);
  std::vector<int32_t> order(R * steps), info(R);
  CHECK_SUCCESS(spade_obc_trace_f64(w.data(), hinv.data(), R, D, steps, order.data(), loss.data(),
                                    info.data(), 1, nullptr));
  for (int64_t i = 0; i < R * steps; ++i)  // sorted scores differ by no more than scores do
    CHECK(std::fabs(result.loss[i] - loss[i]) <= 2e-4 * loss[i]);
}

void test_chunks() {
  for (const ObcForm form : {ObcForm::kSingle, ObcForm::kTiled}) {
    const ObcProblem p = random_problem(3, 132, 2);
    const Elimination e{132, 132};
    const size_t two = 2 * bytes_of(form, 1, e);
    CHECK(chunk_rows(form, 3, e, two) == 2);
    CHECK(chunk_rows(form, 4, e, two * 3 / 2) == 2);
    CHECK(chunk_rows(form, 3, e, 1) == 1);
    for (const int64_t R : {2, 3, 256}) CHECK(chunk_rows(form, R, e, bytes_of(form, R, e)) == R);
    const Result all = run(p, form, e, SPADE_OBC_UPDATE_FFMA);
    CHECK(same(run(p, form, e, SPADE_OBC_UPDATE_FFMA, two), all));
    CHECK(same(run(p, form, e, SPADE_OBC_UPDATE_FFMA, 1), all));
  }
}

// A = I and equal weights: lowest column first, whatever slots the columns sit in.
void test_ties(ObcForm form, int64_t D) {
  ObcProblem p{1, D, std::vector<float>(D, 1.0f), std::vector<float>(D * D, 0.0f)};
  for (int64_t j = 0; j < D; ++j) p.hinv[j * D + j] = 1.0f;
  p.w[D / 2] = 0.0f;
  const Result result = run(p, form, {D, D}, SPADE_OBC_UPDATE_FP16);
  CHECK(result.order[0] == D / 2);
  for (int64_t k = 1; k < D; ++k) CHECK(result.order[k] == (k <= D / 2 ? k - 1 : k));
}

// Stops as spade_obc_trace_f32 does: A_pp < 0 from the start, A_pp = 0, A_pp < 0 after some steps.
void test_stops(ObcForm form, int64_t D) {
  for (const float last : {-1.0f, 0.0f, 0.5f}) {
    ObcProblem p{2, D, std::vector<float>(2 * D), std::vector<float>(D * D, 0.0f)};
    for (int64_t j = 0; j < 2 * D; ++j) p.w[j] = 1.0f + static_cast<float>(j * 7 % 31) + j % D;
    for (int64_t j = 0; j < D; ++j) p.hinv[j * D + j] = 1.0f;
    p.hinv[D * D - 1] = last;
    if (last > 0) p.hinv[D - 1] = p.hinv[(D - 1) * D] = 2.0f;  // column 0 makes it 0.5 - 4
    std::vector<int32_t> order(2 * D), info(2);
    std::vector<float> loss(2 * D);
    CHECK_SUCCESS(spade_obc_trace_f32(p.w.data(), p.hinv.data(), 2, D, D, order.data(), loss.data(),
                                      info.data(), 1, nullptr));
    const Result result = run(p, form, {D, D}, SPADE_OBC_UPDATE_FFMA);
    CHECK(info[0] > 0 && result.info == info);
    CHECK(result.order == order);
    for (int64_t i = 0; i < 2 * D; ++i)
      CHECK(order[i] < 0 ? std::isnan(result.loss[i])
                         : std::fabs(result.loss[i] - loss[i]) <= 1e-5f * loss[i]);
  }
}

// Every panel kernel, on a device with little shared memory and with much, past the edge of the one
// before it.
void test_wide() {
  std::vector<const PanelKernel*> used;
  for (const int64_t D : {1025, 1540, 2800}) {
    const ObcProblem p = random_problem(1, D, 3);
    for (const size_t kilobytes : {99, 227}) {
      spade::emulation::device.shared_bytes = kilobytes << 10;
      used.push_back(&choose_panel({8, 0, 1, kilobytes << 10}, static_cast<int>(D)));
      check_row(p, run(p, ObcForm::kTiled, {D, 2}, SPADE_OBC_UPDATE_FFMA), 0, {D, 2});
    }
  }
  for (const PanelKernel& kernel : kPanelKernels)
    CHECK(&kernel == kPanelKernels || std::count(used.begin(), used.end(), &kernel));
}

void test_choice() {
  for (const size_t kilobytes : {99, 163, 227})
    for (int size = 1; size <= kMostColumns; ++size) {
      const PanelKernel& k = choose_panel({8, 0, 1, kilobytes << 10}, size);
      CHECK(k.most >= size && k.dynamic_bytes(size) <= kilobytes << 10);
    }
  for (int64_t D : {1, 64, 65, 576, 577}) {
    size_t bytes = 0;
    CHECK_SUCCESS(spade::cuda::obc_trace_workspace_bytes(1, D, D, 0, &bytes));
    CHECK(bytes == bytes_of(form_of(D), 1, {D, D}));
  }
  size_t bytes = 0;  // a 512 x 4608 layer on 24 GB
  CHECK_SUCCESS(spade::cuda::obc_trace_workspace_bytes(512, 4608, 4608, size_t(20) << 30, &bytes));
  CHECK(bytes > size_t(10) << 30 && bytes <= size_t(20) << 30);
}

void test_arguments() {
  using spade::cuda::obc_trace;
  float x[4] = {1, 0, 0, 1}, loss[4];
  int32_t order[4], info[2] = {7, 7};
  const auto call = [&](int64_t R, int64_t D, int64_t steps, int update, int32_t* to) {
    return obc_trace(x, x, R, 1, D, steps, update, to, loss, info, nullptr, 0, nullptr);
  };
  CHECK_FAILS(call(-1, 2, 2, 0, order), SPADE_INVALID_ARGUMENT, "R must be in");
  CHECK_FAILS(call(1, 4609, 2, 0, order), SPADE_INVALID_ARGUMENT, "D must be at most 4608, got");
  CHECK_FAILS(call(1, 2, 3, 0, order), SPADE_INVALID_ARGUMENT,
              "steps must be in [0, D = 2], got 3");
  CHECK_FAILS(call(1, 2, 2, 3, order), SPADE_INVALID_ARGUMENT, "update must be");
  CHECK_FAILS(call(1, 2, 2, 0, nullptr), SPADE_INVALID_ARGUMENT, "order must not be NULL");
  CHECK_FAILS(call(1, 65, 2, 0, order), SPADE_INVALID_ARGUMENT, "workspace_bytes must be at least");
  CHECK_FAILS(obc_trace(x, x, 2, 0, 2, 2, 0, order, loss, info, nullptr, 0, nullptr),
              SPADE_INVALID_ARGUMENT, "G must be >= 1 and divide R = 2, got 0");
  CHECK_FAILS(obc_trace(x, x, 3, 2, 2, 2, 0, order, loss, info, nullptr, 0, nullptr),
              SPADE_INVALID_ARGUMENT, "divide R = 3, got 2");
  CHECK_SUCCESS(call(0, 2, 2, 0, nullptr));
  CHECK_SUCCESS(call(2, 2, 0, 0, nullptr));
  CHECK(info[0] == 0 && info[1] == 0);
  CHECK_SUCCESS(call(2, 2, 2, 0, order));
  CHECK(order[0] == 1 && order[1] == 0 && order[2] == 0 && order[3] == 1);
}

// Tensor cores by default on compute capability 8.0 and from 9.0 on, not on 8.6 and 8.9.
void test_auto() {
  const ObcProblem p = random_problem(1, 132, 4);
  const Result ffma = run(p, ObcForm::kTiled, {132, 130}, SPADE_OBC_UPDATE_FFMA);
  const Result half = run(p, ObcForm::kTiled, {132, 130}, SPADE_OBC_UPDATE_FP16);
  CHECK(!same(ffma, half));
  const auto automatic = [&](int major, int minor) {
    spade::emulation::device.major = major;
    spade::emulation::device.minor = minor;
    return run(p, ObcForm::kTiled, {132, 130}, SPADE_OBC_UPDATE_AUTO);
  };
  for (const int minor : {6, 9}) CHECK(same(automatic(8, minor), ffma));
  CHECK(same(automatic(8, 0), half));
  for (const int major : {9, 12}) CHECK(same(automatic(major, 0), half));
}

// Several pivots a round: a round is six barriers, so one pivot a round would be six a pivot, and
// two would be three.
void test_pivots_a_round(ObcForm form, int64_t D) {
  const ObcProblem p = random_problem(1, D, 6);
  const unsigned before = spade::emulation::block.generation;
  run(p, form, {D, D}, SPADE_OBC_UPDATE_FFMA);
  const double barriers = spade::emulation::block.generation - before;
  CHECK(barriers < 3 * static_cast<double>(D));
}

// The public entry on both sides of the widest single launch.
void test_entry() {
  for (const int64_t D : {576, 577}) {
    const ObcProblem p = random_problem(2, D, 5);
    const DeviceArray<float> w(p.w), hinv(p.hinv);
    size_t bytes = 0;
    CHECK_SUCCESS(spade::cuda::obc_trace_workspace_bytes(2, D, 3, SIZE_MAX, &bytes));
    DeviceArray<char> memory(static_cast<int64_t>(bytes));
    DeviceArray<int32_t> order(2 * 3), info(2);
    DeviceArray<float> loss(2 * 3);
    const int64_t before = spade::emulation::launches;
    CHECK_SUCCESS(spade::cuda::obc_trace(w.get(), hinv.get(), 2, 1, D, 3, SPADE_OBC_UPDATE_AUTO,
                                         order.get(), loss.get(), info.get(), memory.get(), bytes,
                                         nullptr));
    CHECK(spade::emulation::launches - before == (D == 576 ? 1 : 2));  // all rows share them
    for (int r = 0; r < 2; ++r)
      check_row(p, {order.values(), info.values(), loss.values()}, r, {D, 3});
  }
}

}  // namespace

int main() {
#ifdef __SANITIZE_THREAD__  // races show in one schedule, whatever the numbers
  test_schedules(ObcForm::kWarp, 5, {49, 49}, SPADE_OBC_UPDATE_AUTO);
  test_schedules(ObcForm::kSingle, 2, {70, 70}, SPADE_OBC_UPDATE_AUTO);
  test_schedules(ObcForm::kTiled, 1, {140, 129}, SPADE_OBC_UPDATE_FFMA);
  test_schedules(ObcForm::kTiled, 1, {140, 129}, SPADE_OBC_UPDATE_FP16);
  test_entry();
  return report();
#endif
  for (const int64_t D : {1, 2, 15, 16, 17, 31, 32, 33, 49, 63, 64})
    check_trace(ObcForm::kWarp, 5, D, D, SPADE_OBC_UPDATE_AUTO);
  for (const int64_t D : {1, 33, 65, 127, 128, 129})
    check_trace(ObcForm::kSingle, 2, D, D, SPADE_OBC_UPDATE_AUTO);
  check_trace(ObcForm::kSingle, 1, 257, 140, SPADE_OBC_UPDATE_AUTO);
  check_trace(ObcForm::kSingle, 1, 576, 20, SPADE_OBC_UPDATE_AUTO);
  for (const int update : {SPADE_OBC_UPDATE_FFMA, SPADE_OBC_UPDATE_FP16}) {
    check_trace(ObcForm::kTiled, 1, 129, 129, update);
    check_trace(ObcForm::kTiled, 1, 290, 290, update);
  }
  check_trace(ObcForm::kTiled, 1, 33, 33, SPADE_OBC_UPDATE_FFMA);
  check_trace(ObcForm::kTiled, 1, 128, 128, SPADE_OBC_UPDATE_FFMA);
  for (const int64_t D : {9, 49}) test_schedules(ObcForm::kWarp, 5, {D, D}, SPADE_OBC_UPDATE_AUTO);
  test_schedules(ObcForm::kSingle, 2, {70, 70}, SPADE_OBC_UPDATE_AUTO);
  test_schedules(ObcForm::kTiled, 1, {260, 132}, SPADE_OBC_UPDATE_FFMA);
  test_schedules(ObcForm::kTiled, 1, {140, 130}, SPADE_OBC_UPDATE_FP16);
  for (const int64_t rows : {1, 3, 4})
    test_matrices(ObcForm::kWarp, rows, {9, 9}, SPADE_OBC_UPDATE_AUTO);
  for (const int64_t D : {25, 49}) test_matrices(ObcForm::kWarp, 3, {D, D}, SPADE_OBC_UPDATE_AUTO);
  test_matrices(ObcForm::kSingle, 2, {70, 70}, SPADE_OBC_UPDATE_AUTO);
  test_matrices(ObcForm::kTiled, 1, {132, 130}, SPADE_OBC_UPDATE_FFMA);
  test_chunks();
  for (const int64_t D : {20, 60}) test_ties(ObcForm::kWarp, D);
  test_ties(ObcForm::kSingle, 70);
  test_ties(ObcForm::kTiled, 140);
  for (const int64_t D : {10, 50}) test_stops(ObcForm::kWarp, D);
  test_stops(ObcForm::kSingle, 70);
  test_stops(ObcForm::kTiled, 130);
  test_wide();
  test_choice();
  test_arguments();
  test_auto();
  test_pivots_a_round(ObcForm::kSingle, 132);
  test_pivots_a_round(ObcForm::kTiled, 128);
  test_entry();
  return report();
}

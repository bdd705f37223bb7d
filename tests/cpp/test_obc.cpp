#include <algorithm>
#include <limits>

#include "check.h"

namespace {

// One row, step by step: see spade_obc_trace in spade.h.
std::vector<int32_t> order_of(std::vector<double> w, std::vector<double> a, int64_t n, int64_t m) {
  const int64_t D = static_cast<int64_t>(w.size());
  std::vector<int32_t> order;
  std::vector<char> closed(w.size(), 0);
  std::vector<int64_t> gone(w.size(), 0);  // by group
  for (int64_t step = 0; step < (m ? D / m * n : D); ++step) {
    int64_t p = -1;
    double least = std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j < D; ++j) {
      const double score = w[j] * w[j] / a[j * D + j];
      if (!closed[j] && score < least) {
        least = score;
        p = j;
      }
    }
    order.push_back(static_cast<int32_t>(p));
    closed[p] = 1;
    const std::vector<double> column(a.begin() + p * D, a.begin() + (p + 1) * D);
    const double pivot = column[p], weight = w[p];
    for (int64_t i = 0; i < D; ++i) w[i] -= column[i] * weight / pivot;
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = 0; j < D; ++j) a[i * D + j] -= column[i] * column[j] / pivot;
    a[p * D + p] = 1;
    if (m && ++gone[p / m] == n)
      for (int64_t j = p / m * m; j < p / m * m + m; ++j) closed[j] = 1;
  }
  return order;
}

void trace(int64_t R, int64_t D, int64_t n, int64_t m, int threads) {
  const auto h = hessian_of<double>(D, 5);
  const auto w = normal<double>(R * D, 6);
  std::vector<double> hinv(h.size());
  double damp;
  CHECK_OK(
      spade_damped_inverse_f64(h.data(), D, 0.01, hinv.data(), nullptr, &damp, threads, nullptr));
  const int64_t steps = m ? D / m * n : D;
  std::vector<int32_t> order(static_cast<size_t>(R * steps)), info(static_cast<size_t>(R));
  std::vector<double> loss(order.size());
  if (m)
    CHECK_OK(spade_obc_trace_nm_f64(w.data(), hinv.data(), R, D, n, m, order.data(), loss.data(),
                                    info.data(), threads, nullptr));
  else
    CHECK_OK(spade_obc_trace_f64(w.data(), hinv.data(), R, D, D, order.data(), loss.data(),
                                 info.data(), threads, nullptr));
  for (int64_t r = 0; r < R; ++r) {
    const auto expected = order_of({w.begin() + r * D, w.begin() + (r + 1) * D}, hinv, n, m);
    CHECK(std::equal(expected.begin(), expected.end(), order.begin() + r * steps));
    CHECK(info[r] == 0);
  }
}

void check_blocks_and_weights(int threads) {
  const int64_t R = 3, D = 24, block = 4;
  const auto h = hessian_of<float>(D, 7);
  const auto w = normal<float>(R * D, 8);
  std::vector<float> hinv(h.size()), damped(h.size()), loss(R * D / block), out(w.size());
  std::vector<int32_t> order(loss.size()), info(R);
  double damp;
  CHECK_OK(spade_damped_inverse_f32(h.data(), D, 0.01, hinv.data(), damped.data(), &damp, threads,
                                    nullptr));
  CHECK_OK(spade_obc_trace_block_f32(w.data(), hinv.data(), R, D, block, order.data(), loss.data(),
                                     info.data(), threads, nullptr));
  std::vector<int32_t> columns;
  for (const int32_t b : order)
    for (int64_t c = 0; c < block; ++c) columns.push_back(static_cast<int32_t>(b * block + c));
  const int64_t counts[R] = {0, D / 2, D};
  CHECK_OK(spade_obc_weights_f32(w.data(), damped.data(), hinv.data(), R, D, D, columns.data(),
                                 counts, out.data(), info.data(), threads, nullptr));
  for (int64_t j = 0; j < D; ++j) {
    CHECK(close(out[j], w[j], 1e-5));
    CHECK(out[2 * D + j] == 0);
  }
  CHECK(std::count(out.begin() + D, out.begin() + 2 * D, 0.0f) == D / 2);
}

// The blocks of ((1, 2), (2, 1)) x I are positive definite until one of them is gone.
TEST_CASE(blocks_that_lose_definiteness) {
  const double hinv[16] = {1, 0, 2, 0, 0, 1, 0, 2, 2, 0, 1, 0, 0, 2, 0, 1};
  const double w[12] = {1, 1, 2, 2, 3, 3, 1, 1, 1, 2, 3, 4};
  int32_t order[6], info[3];
  double loss[6];
  CHECK_OK(spade_obc_trace_block_f64(w, hinv, 3, 4, 2, order, loss, info, 1, nullptr));
  const int32_t first[3] = {0, 1, 0};
  const double least[3] = {1, 1, 2.5};
  for (int r = 0; r < 3; ++r) {
    CHECK(info[r] == 2);
    CHECK(order[2 * r] == first[r] && order[2 * r + 1] == -1);
    CHECK(loss[2 * r] == least[r] && std::isnan(loss[2 * r + 1]));
  }
}

TEST_CASE(counts_of_a_layer) {
  const float loss[6] = {1, 2, 2, 2, 0, 5};
  int64_t counts[2];
  const auto are = [&](double sparsity, int64_t first, int64_t second) {
    CHECK_OK(spade_obc_counts_f32(loss, 2, 3, sparsity, counts));
    CHECK(counts[0] == first && counts[1] == second);
  };
  are(0, 0, 0);
  are(1.0 / 6, 0, 1);
  are(0.5, 2, 1);  // of three equal losses the first in row-major order goes
  are(0.7, 3, 2);
  are(1, 3, 3);
  CHECK_FAILS(spade_obc_counts_f32(loss, 2, 3, 1.5, counts), SPADE_INVALID_ARGUMENT,
              "sparsity must be in [0, 1], got 1.5");
}

TEST_CASE(errors) {
  const float one[1] = {1}, zero[1] = {0};
  int32_t order[1], info[1];
  float loss[1];
  const int64_t counts[1] = {2};
  CHECK_FAILS(spade_obc_trace_f32(one, one, 1, 1, 2, order, loss, info, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "steps must");
  CHECK_FAILS(spade_obc_trace_nm_f32(one, one, 1, 1, 1, 2, order, loss, info, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "m must divide");
  CHECK_OK(spade_obc_trace_f32(one, zero, 1, 1, 1, order, loss, info, 1, nullptr));
  CHECK(info[0] == 1);
  order[0] = 0;
  float out[1];
  CHECK_FAILS(spade_obc_weights_f32(one, one, one, 1, 1, 1, order, counts, out, info, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "counts must");
}

TEST_CASE(orders) {
  for (int threads : {1, 3}) {
    for (int64_t D : {1, 2, 15, 17, 33, 100}) trace(4, D, 0, 0, threads);
    trace(4, 96, 2, 4, threads);
    trace(2, 99, 1, 3, threads);
  }
}

TEST_CASE(blocks_and_weights) {
  for (int threads : {1, 3}) check_blocks_and_weights(threads);
}

// One call against its steps.
TEST_CASE(a_layer_in_one_call) {
  const int64_t R = 5, D = 24;
  auto h = hessian_of<float>(D, 3);
  for (int64_t j = 0; j < D; ++j) h[7 * D + j] = h[j * D + 7] = 0;  // a dead column
  const auto w = normal<float>(R * D, 4);
  for (const spade_obc_t& options : {spade_obc_t{0.4, 0, 0, 1, 0.01}, spade_obc_t{0, 2, 4, 1, 0.01},
                                     spade_obc_t{0.6, 0, 0, 3, 0.01}}) {
    const int64_t steps = options.m ? D / options.m * options.n : D / options.block;
    std::vector<int32_t> order(R * steps), info(R);
    std::vector<float> loss(R * steps), dense(w.size()), damped(h.size()), hinv(h.size());
    std::vector<float> expected(w.size()), out(w.size());
    std::vector<int64_t> counts(R, steps);
    spade_obc_outcome_t outcome;
    CHECK_OK(spade_obc_eliminate_f32(w.data(), h.data(), R, D, &options, order.data(), loss.data(),
                                     dense.data(), damped.data(), hinv.data(), &outcome, 2,
                                     nullptr));
    CHECK(outcome.damp == 0.01 && outcome.row == -1 && !outcome.needs_double);
    for (int64_t r = 0; r < R; ++r) CHECK(dense[r * D + 7] == 0);
    if (!options.m)
      CHECK_OK(spade_obc_counts_f32(loss.data(), R, steps, options.sparsity, counts.data()));
    CHECK_OK(spade_obc_weights_block_f32(dense.data(), damped.data(), hinv.data(), R, D,
                                         options.block, steps, order.data(), counts.data(),
                                         expected.data(), info.data(), 2, nullptr));
    CHECK_OK(
        spade_obc_prune_f32(w.data(), h.data(), R, D, &options, out.data(), &outcome, 2, nullptr));
    CHECK(out == expected);
    CHECK(outcome.damp == 0.01 && outcome.row == -1 && !outcome.needs_double);
  }
}

// Scales of weights and of H that only double holds, and little damping.
TEST_CASE(what_float_does_not_do) {
  const int64_t R = 3, D = 16;
  const auto h = hessian_of<float>(D, 3);
  const auto w = normal<float>(R * D, 4);
  spade_obc_t options{0.5, 0, 0, 1, 0.01};
  std::vector<float> expected(w.size()), out(w.size());
  spade_obc_outcome_t outcome;
  CHECK_OK(spade_obc_prune_f32(w.data(), h.data(), R, D, &options, expected.data(), &outcome, 1,
                               nullptr));
  options.reserved[2] = 1;
  CHECK_FAILS(
      spade_obc_prune_f32(w.data(), h.data(), R, D, &options, out.data(), &outcome, 1, nullptr),
      SPADE_INVALID_ARGUMENT, "reserved fields must be 0, got 1");
  options.reserved[2] = 0;
  for (const int exponent : {-116, 116}) {
    std::vector<float> scaled(w);
    for (float& x : scaled) x = std::ldexp(x, exponent);
    CHECK_OK(spade_obc_prune_f32(scaled.data(), h.data(), R, D, &options, out.data(), &outcome, 1,
                                 nullptr));
    CHECK(outcome.needs_double);
    for (size_t i = 0; i < out.size(); ++i)
      CHECK(close(std::ldexp(out[i], -exponent), expected[i], 1e-4) &&
            (out[i] == 0) == (expected[i] == 0));
  }
  std::vector<int32_t> order(R * D);
  std::vector<float> loss(R * D), dense(w.size()), damped(h.size()), hinv(h.size());
  options.damp = 1e-6;
  CHECK_OK(spade_obc_eliminate_f32(w.data(), h.data(), R, D, &options, order.data(), loss.data(),
                                   dense.data(), damped.data(), hinv.data(), &outcome, 1, nullptr));
  CHECK(outcome.needs_double && outcome.row == -1);
  CHECK(!spade_obc_fits_float(1, 1, 1e-4) && spade_obc_fits_float(1, 1, 1e-3));
  CHECK(!spade_obc_fits_float(1e30, 1, 1) && spade_obc_fits_float(1, 0, 1));
  CHECK(spade_next_damp(0) == 1e-6 && spade_next_damp(0.5) == 1 && spade_next_damp(1) < 0);
}

TEST_CASE(orders_do_not_depend_on_the_scale_of_a_row) {
  const int64_t D = 40;
  const auto h = hessian_of<float>(D, 3);
  auto w = normal<float>(D, 4);
  std::vector<float> hinv(h.size()), loss(D), scaled_loss(D);
  std::vector<int32_t> order(D), scaled_order(D);
  double damp;
  int32_t info;
  CHECK_OK(spade_damped_inverse_f32(h.data(), D, 0.01, hinv.data(), nullptr, &damp, 1, nullptr));
  CHECK_OK(spade_obc_trace_f32(w.data(), hinv.data(), 1, D, D, order.data(), loss.data(), &info, 1,
                               nullptr));
  for (float& x : w) x = std::ldexp(x, -50);
  CHECK_OK(spade_obc_trace_f32(w.data(), hinv.data(), 1, D, D, scaled_order.data(),
                               scaled_loss.data(), &info, 1, nullptr));
  CHECK(order == scaled_order);
  for (int64_t k = 0; k < D; ++k) CHECK(close(std::ldexp(scaled_loss[k], 100), loss[k], 1e-4));
}

TEST_CASE(errors_of_a_layer_in_one_call) {
  const double w[4] = {1, 2, 3, 4}, h[4] = {1, 0, 0, 1}, bad[4] = {-1, 0, 0, 1};
  double out[4];
  spade_obc_outcome_t outcome;
  const auto prune = [&](spade_obc_t options, const double* matrix) {
    return spade_obc_prune_f64(w, matrix, 2, 2, &options, out, &outcome, 1, nullptr);
  };
  CHECK_FAILS(prune({2, 0, 0, 1, 0}, h), SPADE_INVALID_ARGUMENT, "sparsity must be in [0, 1]");
  CHECK_FAILS(prune({0, 1, 3, 1, 0}, h), SPADE_INVALID_ARGUMENT, "m must divide D = 2, got 3");
  CHECK_FAILS(prune({0, 3, 2, 1, 0}, h), SPADE_INVALID_ARGUMENT, "n must be in [0, m = 2], got 3");
  CHECK_FAILS(prune({0, 1, 2, 2, 0}, h), SPADE_INVALID_ARGUMENT, "block must be 1 with n:m, got 2");
  CHECK_FAILS(prune({0, 0, 0, 3, 0}, h), SPADE_INVALID_ARGUMENT, "block must divide D = 2, got 3");
  CHECK_FAILS(prune({0, 0, 0, 1, -1}, h), SPADE_INVALID_ARGUMENT, "damp must be");
  CHECK_FAILS(prune({0, 0, 0, 1, 0}, bad), SPADE_SINGULAR,
              "spade_obc_prune: H is not positive definite");
  CHECK_FAILS(spade_obc_prune_f64(w, h, 2, 2, nullptr, out, &outcome, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "options must not be NULL");
  const spade_obc_t half{0.5, 0, 0, 1, 0};
  CHECK_FAILS(spade_obc_prune_f64(w, h, INT32_MAX, INT32_MAX, &half, out, &outcome, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "w must have fewer than 2^60 entries");
  const spade_progress_t stop{[](void*, int64_t, int64_t) { return 1; }, nullptr};
  CHECK_FAILS(spade_obc_prune_f64(w, h, 2, 2, &half, out, &outcome, 1, &stop), SPADE_CANCELLED,
              "cancelled");
  // What is left takes nearly all of what goes, which only double holds.
  const float most = 3e38f, large[2] = {most, most}, close_by[4] = {2, 1.9f, 1.9f, 2};
  float small[2];
  const spade_obc_t one{0.5, 0, 0, 1, 0.01};
  CHECK_FAILS(spade_obc_prune_f32(large, close_by, 1, 2, &one, small, &outcome, 1, nullptr),
              SPADE_NOT_FINITE, "the pruned weights of row 0 are out of the range of their type");
}

}  // namespace

// Problems of exact OBC under the emulation, and a replay of a row in float64 along the order that
// a kernel gave: every step takes a column whose score is the least to 1e-5, losses are those of
// float64.
#pragma once

#include <algorithm>
#include <random>

#include "check.h"
#include "cuda/obc_trace.h"
#include "cuda/ops.h"

namespace {

using namespace spade::cuda::obc;

struct ObcProblem {
  int64_t R, D;
  std::vector<float> w, hinv;  // [R, D], [G, D, D]
  int64_t G = 1;
};

// A = V V^T / k + 0.05 I: correlated columns, condition about 1e3. Each eighth weight is zero.
ObcProblem random_problem(int64_t R, int64_t D, unsigned seed) {
  constexpr int64_t k = 16;
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  ObcProblem p{R, D, std::vector<float>(R * D), std::vector<float>(D * D)};
  std::vector<float> v(D * k);
  for (float& x : v) x = normal(generator);
  for (int64_t i = 0; i < R * D; ++i) p.w[i] = generator() % 8 ? normal(generator) : 0.0f;
  for (int64_t i = 0; i < D; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      float sum = i == j ? 0.05f : 0.0f;
      for (int64_t q = 0; q < k; ++q) sum += v[i * k + q] * v[j * k + q] / k;
      p.hinv[i * D + j] = p.hinv[j * D + i] = sum;
    }
  return p;
}

struct Result {
  std::vector<int32_t> order, info;
  std::vector<float> loss;
};

Result run(const ObcProblem& p, ObcForm form, const Elimination& e, int update,
           size_t limit = SIZE_MAX) {
  const int64_t steps = e.steps;
  const DeviceArray<float> w(p.w), hinv(p.hinv);
  DeviceArray<int32_t> order(p.R * steps), info(p.R);
  DeviceArray<float> loss(p.R * steps);
  const int64_t chunk = chunk_rows(form, p.R, e, limit);
  DeviceArray<char> memory(static_cast<int64_t>(bytes_of(form, chunk, e)));
  CHECK_SUCCESS(spade::guarded([&] {
    trace("test", form, w.get(), hinv.get(), p.R, p.G, e, update, order.get(), loss.get(),
          info.get(), memory.get(), static_cast<size_t>(memory.size()), nullptr);
  }));
  return {order.values(), info.values(), loss.values()};
}

void check_row(const ObcProblem& p, const Result& result, int64_t r, const Elimination& e) {
  const int64_t D = p.D, steps = e.steps;
  std::vector<double> a(p.hinv.begin(), p.hinv.end());
  std::vector<double> w(p.w.begin() + r * D, p.w.begin() + (r + 1) * D);
  std::vector<int64_t> kept(D), gone(e.groups());
  for (int64_t j = 0; j < D; ++j) kept[j] = j;
  bool least = true, losses = true, lowest = true;
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t chosen = result.order[r * steps + step];
    const auto at = std::find(kept.begin(), kept.end(), chosen);
    if (at == kept.end()) {
      CHECK(!"a column that is still kept");
      return;
    }
    const auto score = [&](int64_t j) { return w[j] * w[j] / a[j * D + j]; };
    const double taken = score(chosen);
    for (const int64_t j : kept) {
      least = least && taken <= score(j) * (1 + 1e-5) + 1e-30;
      lowest = lowest && !(score(j) == 0 && taken == 0 && j < chosen);
    }
    losses = losses && std::fabs(result.loss[r * steps + step] - 0.5 * taken) <= 1e-4 * taken;
    kept.erase(at);
    const double pivot = a[chosen * D + chosen], factor = w[chosen] / pivot;
    for (const int64_t i : kept) {
      const double x = a[i * D + chosen];
      if (x == 0) continue;
      w[i] -= x * factor;
      for (const int64_t j : kept) a[i * D + j] -= x / pivot * a[chosen * D + j];
    }
    const int64_t group = e.m > 0 ? chosen / e.m : 0;
    if (e.m > 0 && ++gone[group] == e.n)
      kept.erase(
          std::remove_if(kept.begin(), kept.end(), [&](int64_t j) { return j / e.m == group; }),
          kept.end());
  }
  CHECK(least);
  CHECK(losses);
  CHECK(lowest);
  CHECK(result.info[r] == 0);
}

bool same(const Result& a, const Result& b) {
  return a.order == b.order && a.info == b.info &&
         std::memcmp(a.loss.data(), b.loss.data(), a.loss.size() * sizeof(float)) == 0;
}

// Rows of several matrices: each matrix's rows come out as when it is alone, in chunks that cut
// across matrices too.
void test_matrices(ObcForm form, int64_t rows, const Elimination& e, int update) {
  constexpr int64_t G = 3;
  ObcProblem all{G * rows, e.D, {}, {}, G};
  Result expected;
  for (unsigned g = 0; g < G; ++g) {
    const ObcProblem p = random_problem(rows, e.D, 10 + g);
    const Result one = run(p, form, e, update);
    all.w.insert(all.w.end(), p.w.begin(), p.w.end());
    all.hinv.insert(all.hinv.end(), p.hinv.begin(), p.hinv.end());
    expected.order.insert(expected.order.end(), one.order.begin(), one.order.end());
    expected.info.insert(expected.info.end(), one.info.begin(), one.info.end());
    expected.loss.insert(expected.loss.end(), one.loss.begin(), one.loss.end());
  }
  spade::emulation::schedule = spade::emulation::Schedule::kReverse;  // the last matrix first
  CHECK(same(run(all, form, e, update), expected));
  spade::emulation::schedule = spade::emulation::Schedule::kForward;
  CHECK(same(run(all, form, e, update, 2 * bytes_of(form, 1, e)), expected));
}

void test_schedules(ObcForm form, int64_t R, const Elimination& e, int update) {
  const ObcProblem p = random_problem(R, e.D, 1);
  const Result expected = run(p, form, e, update);
#ifdef __SANITIZE_THREAD__
  return;
#endif
  for_other_schedules([&] { CHECK(same(run(p, form, e, update), expected)); });
}

}  // namespace

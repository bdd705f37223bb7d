#include <algorithm>
#include <cmath>

#include "check.h"

namespace {

void prune(int64_t S, int64_t R, int64_t D, int64_t block, double sparsity, int threads) {
  const auto w = normal<float>(R * D, 9);
  std::vector<float> h;
  for (int64_t s = 0; s < S; ++s) {
    const auto one = hessian_of<float>(D, static_cast<unsigned>(s));
    h.insert(h.end(), one.begin(), one.end());
  }
  if (S > 1) h[0] = -1e6f;  // the first sample fails, the others do not
  std::vector<float> out(static_cast<size_t>(S * R * D)), alone(static_cast<size_t>(R * D));
  std::vector<double> damp(S);
  std::vector<int32_t> info(S);
  const spade_sparsegpt_t options{sparsity, block, 0, 0, 0.01, 0};
  CHECK_OK(spade_sparsegpt_prune_f32(w.data(), 0, h.data(), S, R, D, &options, out.data(),
                                     damp.data(), info.data(), threads, nullptr));
  for (int64_t s = 0; s < S; ++s) {
    const auto begin = out.begin() + s * R * D;
    if (S > 1 && s == 0) {
      CHECK(info[s] == SPADE_SINGULAR && std::equal(w.begin(), w.end(), begin));
      continue;
    }
    CHECK(info[s] == 0 && damp[s] == 0.01);
    int64_t zeros = 0, expected = 0;
    for (int64_t first = 0; first < D; first += block) {
      const int64_t width = std::min(block, D - first);
      expected += static_cast<int64_t>(sparsity * static_cast<double>(R * width) + 1e-6);
      for (int64_t r = 0; r < R; ++r)
        zeros += std::count(begin + r * D + first, begin + r * D + first + width, 0.0f);
    }
    CHECK(zeros == expected);
    double alone_damp;
    int32_t alone_info;
    CHECK_OK(spade_sparsegpt_prune_f32(w.data(), 0, h.data() + s * D * D, 1, R, D, &options,
                                       alone.data(), &alone_damp, &alone_info, 1, nullptr));
    CHECK(std::equal(alone.begin(), alone.end(), begin));
  }
}

// Two steps give the bits of one call, at every sparsity, and the loss of the definition.
void steps(int64_t R, int64_t D, int64_t block, int threads) {
  const auto w = normal<float>(R * D, 9);
  auto h = hessian_of<float>(D, 3);
  for (int64_t j = 0; D > 4 && j < D; ++j) h[2 * D + j] = h[j * D + 2] = 0;  // a dead column
  std::vector<float> factors(static_cast<size_t>(spade_sparsegpt_factor_size(D)));
  double damp, again;
  int32_t info;
  CHECK_OK(spade_sparsegpt_factor_f32(h.data(), 1, D, 0.01, factors.data(), &damp, &info, threads,
                                      nullptr));
  CHECK(info == 0 && damp == 0.01);
  std::vector<float> out(static_cast<size_t>(R * D)), whole(out.size());
  for (double sparsity : {0.0, 0.3, 0.9, 1.0}) {
    const spade_sparsegpt_t options{sparsity, block, 0, 0, 0.01, 0};
    double loss;
    CHECK_OK(spade_sparsegpt_sweep_f32(w.data(), 0, h.data(), factors.data(), &damp, 1, R, D,
                                       &options, out.data(), &loss, threads, nullptr));
    CHECK_OK(spade_sparsegpt_prune_f32(w.data(), 0, h.data(), 1, R, D, &options, whole.data(),
                                       &again, &info, 1, nullptr));
    CHECK(out == whole);
    double expected = 0, size = 0;
    for (int64_t r = 0; r < R; ++r)
      for (int64_t i = 0; i < D; ++i)
        for (int64_t j = 0; j < D; ++j) {
          const double hij = h[std::max(i, j) * D + std::min(i, j)];
          const auto change = [&](int64_t k) {
            return static_cast<double>(w[r * D + k]) - static_cast<double>(out[r * D + k]);
          };
          expected += change(i) * hij * change(j);
          size += w[r * D + i] * hij * w[r * D + j];
        }
    CHECK(std::abs(loss - expected) <= 1e-4 * size);
  }
}

TEST_CASE(two_steps) {
  for (int threads : {1, 3}) {
    steps(7, 20, 1, threads);
    steps(40, 150, 9, threads);
    steps(33, 300, 200, threads);  // a mask block of several lazy ones
  }
}

TEST_CASE(steps_that_fail) {
  float h[4] = {-1, 0, 0, -1}, factors[48 * 48], out[2], w[2] = {1, 1};
  double damp, loss;
  int32_t info;
  CHECK(spade_sparsegpt_factor_size(2) == 48 * 48 && spade_sparsegpt_factor_size(0) == 0);
  CHECK_OK(spade_sparsegpt_factor_f32(h, 1, 2, 0.01, factors, &damp, &info, 1, nullptr));
  CHECK(info == SPADE_SINGULAR && damp == 1);
  spade_sparsegpt_t options{1.5, 1, 0, 0, 0.01, 0};
  CHECK_FAILS(
      spade_sparsegpt_sweep_f32(w, 0, h, factors, &damp, 1, 1, 2, &options, out, &loss, 1, nullptr),
      SPADE_INVALID_ARGUMENT, "sparsity must be in [0, 1], got 1.5");
  CHECK_FAILS(spade_sparsegpt_factor_f32(h, 1, 2, -1, factors, &damp, &info, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "damp must");
}

TEST_CASE(errors) {
  const double one[1] = {1};
  double out[1], damp[1];
  int32_t info[1];
  spade_sparsegpt_t options{1.5, 1, 0, 0, 0.01, 0};
  const auto call = [&] {
    return spade_sparsegpt_prune_f64(one, 0, one, 1, 1, 1, &options, out, damp, info, 1, nullptr);
  };
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "sparsity must be in [0, 1], got 1.5");
  options = {0.5, 0, 0, 0, 0.01, 0};
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "block_size must");
  options = {0.5, 1, 1, 2, 0.01, 0};
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "m must divide D");
  options = {0.5, 1, 0, 0, 0.01, 0};
  CHECK_OK(call());
  options.reserved[1] = 1;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "reserved fields must be 0, got 1");
  options.reserved[1] = 0;
  // Not finite in the triangle that is not read, of a sample in the middle.
  constexpr int64_t S = 3, D = 140;
  std::vector<double> h, weights(D, 1.0), pruned(S * D), used(S);
  std::vector<int32_t> infos(S);
  for (int64_t s = 0; s < S; ++s) {
    const auto one_h = hessian_of<double>(D, static_cast<unsigned>(s));
    h.insert(h.end(), one_h.begin(), one_h.end());
  }
  for (const int64_t entry : {int64_t{1}, D}) {
    auto bad = h;
    bad[D * D + entry] = std::nan("");
    CHECK_FAILS(spade_sparsegpt_prune_f64(weights.data(), 0, bad.data(), S, 1, D, &options,
                                          pruned.data(), used.data(), infos.data(), 2, nullptr),
                SPADE_NOT_FINITE, "h must be finite, got nan");
  }
}

TEST_CASE(layers) {
  for (int threads : {1, 2, 3}) {
    prune(1, 1, 1, 1, 0.5, threads);
    prune(1, 70, 33, 9, 0.9, threads);
    prune(3, 65, 140, 128, 0.5, threads);
    prune(2, 5, 300, 200, 0.3, threads);
    prune(2, 150, 40, 1, 0.7, threads);
  }
}

TEST_CASE(scales_of_weights) {
  const int64_t R = 20, D = 33;
  const auto w = normal<float>(R * D, 9);
  const auto h = hessian_of<float>(D, 1);
  std::vector<float> expected(w.size()), out(w.size());
  double damp;
  int32_t info;
  for (const spade_sparsegpt_t& options :
       {spade_sparsegpt_t{0.5, 9, 0, 0, 0.01, 0}, spade_sparsegpt_t{0, 1, 2, 3, 0.01, 0}}) {
    CHECK_OK(spade_sparsegpt_prune_f32(w.data(), 0, h.data(), 1, R, D, &options, expected.data(),
                                       &damp, &info, 1, nullptr));
    for (const int exponent : {-116, -50, 50, 116}) {
      std::vector<float> scaled(w);
      for (float& x : scaled) x = std::ldexp(x, exponent);
      CHECK_OK(spade_sparsegpt_prune_f32(scaled.data(), 0, h.data(), 1, R, D, &options, out.data(),
                                         &damp, &info, 1, nullptr));
      for (size_t i = 0; i < out.size(); ++i) CHECK(std::ldexp(out[i], -exponent) == expected[i]);
    }
  }
  std::vector<float> one(w);
  one[5] = 3e38f;  // goes at full sparsity, with errors that leave float
  const spade_sparsegpt_t all{1, 9, 0, 0, 0.01, 0};
  CHECK_OK(spade_sparsegpt_prune_f32(one.data(), 0, h.data(), 1, R, D, &all, out.data(), &damp,
                                     &info, 1, nullptr));
  for (const float x : out) CHECK(x == 0);
}

}  // namespace

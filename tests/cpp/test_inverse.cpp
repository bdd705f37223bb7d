#include "check.h"

namespace {

void inverse(int64_t D, int threads) {
  const auto h = hessian_of<double>(D, 3);
  std::vector<double> hinv(h.size()), damped(h.size());
  double damp = -1;
  CHECK_OK(spade_damped_inverse_f64(h.data(), D, 0.01, hinv.data(), damped.data(), &damp, threads,
                                    nullptr));
  CHECK(damp == 0.01);
  for (int64_t i = 0; i < D; ++i)
    for (int64_t j = 0; j < D; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < D; ++k) sum += hinv[i * D + k] * damped[k * D + j];
      CHECK(close(sum, i == j, 1e-9));
    }
}

// Asked for the first time within the factorisation, before either of the two units is done; of
// several threads the caller's, which asks, may wait for a processor until the first is.
void stops_within_the_factorisation(int threads) {
  const auto h = hessian_of<double>(200, 3);
  std::vector<double> hinv(h.size());
  double damp;
  int64_t seen = -1;
  const auto note = [](void* to, int64_t done, int64_t) {
    *static_cast<int64_t*>(to) = done;
    return 1;
  };
  const spade_progress_t stop{note, &seen};
  CHECK_FAILS(
      spade_damped_inverse_f64(h.data(), 200, 0.01, hinv.data(), nullptr, &damp, threads, &stop),
      SPADE_CANCELLED, "cancelled");
  CHECK(seen >= 0 && seen < threads && seen < 2);
}

TEST_CASE(inverses) {
  for (int threads : {1, 3})
    for (int64_t D : {1, 2, 31, 200}) inverse(D, threads);
}

TEST_CASE(cancelled) {
  for (int threads : {1, 3}) stops_within_the_factorisation(threads);
}

TEST_CASE(errors) {
  const double negative[1] = {-1}, nan[1] = {std::nan("")};
  double out[1], damp;
  CHECK_FAILS(spade_damped_inverse_f64(negative, 1, 0.01, out, nullptr, &damp, 1, nullptr),
              SPADE_SINGULAR, "not positive definite");
  CHECK_FAILS(spade_damped_inverse_f64(nan, 1, 0.01, out, nullptr, &damp, 1, nullptr),
              SPADE_NOT_FINITE, "h must be finite");
  CHECK_FAILS(spade_damped_inverse_f64(nan, 1, -1, out, nullptr, &damp, 1, nullptr),
              SPADE_INVALID_ARGUMENT, "damp must be");
  CHECK_OK(spade_damped_inverse_f64(nullptr, 0, 0.01, nullptr, nullptr, &damp, 1, nullptr));
}

}  // namespace

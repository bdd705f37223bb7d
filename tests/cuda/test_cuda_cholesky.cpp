// Batched reversed Cholesky: V V^T is the damped matrix times a power of four, the ladder ends
// where spade_damped_inverse_f64 ends, and no matrix disturbs another.
#include <random>

#include "check.h"
#include "cuda/cholesky.cuh"

namespace {

using spade::cuda::CholeskyBatch;
using spade::cuda::Workspace;

// X^T X of `samples` random rows, and what is to be special about it.
std::vector<float> hessian(int64_t D, int64_t samples, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(static_cast<size_t>(samples * D));
  for (double& value : x) value = normal(generator);
  std::vector<float> h(static_cast<size_t>(D * D));
  for (int64_t i = 0; i < D; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < samples; ++k) sum += x[k * D + i] * x[k * D + j];
      h[i * D + j] = h[j * D + i] = static_cast<float>(sum);
    }
  return h;
}

// Factorise matrices of a size each in one batch, those of equal size that follow each other as one
// piece, and check each.
template <class T>
void check_batch(double damp, const std::vector<std::vector<float>>& matrices) {
  const int64_t S = static_cast<int64_t>(matrices.size());
  std::vector<T> all;
  for (const auto& h : matrices) all.insert(all.end(), h.begin(), h.end());
  const DeviceArray<T> h(all);
  DeviceArray<T> v(h.size());
  DeviceArray<double> damp_used(S);
  DeviceArray<int32_t> info(S);
  CholeskyBatch batch;
  std::vector<int64_t> start;  // of each matrix
  for (int64_t s = 0, at = 0; s < S; at += static_cast<int64_t>(matrices[s++].size())) {
    const int64_t D = std::lround(std::sqrt(double(matrices[s].size())));
    start.push_back(at);
    if (s > 0 && matrices[s].size() == matrices[s - 1].size())
      ++batch.pieces.back().S;
    else
      batch.pieces.push_back({h.get() + at, v.get() + at, damp_used.get() + s, info.get() + s, 1, D,
                              nullptr, nullptr, nullptr, nullptr});
  }
  const spade::cuda::Device device = spade::cuda::current_device("test");
  Workspace count;
  spade::cuda::take_cholesky<T>(count, device, damp, batch);
  DeviceArray<char> memory(static_cast<int64_t>(count.bytes()));
  Workspace workspace("test", memory.get(), count.bytes(), count.bytes());
  spade::cuda::take_cholesky<T>(workspace, device, damp, batch);
  spade::cuda::reversed_cholesky<T>("test", device, damp, batch, nullptr);
  for (int64_t s = 0; s < S; ++s) {
    const std::vector<double> wide(matrices[s].begin(), matrices[s].end());
    const int64_t D = std::lround(std::sqrt(double(wide.size())));
    std::vector<double> inverse(wide.size()), damped(wide.size());
    double expected_damp;
    const spade_status_t status = spade_damped_inverse_f64(
        wide.data(), D, damp, inverse.data(), damped.data(), &expected_damp, 1, nullptr);
    CHECK(info[s] == status);
    if (status != SPADE_SUCCESS) {
      CHECK(damp_used[s] == std::fmax(1.0, damp));
      continue;
    }
    CHECK(damp_used[s] == expected_damp);
    double mean = 0;  // of the diagonal without the damping
    for (int64_t i = 0; i < D; ++i) mean += damped[i * D + i] / double(D) / (1 + expected_damp);
    const double scale = spade::cuda::cholesky::scale_for(mean);
    CHECK(mean * scale >= 0.499 && mean * scale < 4.001 && std::ilogb(scale) % 2 == 0);
    for (double& entry : damped) entry *= scale;
    const T* of = v.get() + start[s];
    std::vector<double> product(wide.size());
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = i; j < D; ++j) {
        double sum = 0;
        for (int64_t k = j; k < D; ++k) sum += double(of[i * D + k]) * double(of[j * D + k]);
        product[i * D + j] = product[j * D + i] = sum;
      }
    CHECK(relative_error(product, damped, D * D) < (sizeof(T) == 4 ? 2e-6 : 1e-13));
  }
}

void test_sizes() {
  for (const int64_t D : {1, 31, 33, 64, 65, 129}) {
    check_batch<float>(0.1, {hessian(D, 2 * D + 4, 1)});
  }
}

// Matrices that succeed at different rungs, one that never does, dead columns.
void test_ladder() {
  const int64_t D = 70;
  const std::vector<float> good = hessian(D, 200, 3);
  std::vector<float> dead = good, late = good, later = good, singular = good;
  for (int64_t j = 0; j < D; ++j)
    for (const int64_t k : {0, 66}) dead[k * D + j] = dead[j * D + k] = 0;
  late[5 * D + 5] = -1;  // the mean of the diagonal is about 200
  later[69 * D + 69] = -30;
  singular[0] = -1e6f;
  for (const double damp : {1e-4, 0.01, 300.0})
    check_batch<float>(damp, {singular, late, dead, later});
  check_batch<float>(0.0, {hessian(40, 20, 4)});  // rank 20
}

// Hessians from 2^-148 on up to the largest float.
void test_scales() {
  for (const double damp : {0.01, 1e-5}) {
    std::vector<std::vector<float>> all;
    for (const int power : {0, -148, -100, -101, 99, 112}) {
      std::vector<float> h = hessian(70, 200, 7);
      for (float& entry : h) entry = std::ldexp(std::round(entry), power - (power == -148 ? 0 : 4));
      all.push_back(h);
    }
    check_batch<float>(damp, all);
    for (std::vector<float>& h : all)
      for (float& entry : h) entry *= 1.7f;
    check_batch<float>(damp, all);
  }
}

// Pieces of different sizes, each on a rung of its own; those of few panels end early.
template <class T>
void test_pieces() {
  std::vector<float> late = hessian(140, 300, 8), singular = hessian(65, 100, 9);
  late[5 * 140 + 5] = -1;
  singular[0] = -1e6f;
  for (const double damp : {1e-4, 0.01})
    check_batch<T>(damp, {hessian(33, 80, 10), hessian(200, 210, 11), late, hessian(140, 300, 12),
                          singular, hessian(1, 4, 13), hessian(64, 70, 14)});
}

}  // namespace

int main() {
#ifdef __SANITIZE_THREAD__          // races show in one schedule, whatever the numbers
  for (const int minor : {0, 6}) {  // factors in double, in float
    spade::emulation::device.minor = minor;
    check_batch<float>(0.01, {hessian(130, 200, 5), hessian(130, 10, 6), hessian(66, 90, 7)});
  }
  check_batch<double>(0.01, {hessian(66, 90, 7), hessian(33, 20, 8)});
  return report();
#endif
  test_sizes();
  test_scales();
  spade::emulation::device.minor = 6;  // floats from a damping of 1e-3 on
  test_sizes();
  test_scales();
  for_each_schedule([] {
    check_batch<float>(0.01, {hessian(130, 200, 5), hessian(130, 10, 6), hessian(66, 90, 7)});
  });
  test_ladder();
  test_pieces<float>();
  test_pieces<double>();
  return report();
}

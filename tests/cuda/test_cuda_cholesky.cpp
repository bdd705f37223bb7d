// Batched reversed Cholesky: V V^T is the damped matrix times a power of four, the ladder ends
// where spade_damped_inverse_f64 ends, and no matrix disturbs another.
#include <random>

#include "check.h"
#include "cuda/cholesky.cu"

namespace {

using spade::cuda::CholeskyScratch;
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

// Factorise all matrices in one batch and check each.
void check_batch(int64_t D, double damp, const std::vector<std::vector<float>>& matrices) {
  const int64_t S = static_cast<int64_t>(matrices.size());
  std::vector<float> all;
  for (const auto& h : matrices) all.insert(all.end(), h.begin(), h.end());
  const DeviceArray<float> h(all);
  DeviceArray<float> v(S * D * D);
  DeviceArray<double> damp_used(S);
  DeviceArray<int32_t> info(S);
  const spade::cuda::Device device = spade::cuda::current_device("test");
  Workspace count;
  take_cholesky(count, device, S, D, damp);
  DeviceArray<char> memory(static_cast<int64_t>(count.bytes()));
  Workspace workspace("test", memory.get(), count.bytes(), count.bytes());
  const CholeskyScratch scratch = take_cholesky(workspace, device, S, D, damp);
  spade::cuda::reversed_cholesky("test", device, h.get(), S, D, damp, scratch, v.get(),
                                 damp_used.get(), info.get(), nullptr);
  for (int64_t s = 0; s < S; ++s) {
    const std::vector<double> wide(matrices[s].begin(), matrices[s].end());
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
    const float* of = v.get() + s * D * D;
    std::vector<double> product(wide.size());
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = i; j < D; ++j) {
        double sum = 0;
        for (int64_t k = j; k < D; ++k) sum += double(of[i * D + k]) * double(of[j * D + k]);
        product[i * D + j] = product[j * D + i] = sum;
      }
    CHECK(relative_error(product, damped, D * D) < 2e-6);
  }
}

void test_sizes() {
  for (const int64_t D : {1, 31, 33, 64, 65, 129}) {
    check_batch(D, 0.1, {hessian(D, 2 * D + 4, 1)});
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
  for (const double damp : {1e-4, 0.01, 300.0}) check_batch(D, damp, {singular, late, dead, later});
  check_batch(40, 0.0, {hessian(40, 20, 4)});  // rank 20
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
    check_batch(70, damp, all);
    for (std::vector<float>& h : all)
      for (float& entry : h) entry *= 1.7f;
    check_batch(70, damp, all);
  }
}

}  // namespace

int main() {
  test_sizes();
  test_scales();
  spade::emulation::device.minor = 6;  // floats from a damping of 1e-3 on
  test_sizes();
  test_scales();
  for_each_schedule([] { check_batch(130, 0.01, {hessian(130, 200, 5), hessian(130, 10, 6)}); });
  test_ladder();
  return report();
}

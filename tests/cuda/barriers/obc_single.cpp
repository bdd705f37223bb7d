// obc_single on one row of 33 columns in two warps, against the CPU: small enough to be built once
// more from a copy of the kernel that lacks a barrier, which must fail.
#include "cuda/obc_single.cuh"

#include <random>

#include "check.h"
#include "cuda/obc_layout.h"

namespace {

using namespace spade::cuda::obc;

void test_row() {
  constexpr int64_t D = 33;
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  std::vector<float> weights(D), matrix(D * D);
  for (float& x : weights) x = normal(generator);
  for (int64_t i = 0; i < D; ++i)
    for (int64_t j = 0; j <= i; ++j)
      matrix[i * D + j] = matrix[j * D + i] = i == j ? 2.0f : 0.05f * normal(generator);
  std::vector<int32_t> expected(D), stops(1);
  std::vector<float> losses(D);
  CHECK_SUCCESS(spade_obc_trace_f32(weights.data(), matrix.data(), 1, D, D, expected.data(),
                                    losses.data(), stops.data(), 1, nullptr));

  const DeviceArray<float> w(weights), hinv(matrix);
  DeviceArray<int32_t> order(D), info(1);
  DeviceArray<float> loss(D);
  const Elimination e{D, D};
  const size_t bytes = bytes_of(ObcForm::kSingle, 1, e);
  DeviceArray<char> memory(static_cast<int64_t>(bytes));
  spade::cuda::Workspace workspace("test", memory.get(), bytes, bytes);
  ObcRows rows = lay_out(workspace, ObcForm::kSingle, 1, e);
  rows.hinv = matrices_of(hinv.get(), 1, 1, D);
  rows.weights = w.get();
  rows.order = order.get();
  rows.loss = loss.get();
  rows.info = info.get();
  SPADE_LAUNCH((obc_single<64, 1, 8>), dim3(1), dim3(64),
               (single_shared_bytes<64, 1, 8>(rows.D, rows.steps)), nullptr, rows);
  CHECK(stops[0] == 0 && info[0] == 0);
  CHECK(order.values() == expected);
  CHECK(relative_error(loss, losses, D) <= 1e-5);
}

}  // namespace

int main() {
  for_each_schedule(test_row);
  return report();
}

// obc_update_half on tiles alone: A - U U^T of U that is all positive, whose sums, cut off by
// tensor cores, err to one side. A row's matrix takes an update every kPanel eliminations, so a
// bias adds up, where errors that round to nearest would not.
#include <random>

#include "check.h"
#include "cuda/obc_layout.h"
#include "cuda/obc_update_half.cuh"

namespace {

using namespace spade::cuda::obc;

// One row of `size` columns in their places, A = 0 and scales of 1: what is left is -U U^T.
void check_bias(int size) {
  const Elimination e{size + kPanel, size + kPanel};
  const size_t bytes = bytes_of(ObcForm::kTiled, 1, e);
  DeviceArray<char> memory(static_cast<int64_t>(bytes));
  spade::cuda::Workspace workspace("test", memory.get(), bytes, bytes);
  ObcRows rows = lay_out(workspace, ObcForm::kTiled, 1, e);
  DeviceArray<int32_t> info(1);
  const DeviceArray<float> hinv(1);
  rows.hinv = matrices_of(hinv.get(), 1, 1, 1);
  rows.info = info.get();
  info[0] = 0;
  rows.size[0] = size;
  std::fill(rows.matrix, rows.matrix + rows.matrix_size, 0.0f);
  std::mt19937 generator(5);
  std::uniform_real_distribution<float> entry(0.5f, 1.0f);
  std::vector<double> high(size * kPanel), low(size * kPanel);
  for (int i = 0; i < size; ++i) {
    rows.source[i] = i;
    rows.scale[i] = 1.0f;
    for (int at = i * kPanel; at < (i + 1) * kPanel; ++at) {
      const float u = entry(generator);
      rows.high[at] = spade::cuda::to_half(u);
      high[at] = spade::cuda::from_half(rows.high[at]);
      rows.low[at] = spade::cuda::to_half(u - static_cast<float>(high[at]));
      low[at] = spade::cuda::from_half(rows.low[at]);
    }
  }
  const int64_t tiles = packed_size(size) / (kPackedTile * kPackedTile);
  SPADE_LAUNCH(obc_update_half, dim3(static_cast<unsigned>(tiles)), dim3(kUpdateThreads),
               kHalfSharedBytes, nullptr, UpdateTask{rows, false});
  double bias = 0, most = 0;
  for (int i = 0; i < size; ++i)
    for (int j = 0; j < size; ++j) {
      double product = 0;
      for (int k = 0; k < kPanel; ++k) {
        const int a = i * kPanel + k, b = j * kPanel + k;
        product += high[a] * high[b] + high[a] * low[b] + low[a] * high[b];
      }
      const double error = -rows.matrix[packed_index(i, j)] / product - 1;
      bias += error / (double(size) * size);
      most = std::fmax(most, std::isnan(error) ? 1 : std::fabs(error));
    }
  CHECK(std::fabs(bias) < 1e-7);
  CHECK(most < 5e-7);
}

}  // namespace

int main() {
  check_bias(131);  // a whole tile, one of three rows and one of three rows and columns
  return report();
}

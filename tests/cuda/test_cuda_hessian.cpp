// hessian_linear and hessian_conv2d of csrc/cuda: sizes around warps, tiles and blocks, strides,
// borders, groups, element types, several samples; empty inputs and errors.
#include "cuda/store.cuh"
#include "hessian_check.h"

namespace {

void exact(const spade_conv2d_t& conv, int64_t S = 1) {
  convolution<float>(conv, S, SPADE_PRECISION_DEFAULT, kExact);
}

// Each kernel in each of its variants, with few threads: a thread costs milliseconds under
// ThreadSanitizer.
void small_layers() {
  linear<float>(1, 1, 1, 1, SPADE_PRECISION_DEFAULT, kExact);
  linear<float>(1, 33, 7, 9, SPADE_PRECISION_FAST, 1e-3);  // few rows: errors do not average
  linear<Half>(1, 33, 65, 67, SPADE_PRECISION_DEFAULT, kExact);
  linear<Bfloat16>(2, 40, 20, 20, SPADE_PRECISION_FAST, kExact);
  exact(Convolution{1, 34, 5, 4, 2, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1}.nchw());
  exact(Convolution{2, 34, 3, 5, 1, 2, 1, 2, 0, 0, 1, 1, 1, 2, 1}.channels_last(), 2);
  exact(Convolution{4, 5, 5, 6, 1, 1, 2, 3, 1, 1, 0, 2, 1, 1, 1}.nchw(), 2);
  exact(Convolution{2, 3, 6, 5, 3, 2, 2, 1, 2, 2, 0, 1, 1, 1, 1}.spread());
  exact(Convolution{2, 3, 6, 5, 3, 3, 1, 2, 1, 1, 1, 0, 1, 1, 3}.channels_last(), 2);
  // 16-bit channels multiplied where they lie.
  linear<Bfloat16>(1, 33, 40, 48, SPADE_PRECISION_DEFAULT, kExact);
  convolution<Half>(Convolution{2, 64, 3, 4, 1, 2, 2, 1, 0, 0, 1, 0, 1, 1, 2}.channels_last(), 2,
                    SPADE_PRECISION_DEFAULT, kExact);
  const spade_conv2d_t splits = Convolution{1, 2, 24, 23, 2, 2, 1, 1, 1, 0, 0, 1, 1, 1, 2}.nchw();
  convolution<Half>(splits, 1, SPADE_PRECISION_FAST, kExact);
  const spade_conv2d_t few = Convolution{2, 6, 4, 5, 1, 3, 1, 1, 0, 0, 1, 1, 1, 1, 1}.nchw();
  convolution<Bfloat16>(few, 2, SPADE_PRECISION_DEFAULT, kExact);
  convolution<float>(few, 1, SPADE_PRECISION_FAST, 1e-3);
}

void larger_layers() {
  linear<float>(3, 96, 64, 64, SPADE_PRECISION_DEFAULT, kExact);
  linear<float>(1, 40, 130, 131, SPADE_PRECISION_DEFAULT, kExact);  // two tiles a side
  exact(Convolution{2, 33, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}.nchw());
  exact(Convolution{2, 32, 7, 6, 3, 3, 2, 2, 1, 0, 0, 1, 1, 1, 1}.channels_last());
  exact(Convolution{2, 68, 5, 4, 2, 1, 1, 2, 1, 0, 0, 0, 2, 1, 2}.spread());
  exact(Convolution{1, 33, 9, 8, 2, 1, 2, 1, 3, 4, 0, 2, 3, 2, 1}.nchw());
  const spade_conv2d_t long_plan = Convolution{1, 32, 6, 8, 3, 4, 1, 1, 1, 2, 1, 2, 1, 1, 1}.nchw();
  exact(long_plan);
  CHECK(spade::cuda::conv2d_problem(&long_plan, 1, SPADE_FLOAT32, 0).plan.words.size() >
        spade::cuda::kPassedWords);
  exact(Convolution{1, 130, 1, 3, 1, 2, 1, 1, 0, 0, 1, 0, 1, 1, 1}.channels_last());
  exact(Convolution{2, 3, 9, 8, 5, 5, 2, 2, 2, 2, 1, 2, 1, 1, 1}.nchw());
  exact(Convolution{4, 9, 9, 9, 3, 3, 1, 2, 1, 1, 0, 1, 1, 2, 9}.nchw(), 2);
}

// One product of fp16 numbers in half the memory, in four splits.
void fast_is_one_product() {
  const std::vector<float> rows = numbers<float>(1700 * 9, true);
  CHECK(linear_of(rows, 1, 1700, 9, 9, SPADE_PRECISION_FAST, kFast) > kExact);
  size_t one = 0, three = 0;
  for (const auto& [bytes, precision] :
       {std::pair{&one, SPADE_PRECISION_FAST}, std::pair{&three, SPADE_PRECISION_DEFAULT}})
    CHECK_SUCCESS(spade::cuda::hessian_linear_workspace_bytes(1, 1 << 14, 64, SPADE_FLOAT32,
                                                              precision, bytes));
  CHECK(three - one >= (size_t{1} << 14) * 64 * sizeof(uint16_t));
}

// Products of one sign: a sum that tensor cores cut off all along drifts with its length.
void sums_do_not_drift() {
  std::mt19937 generator(8);
  std::uniform_real_distribution<float> size(0.5f, 1.0f);
  std::vector<float> x(1024 * 9);  // two splits
  for (float& value : x) value = size(generator);
  linear_of(x, 1, 1024, 9, 9, SPADE_PRECISION_DEFAULT, kExact);
  x.resize(64 * 64);
  const auto image = Convolution{1, 1, 64, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}.nchw();
  convolution_of(x, image, 1, SPADE_PRECISION_DEFAULT, kExact);
}

// A sample's H has the same bits alone and beside others, in one launch and in several.
void samples_are_independent() {
  const auto together = [](int64_t channels, int64_t S) {
    return convolution<float>(
        Convolution{S, channels, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, channels}.nchw(), S,
        SPADE_PRECISION_DEFAULT, kExact);
  };
  const int64_t channels = 700;  // so many blocks that a launch takes two samples
  const std::vector<double> three = together(channels, 3), one = together(channels, 1);
  CHECK(std::equal(one.begin(), one.end(), three.begin()));
}

void empty_inputs() {
  size_t bytes = 1;
  double h = 3;
  using namespace spade::cuda;
  CHECK_SUCCESS(hessian_linear_workspace_bytes(1, 0, 1, SPADE_FLOAT32, 0, &bytes));
  CHECK(bytes == 0);
  CHECK_SUCCESS(hessian_linear(nullptr, SPADE_FLOAT32, 1, 0, 1, 1, 0, &h, nullptr, 0, nullptr));
  CHECK_SUCCESS(
      hessian_linear(nullptr, SPADE_FLOAT16, 0, 0, 4, 4, 0, nullptr, nullptr, 0, nullptr));
  CHECK_SUCCESS(
      hessian_linear(nullptr, SPADE_FLOAT16, 1, 5, 0, 4, 0, nullptr, nullptr, 0, nullptr));
  for (const Convolution& c : {Convolution{0, 1, 4, 4, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},
                               Convolution{1, 1, 0, 4, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1},
                               Convolution{1, 1, 2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                               Convolution{1, 64, 1, 1, 1, 1, 2, 1, 1, 0, 0, 0, 1, 1, 1}}) {
    const spade_conv2d_t conv = c.nchw();
    CHECK_SUCCESS(hessian_conv2d_workspace_bytes(&conv, 1, SPADE_FLOAT32, 0, &bytes));
    CHECK(bytes == 0);
    CHECK_SUCCESS(hessian_conv2d(nullptr, SPADE_FLOAT32, &conv, 1, 0, &h, nullptr, 0, nullptr));
  }
  CHECK(h == 3);
}

void errors() {
  using namespace spade::cuda;
  size_t bytes = 0;
  const auto query = [&](int64_t S, int64_t N, int64_t D, int dtype, int precision) {
    return hessian_linear_workspace_bytes(S, N, D, dtype, precision, &bytes);
  };
  CHECK_FAILS(query(1, -1, 2, 0, 0), SPADE_INVALID_ARGUMENT, "hessian_linear: N must be >= 0");
  CHECK_FAILS(query(1, 2, -2, 0, 0), SPADE_INVALID_ARGUMENT, "D must be in [0, 2^31), got -2");
  CHECK_FAILS(query(-1, 2, 2, 0, 0), SPADE_INVALID_ARGUMENT, "S must be in [0, 2^31), got -1");
  CHECK_FAILS(query(2, 3, 2, 0, 0), SPADE_INVALID_ARGUMENT, "S must divide the 3 rows or images");
  CHECK_FAILS(query(0, 3, 2, 0, 0), SPADE_INVALID_ARGUMENT, "S must divide");
  CHECK_FAILS(query(1, 3, 2, 3, 0), SPADE_INVALID_ARGUMENT,
              "dtype must be SPADE_FLOAT32, SPADE_FLOAT16 or SPADE_BFLOAT16, got 3");
  CHECK_FAILS(query(1, 3, 2, 0, 2), SPADE_INVALID_ARGUMENT,
              "precision must be a spade_precision_t");
  CHECK_FAILS(query(1, int64_t{1} << 31, 2, 0, 0), SPADE_INVALID_ARGUMENT,
              "rows or images of one sample must be below 2^31");
  CHECK_FAILS(query(1, 2, INT32_MAX, 0, 0), SPADE_INVALID_ARGUMENT, "columns of H must be at most");
  CHECK_FAILS(hessian_linear_workspace_bytes(1, 3, 2, 0, 0, nullptr), SPADE_INVALID_ARGUMENT,
              "bytes must not be NULL");
  CHECK_SUCCESS(query(1, 3, 2, 0, 0));
  const DeviceArray<float> x(std::vector<float>(6, 1.0f));
  DeviceArray<double> h(std::vector<double>(4, 0.0));
  DeviceArray<char> workspace(static_cast<int64_t>(bytes));
  const auto run = [&](const float* from, int64_t ldx, double* to, void* at, size_t size) {
    return hessian_linear(from, SPADE_FLOAT32, 1, 3, 2, ldx, 0, to, at, size, nullptr);
  };
  CHECK_FAILS(run(x.get(), 1, h.get(), workspace.get(), bytes), SPADE_INVALID_ARGUMENT,
              "ldx must be at least D = 2, got 1");
  CHECK_FAILS(run(nullptr, 2, h.get(), workspace.get(), bytes), SPADE_INVALID_ARGUMENT,
              "x must not be NULL");
  CHECK_FAILS(run(x.get(), 2, nullptr, workspace.get(), bytes), SPADE_INVALID_ARGUMENT,
              "h must not be NULL");
  CHECK_FAILS(run(x.get(), 2, h.get(), workspace.get(), bytes - 1), SPADE_INVALID_ARGUMENT,
              "workspace_bytes must be at least");
  CHECK_FAILS(run(x.get(), 2, h.get(), nullptr, bytes), SPADE_INVALID_ARGUMENT,
              "workspace must not be NULL");
  spade_conv2d_t large = Convolution{1, 1, 2, 2, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1}.nchw();
  CHECK_FAILS(hessian_conv2d_workspace_bytes(&large, 1, 0, 0, &bytes), SPADE_INVALID_ARGUMENT,
              "the kernel must not reach beyond the padded");
  spade_conv2d_t conv = Convolution{1, 3, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 2}.nchw();
  CHECK_FAILS(hessian_conv2d_workspace_bytes(&conv, 1, 0, 0, &bytes), SPADE_INVALID_ARGUMENT,
              "spade_cuda_hessian_conv2d: groups must divide channels = 3, got 2");
  conv.groups = 1;
  conv.pad_left = 1 << 30;
  CHECK_FAILS(hessian_conv2d_workspace_bytes(&conv, 1, 0, 0, &bytes), SPADE_INVALID_ARGUMENT,
              "padded width must be below 2^30");
  CHECK_FAILS(hessian_conv2d_workspace_bytes(nullptr, 1, 0, 0, &bytes), SPADE_INVALID_ARGUMENT,
              "conv must not be NULL");
}

}  // namespace

int main() {
#ifdef __SANITIZE_THREAD__  // races show in one schedule, whatever the numbers
  small_layers();
  return report();
#endif
  empty_inputs();
  errors();
  for_each_schedule(small_layers);
  spade::emulation::schedule = spade::emulation::Schedule::kRandom;
  larger_layers();
  fast_is_one_product();
  sums_do_not_drift();
  samples_are_independent();
  return report();
}

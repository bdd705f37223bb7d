// The emulation itself: kernels that are right give the right result under every schedule; copies
// with one synchronisation removed are caught. `test_emulation` runs the right ones and returns 0;
// `test_emulation <fault>` runs one broken copy under every schedule and returns 0 only if nothing
// was noticed.
#include <numeric>

#include "check.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"

namespace {

enum Fault { kNone, kBarrier, kWarp, kCopy, kDivergent, kMissingLane, kOverwrite, kBlocks };

constexpr int kThreads = 64, kBlocksOfGrid = 3;

// out[block] = sum of the squares of its kThreads numbers: async copy, tree through shared memory,
// last warp by shuffles.
template <int kFault>
__global__ void sum_of_squares(const float* x, float* out) {
  SPADE_SHARED(float, in, kThreads);
  SPADE_DYNAMIC_SHARED(float, part);
  const int tid = static_cast<int>(threadIdx.x);
  x += blockIdx.x * kThreads;
  if (tid < kThreads / 4) spade::cuda::cp_async16(in + 4 * tid, x + 4 * tid);
  spade::cuda::cp_async_commit();
  if (kFault != kCopy) spade::cuda::cp_async_wait<0>();
  if (kFault == kDivergent && tid < 32)
    __syncthreads();
  else
    __syncthreads();  // the copies of all threads have arrived
  part[tid] = in[tid] * in[tid];
  if (kFault != kBarrier) __syncthreads();  // part is complete
  if (tid < 32) {
    float sum = part[tid] + part[63 - tid];
    if (kFault == kMissingLane && tid == 5) return;
    for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(~0u, sum, by);
    if (tid == 0) out[blockIdx.x] = sum;
  }
}

// Reverses 32 numbers through shared memory, `rounds` times.
template <int kFault>
__global__ void reverse(const float* x, float* out, int rounds) {
  SPADE_SHARED(float, line, 32);
  const int lane = static_cast<int>(threadIdx.x);
  float value = x[lane];
  for (int i = 0; i < rounds; ++i) {
    line[lane] = value;
    if (kFault != kWarp) __syncwarp();  // line is complete
    value = line[31 - lane];
    if (kFault != kOverwrite) __syncwarp();  // line has been read
  }
  out[lane] = value;
}

// Running sum over blocks: right only if each block has a launch of its own.
__global__ void running_sum(const float* x, float* out, int first) {
  const int i = first + static_cast<int>(blockIdx.x);
  out[i] = x[i] + (i ? out[i - 1] : 0.0f);
}

// Which lane holds what: the product of two counted matrices.
__global__ void multiply(float* out) {
  SPADE_SHARED(uint16_t, a, 16 * 16);
  SPADE_SHARED(uint16_t, b, 16 * 8);
  const int lane = static_cast<int>(threadIdx.x);
  for (int e = lane; e < 256; e += 32) a[e] = spade::cuda::to_half(float(e % 7 - e / 16));
  for (int e = lane; e < 128; e += 32) b[e] = spade::cuda::to_half(float(e % 5 + e / 8));
  __syncwarp();
  unsigned fa[4], fb[4];
  float c[4] = {1, 1, 1, 1};
  spade::cuda::ldmatrix_x4(fa, a + lane % 16 * 16 + lane / 16 * 8);
  spade::cuda::ldmatrix_x4_transposed(fb, b + lane % 16 * 8);
  const unsigned columns[2] = {fb[0], fb[1]};
  spade::cuda::mma_half(c, fa, columns);
  for (int j = 0; j < 4; ++j) out[(lane / 4 + j / 2 * 8) * 8 + lane % 4 * 2 + j % 2] = c[j];
}

std::vector<float> counted(int count) {
  std::vector<float> x(static_cast<size_t>(count));
  std::iota(x.begin(), x.end(), 1.0f);
  return x;
}

template <int kFault>
void test_sum_of_squares() {
  const DeviceArray<float> x(counted(kBlocksOfGrid * kThreads));
  DeviceArray<float> out(kBlocksOfGrid);
  SPADE_LAUNCH(sum_of_squares<kFault>, dim3(kBlocksOfGrid), dim3(kThreads),
               kThreads * sizeof(float), nullptr, x.get(), out.get());
  for (int b = 0; b < kBlocksOfGrid; ++b) {
    float expected = 0;
    for (int i = 0; i < kThreads; ++i) expected += x[b * kThreads + i] * x[b * kThreads + i];
    CHECK(out[b] == expected);
  }
}

template <int kFault>
void test_reverse() {
  const DeviceArray<float> x(counted(32));
  DeviceArray<float> out(32);
  SPADE_LAUNCH(reverse<kFault>, dim3(1), dim3(32), 0, nullptr, x.get(), out.get(), 3);
  for (int i = 0; i < 32; ++i) CHECK(out[i] == x[31 - i]);
}

void test_running_sum(bool one_launch) {
  const DeviceArray<float> x(counted(4));
  DeviceArray<float> out(4);
  for (int i = 0; i < 4; i += one_launch ? 4 : 1)
    SPADE_LAUNCH(running_sum, dim3(one_launch ? 4 : 1), dim3(1), 0, nullptr, x.get(), out.get(), i);
  CHECK(out[3] == 10.0f);
}

void test_multiply() {
  DeviceArray<float> out(16 * 8);
  SPADE_LAUNCH(multiply, dim3(1), dim3(32), 0, nullptr, out.get());
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      float expected = 1;
      for (int k = 0; k < 16; ++k)
        expected += float((16 * i + k) % 7 - i) * float((8 * k + j) % 5 + k);
      CHECK(out[i * 8 + j] == expected);
    }
}

void test_conversions() {
  using namespace spade::cuda;
  CHECK(to_half(1.0f) == 0x3C00 && to_half(1.0f + 0x1p-11f) == 0x3C00);
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const float x = from_half(static_cast<uint16_t>(bits));
    CHECK(std::isnan(x) || to_half(x) == bits);
  }
  CHECK(std::isnan(from_half(0x7C01)) && std::isinf(from_half(0xFC00)));
  CHECK(from_half(0x0001) == 0x1p-24f && std::isinf(from_half(to_half(1e5f))));
  CHECK(to_bfloat16(1.0f) == 0x3F80 && to_bfloat16(1.0f + 0x1p-8f) == 0x3F80);
  CHECK(to_bfloat16(1.0f + 0x1.8p-7f) == 0x3F82 && from_bfloat16(0x4049) == 3.140625f);
}

void test_workspace() {
  spade::cuda::Workspace counted;
  CHECK(!counted.take<float>(3) && !counted.take<char>(1));
  DeviceArray<char> memory(static_cast<int64_t>(counted.bytes()));
  spade::cuda::Workspace carved("f", memory.get(), counted.bytes(), counted.bytes());
  CHECK(reinterpret_cast<char*>(carved.take<float>(3)) == memory.get());
  CHECK(reinterpret_cast<uintptr_t>(carved.take<char>(1)) % spade::cuda::kAlignment == 0);
  const auto carve = [&](void* at, size_t bytes) {
    return spade::guarded([&] { spade::cuda::Workspace("f", at, bytes, 256); });
  };
  CHECK_FAILS(carve(memory.get(), 255), SPADE_INVALID_ARGUMENT,
              "f: workspace_bytes must be at least 256, got 255");
  CHECK_FAILS(carve(nullptr, 256), SPADE_INVALID_ARGUMENT, "workspace must not be NULL");
  CHECK_FAILS(carve(memory.get() + 8, 256), SPADE_INVALID_ARGUMENT, "aligned to 256 bytes");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string fault = argc > 1 ? argv[1] : "";
  for_each_schedule([&] {
    if (fault == "barrier") return test_sum_of_squares<kBarrier>();
    if (fault == "copy") return test_sum_of_squares<kCopy>();
    if (fault == "divergent") return test_sum_of_squares<kDivergent>();
    if (fault == "missing_lane") return test_sum_of_squares<kMissingLane>();
    if (fault == "warp") return test_reverse<kWarp>();
    if (fault == "overwrite") return test_reverse<kOverwrite>();
    if (fault == "blocks") return test_running_sum(true);
    test_sum_of_squares<kNone>();
    test_reverse<kNone>();
    test_running_sum(false);
    test_multiply();
    test_conversions();
    test_workspace();
  });
  return report();
}

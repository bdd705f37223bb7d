// Host code as nvcc compiles it (launch.h without the emulation), on the device of cuda_runtime.h
// beside this file: streams, shared memory, errors. That file declares nothing that waits, and the
// sources compile under the emulation without any CUDA function, so no call of the backend waits.
#include <cstdio>

#include "cuda/launch.h"

namespace {

using namespace spade::cuda;

int failures = 0;
#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::printf("%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                               \
    }                                                                           \
  } while (0)

// The text of what a call fails with, or "".
template <class Call>
std::string failure(Call&& call) {
  const spade_status_t status = spade::guarded(call);
  CHECK(status == SPADE_SUCCESS || status == SPADE_CUDA_ERROR);
  return status == SPADE_SUCCESS ? "" : spade_last_error();
}

void kernel(long long count, float* out) { *out = static_cast<float>(count); }

// What is told of a machine on which everything else is well.
std::string reason_of(void (*change)()) {
  fake = {};
  change();
  const std::string reason = find_unavailable_reason();
  CHECK(fake.last == cudaSuccess);
  return reason;
}

void test_reasons() {
  const std::string none = "no CUDA-capable device is detected";
  CHECK(reason_of([] {}).empty());
  CHECK(reason_of([] { fake.driver = 0; }) == "no NVIDIA driver");
  CHECK(reason_of([] { fake.refusal = cudaErrorNoDevice; }) == none);
  CHECK(reason_of([] { fake.count = 0; }) == none);
  CHECK(reason_of([] { fake.count = 2; }).empty());
  CHECK(reason_of([] {
          fake.major = 7;
          fake.minor = 5;
        }) == "compute capability 8.0 or higher is needed, the GPU has 7.5");
  CHECK(reason_of([] {  // the second GPU will do
          fake.count = 2;
          fake.major = 7;
          fake.next_major = 1;
        })
            .empty());
  CHECK(reason_of([] {  // the first GPU will do
          fake.count = 2;
          fake.next_major = -1;
        })
            .empty());
  CHECK(reason_of([] {
          fake.count = 3;
          fake.major = 5;
          fake.minor = 2;
          fake.next_major = 1;
        }) == "compute capability 8.0 or higher is needed, the GPU has 7.2");
  CHECK(reason_of([] { fake.minor = 0; }).empty());
  CHECK(reason_of([] { fake.major = 9; }).empty());
  fake = {};
  fake.driver = 0;
  CHECK(unavailable_reason() == std::string("no NVIDIA driver"));
  fake = {};
  CHECK(unavailable_reason() == std::string("no NVIDIA driver"));  // the answer is kept
}

void test_device() {
  fake = {};
  fake.refusal = cudaErrorNoDevice;
  CHECK(failure([] { current_device("f"); }) == "f: no CUDA-capable device is detected");
  fake = {};
  const Device device = current_device("f");
  CHECK(device.major == 8 && device.minor == 6 && device.multiprocessors == 82 &&
        device.shared_bytes == fake.most_shared);
}

void test_launch() {
  fake = {};
  float out = 0;
  const cudaStream_t stream = reinterpret_cast<cudaStream_t>(&out);
  SPADE_LAUNCH(kernel, dim3(3, 2), dim3(64), 16, stream, 7, &out);  // int becomes long long
  CHECK(failure([] { check_launch("f"); }).empty());
  CHECK(out == 7 && fake.kernel == reinterpret_cast<const void*>(&kernel));
  CHECK(fake.grid.x == 3 && fake.grid.y == 2 && fake.block.x == 64 && fake.shared == 16);
  const float one = 1;
  fill_bytes("f", &out, 0, sizeof(float), stream);
  CHECK(out == 0);
  copy_bytes("f", &out, &one, sizeof(float), stream);
  CHECK(out == 1);
  fill_bytes("f", nullptr, 0, 0, stream);
  copy_bytes("f", nullptr, nullptr, 0, stream);
  CHECK(fake.streams == std::vector<cudaStream_t>(3, stream));
}

// Declared and dynamic shared memory that exceed 48 KB only together must be asked for.
void test_shared_memory() {
  float out = 0;
  for (const size_t declared : {size_t{0}, size_t{30} << 10, size_t{40} << 10})
    for (const size_t dynamic : {size_t{0}, size_t{8} << 10, size_t{20} << 10, size_t{48} << 10,
                                 (size_t{99} << 10) - declared}) {
      fake = {};
      fake.declared = declared;
      SPADE_LAUNCH(kernel, dim3(1), dim3(1), dynamic, nullptr, 1, &out);
      const bool fits = declared + dynamic <= fake.most_shared;
      CHECK(failure([] { check_launch("f"); }) == (fits ? "" : "f: invalid argument"));
      CHECK(fake.streams.size() == fits);
    }
}

void test_errors() {
  fake = {};
  fake.refusal = cudaErrorNoDevice;
  float out = 0;
  SPADE_LAUNCH(kernel, dim3(1), dim3(1), size_t{50} << 10, nullptr, 1, &out);
  CHECK(failure([] { check_launch("f"); }) == "f: no CUDA-capable device is detected");
  CHECK(failure([] { check_launch("f"); }).empty());  // told once
  CHECK(failure([&] { fill_bytes("f", &out, 0, 4, nullptr); }) ==
        "f: no CUDA-capable device is detected");
  CHECK(failure([] { check_launch("f"); }).empty());
  CHECK(failure([&] { copy_bytes("f", &out, &out, 4, nullptr); }) ==
        "f: no CUDA-capable device is detected");
  CHECK(failure([] { check_launch("f"); }).empty());
  CHECK(failure([] { current_device("f"); }) == "f: no CUDA-capable device is detected");
  CHECK(failure([] { check_launch("f"); }).empty());
}

}  // namespace

int main() {
  test_reasons();
  test_device();
  test_launch();
  test_shared_memory();
  test_errors();
  return failures ? 1 : 0;
}

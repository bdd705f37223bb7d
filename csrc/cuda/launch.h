// What host code and kernels of the CUDA half build on, with nvcc or under the emulation: launches,
// shared memory, scratch memory, the device's properties, errors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>

#include "core/status.h"

#ifdef SPADE_CUDA_EMULATION
#include "emulation/emulation.h"
#else
#include <cuda_runtime.h>
#endif

namespace spade::cuda {

struct Device {
  int major, minor;  // compute capability
  int multiprocessors;
  size_t shared_bytes;  // most shared memory of one block
};

constexpr size_t kAlignment = 256;  // of workspaces and every array in them

#ifdef SPADE_CUDA_EMULATION

#define SPADE_LAUNCH ::spade::emulation::launch

// Fails with the text of a launch refused since the last check.
inline void check_launch(const char* function) {
  if (const char* text = std::exchange(emulation::last_error, nullptr))
    fail(SPADE_CUDA_ERROR, "%s: %s", function, text);
}
inline const char* unavailable_reason() { return ""; }
inline Device current_device(const char*) {
  const emulation::Device& d = emulation::device;
  return {d.major, d.minor, d.multiprocessors, d.shared_bytes};
}
inline void fill_bytes(const char* function, void* to, int byte, size_t bytes,
                       cudaStream_t stream) {
  if (bytes && emulation::accepts(stream)) std::memset(to, byte, bytes);
  check_launch(function);
}
inline void copy_bytes(const char* function, void* to, const void* from, size_t bytes,
                       cudaStream_t stream) {
  if (bytes && emulation::accepts(stream)) std::memcpy(to, from, bytes);
  check_launch(function);
}

#else

// SPADE_SHARED(type, name, count): `name` points to the block's `count` entries.
#define SPADE_SHARED(type, name, count) __shared__ type name[count]
// The block's dynamic shared memory, 16-byte aligned; one such line per kernel.
#define SPADE_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char spade_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(spade_dynamic_shared)
// SPADE_LAUNCH(kernel, grid, block, bytes of dynamic shared memory, stream, arguments...), followed
// by check_launch(function). A template kernel goes in parentheses.
#define SPADE_LAUNCH ::spade::cuda::launch

// Lets a kernel have all the shared memory that the device gives to those that ask: without, what
// it declares and what a launch adds may not exceed 48 KB together. Not `shared` alone, which
// another thread's launch of the kernel may set lower in between.
inline bool allow_shared(const void* entry) {
  int device = 0, most = 0;
  cudaFuncAttributes own{};
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) ==
             cudaSuccess &&
         cudaFuncGetAttributes(&own, entry) == cudaSuccess &&
         cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              most - static_cast<int>(own.sharedSizeBytes)) == cudaSuccess;
}

constexpr size_t kSharedWithoutAsking = 8 << 10;  // no kernel declares more than 40 KB

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
            A... arguments) {
  const void* entry = reinterpret_cast<const void*>(kernel);
  if (shared > kSharedWithoutAsking && !allow_shared(entry)) return;  // check_launch tells
  std::tuple<P...> values(arguments...);
  std::apply(
      [&](P&... value) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
        cudaLaunchKernel(entry, grid, block, pointers, shared, stream);
      },
      values);
}

inline void check(const char* function, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // told here, so that the next call is not blamed
  fail(SPADE_CUDA_ERROR, "%s: %s", function, cudaGetErrorString(error));
}

// Fails with CUDA's text if a launch since the last check was refused.
inline void check_launch(const char* function) { check(function, cudaGetLastError()); }

// What keeps the kernels from running on every GPU of this machine, or "".
inline std::string find_unavailable_reason() {
  int driver = 0, count = 0;
  std::pair<int, int> best{0, 0};  // compute capability
  cudaError_t error = cudaDriverGetVersion(&driver);
  if (error == cudaSuccess && driver == 0) return "no NVIDIA driver";
  if (error == cudaSuccess) error = cudaGetDeviceCount(&count);
  for (int id = 0; error == cudaSuccess && id < count; ++id) {
    std::pair<int, int> own;
    error = cudaDeviceGetAttribute(&own.first, cudaDevAttrComputeCapabilityMajor, id);
    if (error == cudaSuccess)
      error = cudaDeviceGetAttribute(&own.second, cudaDevAttrComputeCapabilityMinor, id);
    best = std::max(best, own);
  }
  cudaGetLastError();
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (count == 0) return "no CUDA-capable device is detected";
  if (best.first < 8)
    return "compute capability 8.0 or higher is needed, the GPU has " + std::to_string(best.first) +
           "." + std::to_string(best.second);
  return "";
}

// The same, as found when it was first asked for.
inline const char* unavailable_reason() {
  static const std::string reason = find_unavailable_reason();
  return reason.c_str();
}

inline Device current_device(const char* function) {
  int id = 0, major = 0, minor = 0, multiprocessors = 0, shared = 0;
  check(function, cudaGetDevice(&id));
  check(function, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, id));
  check(function, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, id));
  check(function, cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, id));
  check(function, cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, id));
  return {major, minor, multiprocessors, static_cast<size_t>(shared)};
}

inline void fill_bytes(const char* function, void* to, int byte, size_t bytes,
                       cudaStream_t stream) {
  if (bytes) check(function, cudaMemsetAsync(to, byte, bytes, stream));
}

inline void copy_bytes(const char* function, void* to, const void* from, size_t bytes,
                       cudaStream_t stream) {
  if (bytes) check(function, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
}

#endif

inline cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

// Lays arrays into the caller's scratch memory. The same code counts and carves: without memory
// take() returns NULL and bytes() says what is needed.
class Workspace {
 public:
  Workspace() = default;
  // `needed`: bytes() of the same takes without memory
  Workspace(const char* function, void* memory, size_t capacity, size_t needed)
      : memory_(static_cast<char*>(memory)) {
    SPADE_CHECK(capacity >= needed, "%s: workspace_bytes must be at least %zu, got %zu", function,
                needed, capacity);
    SPADE_CHECK(needed == 0 || memory, "%s: workspace must not be NULL", function);
    SPADE_CHECK(reinterpret_cast<uintptr_t>(memory) % kAlignment == 0,
                "%s: workspace must be aligned to %zu bytes, got %p", function, kAlignment, memory);
  }

  template <class T>
  T* take(int64_t count) {
    const size_t start = used_, size = static_cast<size_t>(count) * sizeof(T);
    used_ += (size + kAlignment - 1) / kAlignment * kAlignment + kGuard;
    if (!memory_) return nullptr;
#ifdef SPADE_CUDA_EMULATION  // AddressSanitizer reports what runs past an array
    SPADE_ASAN(__asan_unpoison_memory_region(memory_ + start, size);
               __asan_poison_memory_region(memory_ + start + size, used_ - start - size);)
#endif
    return reinterpret_cast<T*>(memory_ + start);
  }

  size_t bytes() const { return used_; }

 private:
#if defined(SPADE_CUDA_EMULATION) && defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kGuard = kAlignment;
#else
  static constexpr size_t kGuard = 0;
#endif
  char* memory_ = nullptr;
  size_t used_ = 0;
};

}  // namespace spade::cuda

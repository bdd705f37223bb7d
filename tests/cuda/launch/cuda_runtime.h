// In place of NVIDIA's header: what launch.h calls of it, on a device that notes what it is asked.
// Functions that wait for a device or allocate are not declared, so host code cannot call them.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
using cudaStream_t = struct FakeStream*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorNoDevice = 100 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice };
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};

struct FakeDevice {
  int driver = 13000, count = 1;
  int major = 8, minor = 6, multiprocessors = 82;
  int next_major = 0;                // each GPU's beside the one before it
  size_t most_shared = 99 << 10;     // of a block, for kernels that ask
  size_t declared = 0, allowed = 0;  // shared memory of the kernel, dynamic one that it may take
  cudaError_t refusal = cudaSuccess, last = cudaSuccess;
  const void* kernel = nullptr;
  dim3 grid, block;
  size_t shared = 0;
  std::vector<cudaStream_t> streams;  // of all work
};
inline FakeDevice fake;

inline cudaError_t noted(cudaError_t error) {
  if (error != cudaSuccess) fake.last = error;
  return error;
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = fake.last;
  fake.last = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "invalid argument";
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = fake.driver;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = fake.refusal == cudaSuccess ? fake.count : 0;
  return noted(fake.refusal);
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return noted(fake.refusal);
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const int values[] = {fake.multiprocessors, fake.major + device * fake.next_major, fake.minor,
                        static_cast<int>(fake.most_shared)};
  *value = values[attribute];
  return noted(fake.refusal);
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->sharedSizeBytes = fake.declared;
  return noted(fake.refusal);
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  if (static_cast<size_t>(value) + fake.declared > fake.most_shared)
    return noted(cudaErrorInvalidValue);
  fake.allowed = static_cast<size_t>(value);
  return noted(fake.refusal);
}
inline cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                                    size_t shared, cudaStream_t stream) {
  const bool fits = shared <= fake.allowed || fake.declared + shared <= size_t(48) << 10;
  if (!fits || fake.refusal != cudaSuccess) return noted(cudaErrorInvalidValue);
  fake.kernel = kernel;
  fake.grid = grid;
  fake.block = block;
  fake.shared = shared;
  fake.streams.push_back(stream);
  reinterpret_cast<void (*)(long long, float*)>(const_cast<void*>(kernel))(
      *static_cast<long long*>(arguments[0]), *static_cast<float**>(arguments[1]));
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream) {
  if (fake.refusal != cudaSuccess) return noted(fake.refusal);
  fake.streams.push_back(stream);
  std::memset(to, byte, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream) {
  if (fake.refusal != cudaSuccess) return noted(fake.refusal);
  fake.streams.push_back(stream);
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

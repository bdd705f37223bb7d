// One function an instruction: inline PTX on the device, the same lane layout in the emulation.
// Source of the layouts: PTX ISA, "Matrix fragments for mma.m16n8k16", "ldmatrix", "cp.async".
#pragma once

#include <cstdint>

#include "cuda/launch.h"

#ifndef SPADE_CUDA_EMULATION
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace spade::cuda {

#ifndef SPADE_CUDA_EMULATION

__device__ __forceinline__ uint16_t to_half(float x) {
  return __half_as_ushort(__float2half_rn(x));
}
__device__ __forceinline__ float from_half(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ uint16_t to_bfloat16(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
__device__ __forceinline__ float from_bfloat16(uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

// c += a b: a 16 x 16 row-major, b 16 x 8 column-major in fp16, c 16 x 8 in float32.
__device__ __forceinline__ void mma_half(float (&c)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same in bf16.
__device__ __forceinline__ void mma_bfloat16(float (&c)[4], const unsigned (&a)[4],
                                             const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit entries from shared memory; lane i names row i % 8 of matrix i / 8,
// 16-byte aligned.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_transposed(unsigned (&r)[4], const void* row) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// Copy 16 bytes to shared memory without waiting: `bytes` of them (0 to 16) from global, then
// zeros. Both addresses are 16-byte aligned.
__device__ __forceinline__ void cp_async16(void* to, const void* from, int bytes = 16) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(at), "l"(from), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Wait until all but the last N committed groups of this thread have arrived.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else

inline uint16_t to_half(float x) {
  return emulation::from_bits<uint16_t>(emulation::to_bits(static_cast<_Float16>(x)));
}
inline float from_half(uint16_t bits) {
  const float size = __uint_as_float((bits & 0x7FFFu) << 13) * 0x1p112f;  // also subnormal ones
  const unsigned special = (bits & 0x7C00u) == 0x7C00u ? 0x7F800000u : 0u;
  return __uint_as_float(__float_as_uint(size) | special | (bits & 0x8000u) << 16);
}
inline uint16_t to_bfloat16(float x) {
  const unsigned bits = __float_as_uint(x);
  if (x != x) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float from_bfloat16(uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

// The next float32 towards zero, as tensor cores sum: they cut off what does not fit.
inline float cut_off(double x) {
  const float nearest = static_cast<float>(x);
  const bool beyond = std::fabs(static_cast<double>(nearest)) > std::fabs(x);
  return beyond ? std::nextafter(nearest, 0.0f) : nearest;
}

// Register r of lane l holds, in half e, a[l / 4 + r % 2 * 8][l % 4 * 2 + e + r / 2 * 8] and
// b[l % 4 * 2 + e + r * 8][l / 4].
template <float (*kValue)(uint16_t)>
void emulated_mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                  emulation::Site site) {
  const uint64_t words[3] = {a[0] | uint64_t(a[1]) << 32, a[2] | uint64_t(a[3]) << 32,
                             b[0] | uint64_t(b[1]) << 32};
  const emulation::Rendezvous& m = emulation::exchange(~0u, 20, site, words, 3);
  const int lane = emulation::lane();
  const auto entry = [&](int l, int r, int e) {
    return kValue(static_cast<uint16_t>(m.taken[l][r / 2] >> (32 * (r % 2) + 16 * e)));
  };
  float left[2][16], right[2][16];  // this lane's rows of a and columns of b
  for (int i = 0; i < 2; ++i)
    for (int k = 0; k < 16; ++k) {
      left[i][k] = entry(lane / 4 * 4 + k % 8 / 2, i + k / 8 * 2, k % 2);
      right[i][k] = entry((lane % 4 * 2 + i) * 4 + k % 8 / 2, 4 + k / 8, k % 2);
    }
  for (int j = 0; j < 4; ++j) {
    double sum = c[j];
    for (int k = 0; k < 16; ++k) sum += double(left[j / 2][k]) * double(right[j % 2][k]);
    c[j] = cut_off(sum);
  }
}
inline void mma_half(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], SPADE_SITE) {
  emulated_mma<from_half>(c, a, b, site);
}
inline void mma_bfloat16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                         SPADE_SITE) {
  emulated_mma<from_bfloat16>(c, a, b, site);
}

inline void emulated_ldmatrix(unsigned (&r)[4], const void* row, bool transposed,
                              emulation::Site site) {
  const uint64_t word = reinterpret_cast<uintptr_t>(row);
  if (word % 16) emulation::fault("ldmatrix from an address that is not 16-byte aligned");
  const emulation::Rendezvous& m = emulation::exchange(~0u, 21, site, &word, 1);
  const int lane = emulation::lane();
  const auto entry = [&](int matrix, int i, int j) {
    return unsigned(reinterpret_cast<const uint16_t*>(m.taken[matrix * 8 + i][0])[j]);
  };
  for (int k = 0; k < 4; ++k) {
    const int i = lane / 4, j = lane % 4 * 2;
    r[k] = transposed ? entry(k, j, i) | entry(k, j + 1, i) << 16
                      : entry(k, i, j) | entry(k, i, j + 1) << 16;
  }
}
inline void ldmatrix_x4(unsigned (&r)[4], const void* row, SPADE_SITE) {
  emulated_ldmatrix(r, row, false, site);
}
inline void ldmatrix_x4_transposed(unsigned (&r)[4], const void* row, SPADE_SITE) {
  emulated_ldmatrix(r, row, true, site);
}

// The target is poison from the call on and gets its bytes only when they are waited for: reading
// too early and copying over what others still read both show.
SPADE_UNSEEN inline void enqueue_copy(void* to, const void* from, int bytes) {
  emulation::Fiber& f = emulation::fibers[emulation::block.current];
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16)
    emulation::fault("cp.async from or to an address that is not 16-byte aligned");
  if (f.copy_count == emulation::kCopies) emulation::fault("too many async copies in flight");
  emulation::Copy& copy = f.copies[f.copy_count++];
  copy.to = to;
  copy.from = from;
  copy.bytes = bytes;
  copy.group = f.copy_group;
}
inline void perform_copy(void* to, const void* from, int bytes) {
  if (bytes) std::memcpy(to, from, static_cast<size_t>(bytes));
  std::memset(static_cast<char*>(to) + bytes, 0, static_cast<size_t>(16 - bytes));
}
inline void cp_async16(void* to, const void* from, int bytes = 16) {
  std::memset(to, 0xFF, 16);
  SPADE_TSAN(__tsan_write_range(to, 16);)  // g++ lets a memset in line go unseen
  enqueue_copy(to, from, bytes);
}
SPADE_UNSEEN inline void cp_async_commit() {
  ++emulation::fibers[emulation::block.current].copy_group;
}
template <int N>
SPADE_UNSEEN void cp_async_wait() {
  emulation::Fiber& f = emulation::fibers[emulation::block.current];
  int arrived = 0;
  for (; arrived < f.copy_count && f.copies[arrived].group < f.copy_group - N; ++arrived)
    perform_copy(f.copies[arrived].to, f.copies[arrived].from, f.copies[arrived].bytes);
  for (int i = arrived; i < f.copy_count; ++i) f.copies[i - arrived] = f.copies[i];
  f.copy_count -= arrived;
}

#endif

// Two fp16 numbers in a register, the first in its low half.
__device__ __forceinline__ unsigned pack(uint16_t first, uint16_t second) {
  return first | static_cast<unsigned>(second) << 16;
}

}  // namespace spade::cuda

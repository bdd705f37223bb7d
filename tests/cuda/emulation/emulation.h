// CUDA's language on the CPU, for tests: keywords, vector types, warp operations, atomics and
// launches for g++, over the fibers of emulation_fibers.h. Included by launch.h under
// SPADE_CUDA_EMULATION.
//
// Kernels stay emulable by these rules: launches through SPADE_LAUNCH, shared memory through
// SPADE_SHARED and SPADE_DYNAMIC_SHARED, warp operations with their mask, PTX only in the wrappers
// of ptx.h, no cooperative grid sync, no waiting on flags: blocks are ordered by launches alone.
// What the emulation does not see: fences, memory models weaker than sequential consistency
// (without ThreadSanitizer), bank conflicts, registers, time.
#pragma once

#include <cmath>
#include <cstring>
#include <tuple>

#include "emulation/emulation_fibers.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) alignas(n)

using cudaStream_t = void*;
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// What tests set by name in a loaded backend: the text with which every launch is refused, and the
// only stream that work may go to.
extern "C" {
inline __attribute__((visibility("default"))) const char* spade_emulation_refusal = nullptr;
inline __attribute__((visibility("default"))) void* spade_emulation_stream = nullptr;
}

namespace spade::emulation {

template <class T>
uint64_t to_bits(T x) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof(T));
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T x;
  std::memcpy(&x, &bits, sizeof(T));
  return x;
}

SPADE_UNSEEN inline int lane() { return block.current & 31; }

// What lane `source` of the mask brought.
template <class T>
T shuffle(unsigned mask, T value, int source, int operation, Site site) {
  const uint64_t bits = to_bits(value);
  const Rendezvous& m = exchange(mask, operation, site, &bits, 1);
  if (!(mask >> source & 1)) fault("shuffle from a lane that is not in the mask");
  return from_bits<T>(m.taken[source][0]);
}

// fold(result, value) over the values of the mask's lanes, lowest lane first.
template <class T, class Fold>
T reduce(unsigned mask, T value, T result, int operation, Site site, Fold fold) {
  const uint64_t bits = to_bits(value);
  const Rendezvous& m = exchange(mask, operation, site, &bits, 1);
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) result = fold(result, from_bits<T>(m.taken[i][0]));
  return result;
}

template <class T, class Change>
T modify(T* at, Change change) {
  T old;
  __atomic_load(at, &old, __ATOMIC_RELAXED);
  for (;;) {
    T next = change(old);
    if (__atomic_compare_exchange(at, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      return old;
  }
}

inline const char* last_error = nullptr;
inline int64_t launches = 0;  // so far

// Whether work may be queued on the stream; otherwise last_error tells why not.
inline bool accepts(cudaStream_t stream) {
  if (spade_emulation_refusal)
    last_error = spade_emulation_refusal;
  else if (spade_emulation_stream && stream != spade_emulation_stream)
    last_error = "work on another stream than the caller's";
  return !last_error;
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 threads, size_t dynamic_bytes,
            cudaStream_t stream, A... arguments) {
  if (!accepts(stream)) return;
  ++launches;
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  } call{kernel, std::tuple<P...>(arguments...)};
  run_grid(
      grid, threads, dynamic_bytes,
      [](void* c) {
        const Call& call = *static_cast<Call*>(c);
        std::apply(call.kernel, call.arguments);
      },
      &call);
}

}  // namespace spade::emulation

#define SPADE_SHARED(type, name, count) \
  static char name##_key;               \
  type* const name =                    \
      reinterpret_cast<type*>(::spade::emulation::shared(&name##_key, sizeof(type) * (count)))
#define SPADE_DYNAMIC_SHARED(type, name) \
  type* const name = reinterpret_cast<type*>(::spade::emulation::dynamic_shared())

#define SPADE_SITE ::spade::emulation::Site site = ::spade::emulation::here()
inline void __syncthreads(SPADE_SITE) { spade::emulation::barrier(site); }
inline void __syncwarp(unsigned mask = ~0u, SPADE_SITE) {
  spade::emulation::exchange(mask, 1, site);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SPADE_SITE) {
  const int first = spade::emulation::lane() & ~(width - 1);
  return spade::emulation::shuffle(mask, value, first | (source & (width - 1)), 2, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SPADE_SITE) {
  const int lane = spade::emulation::lane(), other = lane ^ bits;
  const bool inside = (other & ~(width - 1)) == (lane & ~(width - 1));
  return spade::emulation::shuffle(mask, value, inside ? other : lane, 3, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, SPADE_SITE) {
  const int lane = spade::emulation::lane(), other = lane + static_cast<int>(by);
  const bool inside = (other & ~(width - 1)) == (lane & ~(width - 1));
  return spade::emulation::shuffle(mask, value, inside ? other : lane, 4, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, SPADE_SITE) {
  const int lane = spade::emulation::lane(), other = lane - static_cast<int>(by);
  const bool inside = other >= (lane & ~(width - 1));
  return spade::emulation::shuffle(mask, value, inside ? other : lane, 5, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SPADE_SITE) {
  const unsigned mine = predicate ? 1u << spade::emulation::lane() : 0u;
  return spade::emulation::reduce(mask, mine, 0u, 6, site,
                                  [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate, SPADE_SITE) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SPADE_SITE) {
  return __ballot_sync(mask, predicate, site) == mask;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, SPADE_SITE) {
  return spade::emulation::reduce(mask, value, ~0u, 7, site,
                                  [](unsigned a, unsigned b) { return std::min(a, b); });
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, SPADE_SITE) {
  return spade::emulation::reduce(mask, value, 0u, 8, site,
                                  [](unsigned a, unsigned b) { return std::max(a, b); });
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, SPADE_SITE) {
  return spade::emulation::reduce(mask, value, 0u, 9, site,
                                  [](unsigned a, unsigned b) { return a + b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, SPADE_SITE) {
  return spade::emulation::reduce(mask, value, 0u, 10, site,
                                  [](unsigned a, unsigned b) { return a | b; });
}

template <class T>
T atomicAdd(T* at, T value) {
  return spade::emulation::modify(at, [=](T old) { return T(old + value); });
}
template <class T>
T atomicMin(T* at, T value) {
  return spade::emulation::modify(at, [=](T old) { return std::min(old, value); });
}
template <class T>
T atomicMax(T* at, T value) {
  return spade::emulation::modify(at, [=](T old) { return std::max(old, value); });
}
template <class T>
T atomicOr(T* at, T value) {
  return spade::emulation::modify(at, [=](T old) { return T(old | value); });
}
template <class T>
T atomicExch(T* at, T value) {
  return spade::emulation::modify(at, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* at, T compare, T value) {
  return spade::emulation::modify(at, [=](T old) { return old == compare ? value : old; });
}

using std::max;
using std::min;
inline unsigned __float_as_uint(float x) {
  return spade::emulation::from_bits<unsigned>(spade::emulation::to_bits(x));
}
inline long long __double_as_longlong(double x) {
  return spade::emulation::from_bits<long long>(spade::emulation::to_bits(x));
}
inline int __float_as_int(float x) {
  return spade::emulation::from_bits<int>(spade::emulation::to_bits(x));
}
inline float __uint_as_float(unsigned x) {
  return spade::emulation::from_bits<float>(spade::emulation::to_bits(x));
}
inline float __int_as_float(int x) {
  return spade::emulation::from_bits<float>(spade::emulation::to_bits(x));
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
template <class T>
T __ldg(const T* at) {
  return *at;
}

// Native vectors of the instruction set that a kernel file is compiled for (GCC vector extensions).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace spade {
namespace SPADE_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Simd {
  static constexpr int lanes = kVectorBytes / static_cast<int>(sizeof(T));
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename Simd<T>::type;

template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}

// Whether vectors may be streamed to p. stream() stores one past the caches where vectors are whole
// cache lines; end_stream() orders it before what the thread stores next.
inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0; }
template <class T>
inline void stream(T* p, Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    _mm512_stream_ps(p, v);
  else
    _mm512_stream_pd(p, v);
#else
  store(p, v);
#endif
}
inline void end_stream() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

template <class T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// The four elements at p, repeated to fill a vector; of a two-lane vector, the pair number `half`.
inline Vec<float> load4(const float* p, int) {
#if defined(__AVX512F__)
  return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
#elif defined(__AVX2__)
  return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
#else
  return load(p);
#endif
}
inline Vec<double> load4(const double* p, [[maybe_unused]] int half) {
#if defined(__AVX512F__)
  return _mm512_broadcast_f64x4(_mm256_loadu_pd(p));
#elif defined(__AVX2__)
  return load(p);
#else
  return load(p + 2 * half);
#endif
}

// x / y to within 2 ulp. Of AVX-512 floats: the 14-bit reciprocal and one Newton step on the
// quotient, in a third of the cycles of a division.
inline Vec<double> quotient(Vec<double> x, Vec<double> y) { return x / y; }
inline Vec<float> quotient(Vec<float> x, Vec<float> y) {
#if defined(__AVX512F__)
  const Vec<float> r = _mm512_rcp14_ps(y);
  const Vec<float> q = x * r;
  return q + r * (x - y * q);
#else
  return x / y;
#endif
}

// Bit l is set where lane l of a equals that of b.
template <class T>
inline unsigned equal_lanes(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
  } else {
    return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)));
  } else {
    return static_cast<unsigned>(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_EQ_OQ)));
  }
#else
  unsigned lanes = 0;
  for (int l = 0; l < Simd<T>::lanes; ++l) lanes |= static_cast<unsigned>(a[l] == b[l]) << l;
  return lanes;
#endif
}

}  // namespace SPADE_ISA
}  // namespace spade

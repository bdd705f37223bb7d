// A table on the device, filled from kernel arguments: no host memory is read after the call, and
// nothing waits.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/launch.h"

namespace spade::cuda {

constexpr int kPassedWords = 800;  // CUDA allows 4 KB of arguments
struct PassedWords {
  int32_t words[kPassedWords];
};

template <int kThreads>
__global__ void store_words(PassedWords from, int count, int32_t* to) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) to[i] = from.words[i];
}

// to[0..count) = from[0..count)
template <class T>
void store(const char* function, const T* from, int64_t count, T* to, cudaStream_t stream) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(int32_t) == 0);
  constexpr int kThreads = 96;
  const int64_t words = count * static_cast<int64_t>(sizeof(T) / sizeof(int32_t));
  for (int64_t i = 0; i < words; i += kPassedWords) {
    PassedWords part{};
    const int size = static_cast<int>(std::min<int64_t>(kPassedWords, words - i));
    std::memcpy(part.words, reinterpret_cast<const char*>(from) + i * sizeof(int32_t),
                static_cast<size_t>(size) * sizeof(int32_t));
    SPADE_LAUNCH(store_words<kThreads>, dim3(1), dim3(kThreads), 0, stream, part, size,
                 reinterpret_cast<int32_t*>(to) + i);
    check_launch(function);
  }
}

}  // namespace spade::cuda

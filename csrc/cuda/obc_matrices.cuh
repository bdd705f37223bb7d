// Which matrix a row belongs to: of G in a row, each serves as many consecutive rows of the layer.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace spade::cuda::obc {

template <class T>
struct RowMatrices {
  const T* first;         // [G, D, D]
  int64_t size;           // D * D
  unsigned rows_of_each;  // R / G
  unsigned chunk_start;   // row of the layer that a launch calls row 0

  __device__ __forceinline__ const T* of(int64_t row) const {
    return first + (chunk_start + static_cast<unsigned>(row)) / rows_of_each * size;
  }
};

inline void check_matrices(const char* function, int64_t R, int64_t G) {
  SPADE_CHECK(G >= 1 && R % G == 0, "%s: G must be >= 1 and divide R = %lld, got %lld", function,
              static_cast<long long>(R), static_cast<long long>(G));
}

// Those of R >= 1 rows.
template <class T>
RowMatrices<T> matrices_of(const T* first, int64_t R, int64_t G, int64_t D) {
  return {first, D * D, static_cast<unsigned>(R / G), 0};
}

}  // namespace spade::cuda::obc

// The recurrence inside one lazy block of SparseGPT: what sparsegpt.cpp hands to each instruction
// set.
#pragma once

#include <cstdint>

namespace spade {

constexpr int64_t kRowChunk = 64;  // rows that one call works on; arrays of rows are padded to it

// Columns of one lazy block for all rows, transposed so that a column is contiguous.
template <class T>
struct LazyBlock {
  T* w;      // [width, stride]: weights at this point; eliminated columns hold their final value
  T* error;  // [width, stride]: (w - q) / U_ii of the columns so far
  const uint8_t* gone;  // [width, stride]: 1 where the weight goes
  const T* u;           // [width, width]: U_bb, upper
  int64_t width, stride;
};

// Functions of kRowChunk rows from row `row`:
//   eliminate: columns [first, last) in order, updating columns up to `end`;
//   update: columns [end, width) by the errors of columns [first, end);
//   score: out[k] = (w[k] / U_jj)^2 for one column, given 1 / U_jj.
#define SPADE_DECLARE_SPARSEGPT_OF(T)                                                           \
  void sparsegpt_eliminate(const LazyBlock<T>& block, int64_t first, int64_t last, int64_t end, \
                           int64_t row);                                                        \
  void sparsegpt_update(const LazyBlock<T>& block, int64_t first, int64_t end, int64_t row);    \
  void sparsegpt_score(const T* w, T inverse, T* out);
#define SPADE_DECLARE_SPARSEGPT(isa) \
  namespace isa {                    \
  SPADE_DECLARE_SPARSEGPT_OF(float)  \
  SPADE_DECLARE_SPARSEGPT_OF(double) \
  }
SPADE_DECLARE_SPARSEGPT(plain)
SPADE_DECLARE_SPARSEGPT(avx2)
SPADE_DECLARE_SPARSEGPT(avx512)
#undef SPADE_DECLARE_SPARSEGPT
#undef SPADE_DECLARE_SPARSEGPT_OF

}  // namespace spade

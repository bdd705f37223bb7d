// The recurrence inside one lazy block of SparseGPT: what sparsegpt.cpp hands to each instruction
// set.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace spade {

constexpr int64_t kLazy = 128;     // most columns of a lazy block
constexpr int64_t kRowChunk = 64;  // rows that one call works on

// A lazy block of one chunk of rows; columns are kRowChunk apart.
template <class T>
struct LazyBlock {
  T* w;                 // weights at this point; eliminated columns hold their final value
  T* error;             // (w - q) / U_ii of the columns so far
  const uint8_t* gone;  // 1 where the weight goes
  const T* u;           // U_bb, upper: entry (i, k) is u[-k * kLazy - i]
};

// Functions of one chunk:
//   eliminate: columns [first, last) in order, each updating those after it up to `last`;
//   score: out[r] = |w[r] / U_jj| of one column, given 1 / U_jj: the order of its square, whose
//     range is twice as wide; NaN beyond `rows`;
//   count: how many of the n values (a multiple of kRowChunk) are at most `limit`;
//   mark: gone[r] = scores[r] <= limit of one column;
//   invert: u = v^-1 of the upper n x n triangle v; both with rows of kLazy.
#define SPADE_DECLARE_SPARSEGPT_OF(T)                                               \
  void sparsegpt_eliminate(const LazyBlock<T>& block, int64_t first, int64_t last); \
  void sparsegpt_score(const T* w, T inverse, int64_t rows, T* out);                \
  int64_t sparsegpt_count(const T* values, int64_t n, T limit);                     \
  void sparsegpt_mark(const T* scores, T limit, uint8_t* gone);                     \
  void sparsegpt_invert(const T* v, int64_t n, T* u);
#define SPADE_DECLARE_SPARSEGPT(isa) \
  namespace isa {                    \
  SPADE_DECLARE_SPARSEGPT_OF(float)  \
  SPADE_DECLARE_SPARSEGPT_OF(double) \
  }
SPADE_FOR_EACH_ISA(SPADE_DECLARE_SPARSEGPT)
#undef SPADE_DECLARE_SPARSEGPT
#undef SPADE_DECLARE_SPARSEGPT_OF

}  // namespace spade

// Columns of a lazy block of SparseGPT in memory: rows are taken kRowChunk at a time and kept
// transposed, [chunk, column, row]; columns are what the recurrence walks, rows fill its vectors.
#pragma once

#include <algorithm>

#include "core/buffer.h"
#include "core/isa.h"
#include "core/sparsegpt_options.h"
#include "cpu/panels.h"
#include "cpu/sparsegpt_kernel.h"

namespace spade {

// Columns of a group that fits `limit`: the largest multiple of `mask` up to it, or `limit`.
inline int64_t multiple_within(int64_t mask, int64_t limit) {
  return mask >= limit ? limit : limit / mask * mask;
}

// Sizes of a layer and of what it is cut into.
struct SparseGptShape {
  SparseGptShape(int64_t rows, int64_t columns, const spade_sparsegpt_t& options)
      : R(rows),
        D(columns),
        mask(options.m > 0 ? options.m : std::min(options.block_size, D)),
        lazy(std::min(D, multiple_within(mask, kLazy))),
        span(std::max(mask, lazy)),
        chunks((R + kRowChunk - 1) / kRowChunk) {}

  const int64_t R, D;
  const int64_t mask;    // columns that share a threshold, or a group of n:m
  const int64_t lazy;    // columns that take the errors of all before them together
  const int64_t span;    // the wider of both
  const int64_t chunks;  // of kRowChunk rows

  int64_t rows_of(int64_t chunk) const { return std::min(kRowChunk, R - chunk * kRowChunk); }
};

// The columns [first, first + width) of all chunks.
template <class T>
class LazyColumns {
 public:
  // In memory for numbers(shape) numbers.
  LazyColumns(const SparseGptShape& shape, T* memory)
      : size_(shape.lazy * kRowChunk),
        dense_(memory),
        state_(dense_ + shape.chunks * size_),
        errors_(state_ + shape.chunks * size_),
        diagonal_(shape.lazy * kLazy),
        inverse_(shape.lazy * kLazy) {}

  static int64_t numbers(const SparseGptShape& shape) {
    return 3 * shape.chunks * shape.lazy * kRowChunk;
  }

  int64_t first = 0, width = 0;

  void place(int64_t first_column, int64_t columns) {
    first = first_column;
    width = columns;
  }

  T* dense(int64_t chunk) const { return dense_ + chunk * size_; }    // W
  T* state(int64_t chunk) const { return state_ + chunk * size_; }    // weights now
  T* errors(int64_t chunk) const { return errors_ + chunk * size_; }  // (w - q) / U_ii

  // U_bb: entry (i, k) is [-k * kLazy - i] from here.
  const T* u() const { return inverse_.get() + (width - 1) * (kLazy + 1); }

  // U_bb is the transpose of U'_bb^-1 with indices reversed.
  void invert_diagonal(const Panels<T>& factor) {
    const int64_t last = factor.n - first, start = last - width;
    for (int64_t i = start; i < last; ++i)
      for (int64_t j = std::max(start, i / kPanel * kPanel), end; j < last; j = end) {
        end = std::min(last, (j / kPanel + 1) * kPanel);
        std::copy_n(factor.at(i, j), end - j, diagonal_.get() + (i - start) * kLazy + j - start);
      }
    SPADE_DISPATCH(sparsegpt_invert(diagonal_.get(), width, inverse_.get()));
  }

 private:
  int64_t size_;
  T *dense_, *state_, *errors_;   // [chunks, lazy, kRowChunk]
  Buffer<T> diagonal_, inverse_;  // [lazy, kLazy]: U'_bb and its inverse
};

}  // namespace spade

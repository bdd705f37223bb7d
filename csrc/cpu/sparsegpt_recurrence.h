// The published recurrence over the columns of one lazy block, all rows, on one thread:
//   q_i = w_i or 0, e_i = (w_i - q_i) / U_ii, w_k -= e_i U_ik for k > i.
//
// A column takes the errors before it when it is needed, not when they arise: a sum in registers
// instead of a pass over the columns to come for each error.
#pragma once

#include "core/isa.h"
#include "cpu/sparsegpt_columns.h"
#include "cpu/sparsegpt_select.h"

namespace spade {

// Columns that take the errors from before their group together, as a product.
constexpr int64_t kGroup = 16;

template <class T>
class Recurrence {
 public:
  Recurrence(const SparseGptShape& shape, const spade_sparsegpt_t& options, const Panels<T>& factor)
      : shape_(shape),
        options_(options),
        factor_(factor),
        scores_(shape.chunks * shape.mask * kRowChunk),
        gone_(shape.chunks * shape.span * kRowChunk) {}

  // A lazy block whose mask blocks lie within it.
  void run(const LazyColumns<T>& b) {
    const int64_t group = multiple_within(shape_.mask, kGroup), mask = shape_.mask;
    for (int64_t begin = 0, end = 0; begin < b.width; begin = end) {
      end = std::min(b.width, begin + std::max(mask, group));
      take(b, 0, begin, end);
      if (mask > group) choose(b, begin, end);
      for (int64_t i = begin, last = 0; i < end; i = last) {
        last = std::min(end, i + std::min(mask, group));
        take(b, begin, i, last);
        if (mask <= group) choose(b, i, last);
        eliminate(b, 0, i, last);
      }
    }
  }

  // A lazy block of a wider mask block whose choice is made; its columns lie from `at` in that.
  void run_chosen(const LazyColumns<T>& b, int64_t at) {
    for (int64_t i = 0, last = 0; i < b.width; i = last) {
      last = std::min(b.width, i + kGroup);
      take(b, 0, i, last);
      eliminate(b, at, i, last);
    }
  }

  // Scores of columns [begin, end), as columns from `to` of a mask block `total` wide.
  void score(const LazyColumns<T>& b, int64_t begin, int64_t end, int64_t to, int64_t total) {
    for (int64_t chunk = 0; chunk < shape_.chunks; ++chunk)
      for (int64_t c = begin; c < end; ++c) {
        const int64_t diagonal = shape_.D - 1 - b.first - c;
        T* scores = scores_.get() + (chunk * total + to + c - begin) * kRowChunk;
        SPADE_DISPATCH(sparsegpt_score(b.state(chunk) + c * kRowChunk,
                                       *factor_.at(diagonal, diagonal), shape_.rows_of(chunk),
                                       scores));
      }
  }

  // What goes of a mask block of `width` columns, which lie from `at` in a span.
  void select(int64_t width, int64_t at) {
    const MaskBlock<T> block{scores_.get(), gone_.get() + at * kRowChunk, shape_.R, width,
                             shape_.span};
    if (options_.m > 0)
      select_nm(block, options_.n);
    else
      select_least(block, block_count(options_.sparsity, shape_.R * width, options_.extra));
  }

 private:
  void choose(const LazyColumns<T>& b, int64_t begin, int64_t end) {
    score(b, begin, end, 0, end - begin);
    select(end - begin, begin);
  }

  // Columns [begin, end) take the errors of [from, begin).
  void take(const LazyColumns<T>& b, int64_t from, int64_t begin, int64_t end) {
    if (from == begin) return;
    for (int64_t chunk = 0; chunk < shape_.chunks; ++chunk) {
      const Product<T> sum{b.u() - begin * kLazy - from,
                           -kLazy,
                           -1,
                           b.errors(chunk) + from * kRowChunk,
                           kRowChunk,
                           begin - from,
                           b.state(chunk) + begin * kRowChunk,
                           kRowChunk,
                           end - begin,
                           kRowChunk};
      SPADE_DISPATCH(product(sum, Sum::subtract));
    }
  }

  void eliminate(const LazyColumns<T>& b, int64_t at, int64_t begin, int64_t end) {
    for (int64_t chunk = 0; chunk < shape_.chunks; ++chunk) {
      const LazyBlock<T> block{b.state(chunk), b.errors(chunk),
                               gone_.get() + (chunk * shape_.span + at) * kRowChunk, b.u()};
      SPADE_DISPATCH(sparsegpt_eliminate(block, begin, end));
    }
  }

  const SparseGptShape& shape_;
  const spade_sparsegpt_t& options_;
  const Panels<T>& factor_;
  Buffer<T> scores_;      // [chunks, width of the mask block, kRowChunk]
  Buffer<uint8_t> gone_;  // [chunks, span, kRowChunk]
};

}  // namespace spade

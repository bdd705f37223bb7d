// What columns owe to the errors of all columns before their lazy block.
//
// With E = W - Q and V of sparsegpt.cpp, the weights of columns b at the moment all columns before
// b1 are done are W_b + (E[:, :b1] V[:b1, b]) U_bb. V is read where the factor lies:
// V_ac = U'_c'a' with c' = D - 1 - c. Nearly all the work of SparseGPT, in products of panels.
#pragma once

#include <vector>

#include "cpu/sparsegpt_columns.h"

namespace spade {

template <class T>
class Compensation {
 public:
  // In memory for numbers(shape) numbers.
  Compensation(const SparseGptShape& shape, const Panels<T>& factor, T* memory)
      : shape_(shape), factor_(factor), errors_(memory) {}

  static int64_t numbers(const SparseGptShape& shape) { return shape.chunks * shape.D * kRowChunk; }

  // b's sum over E of columns [from, to), for chunks [begin, end). It lies in memory that waits
  // for the recurrence; from = 0 starts it. Panel by panel of U', from the last column.
  void add(const LazyColumns<T>& b, int64_t from, int64_t to, int64_t begin, int64_t end) const {
    const int64_t D = shape_.D, row = D - 1 - b.first;
    Sum sum = from == 0 ? Sum::set : Sum::add;
    for (int64_t j = D - to, last = j; j < D - from; j = last, sum = Sum::add) {
      last = std::min(D - from, (j / kPanel + 1) * kPanel);
      // Fetched meanwhile: the errors of the next chunk, or the next panel's part of U'.
      const T* panel = factor_.at(row + 1 - b.width, std::min(last, D - 1));
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const T* next = chunk + 1 < end ? errors(chunk + 1) + j * kRowChunk : panel;
        multiply({factor_.at(row, j), -kPanel, 1, errors(chunk) + j * kRowChunk, kRowChunk,
                  last - j, b.errors(chunk), kRowChunk, b.width, kRowChunk, next},
                 sum);
      }
    }
  }

  // b's weights += its sum U_bb.
  void apply(const LazyColumns<T>& b, int64_t begin, int64_t end) const {
    for (int64_t chunk = begin; chunk < end; ++chunk)
      for (int64_t c = 0, last = 0; c < b.width; c = last) {
        last = std::min(b.width, c + kColumns);
        multiply({b.u() - c * kLazy, -kLazy, -1, b.errors(chunk), kRowChunk, last,
                  b.state(chunk) + c * kRowChunk, kRowChunk, last - c, kRowChunk},
                 Sum::add);
      }
  }

  // E of b's columns = W - its weights now.
  void store(const LazyColumns<T>& b, int64_t chunk) const {
    for (int64_t c = 0; c < b.width; ++c) {
      const T *dense = b.dense(chunk) + c * kRowChunk, *now = b.state(chunk) + c * kRowChunk;
      T* to = errors(chunk) + (shape_.D - 1 - b.first - c) * kRowChunk;
      for (int64_t r = 0; r < kRowChunk; ++r) to[r] = dense[r] - now[r];
    }
  }

 private:
  static constexpr int64_t kColumns = 16;  // of U_bb, upper, that are taken to end at one row

  static void multiply(const Product<T>& p, Sum sum) { SPADE_DISPATCH(product(p, sum)); }

  T* errors(int64_t chunk) const { return errors_ + chunk * shape_.D * kRowChunk; }

  const SparseGptShape& shape_;
  const Panels<T>& factor_;
  T* const errors_;  // [chunks, D, kRowChunk]: E so far, the last column first
};

}  // namespace spade

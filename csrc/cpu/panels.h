// Packed products and the blocked Cholesky factor they work on.
//
// An upper triangular factor is kept as panels of kPanel columns: panel J holds rows [0, (J + 1)
// kPanel) of columns [J kPanel, (J + 1) kPanel), row after row. Both operands of A -= U^T U are
// then contiguous as they lie, and nothing is ever packed again. Rows and columns beyond the matrix
// continue it as the identity.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/isa.h"

namespace spade {

constexpr int64_t kPanel = 48;  // three AVX-512 registers of floats

template <class T>
class Panels {
 public:
  explicit Panels(int64_t size)
      : n(size), count(panels(size)), own_(numbers(size)), data_(own_.get()) {}

  // In memory for numbers(size) numbers.
  Panels(int64_t size, T* memory) : n(size), count(panels(size)), own_(0), data_(memory) {}

  static int64_t numbers(int64_t size) { return offset(panels(size)); }

  T* panel(int64_t J) const { return data_ + offset(J); }
  T* tile(int64_t I, int64_t J) const { return panel(J) + I * kPanel * kPanel; }
  T* at(int64_t i, int64_t j) const { return panel(j / kPanel) + i * kPanel + j % kPanel; }

  const int64_t n, count;

 private:
  static int64_t panels(int64_t size) { return (size + kPanel - 1) / kPanel; }
  static int64_t offset(int64_t J) { return J * (J + 1) / 2 * kPanel * kPanel; }

  const Buffer<T> own_;
  T* const data_;
};

// c[i, j] = or += or -= sum_k a[i, k] b[k, j]; entries of a are broadcast, so it may have any
// strides; rows of b and c are contiguous.
template <class T>
struct Product {
  const T* a;
  int64_t a_row, a_step;  // from i to i + 1, from k to k + 1
  const T* b;
  int64_t b_step;
  int64_t k;
  T* c;
  int64_t c_row;
  int64_t m, n;             // n is a multiple of kPanel or of kRowChunk
  const T* next = nullptr;  // fetched into L2 meanwhile: operands of the next product
};
enum class Sum { set, add, subtract };

// Functions of one instruction set:
//   product: as above.
//   panel_factor: U of the kPanel x kPanel tile in place, zeros below the diagonal, and its
//     inverse; the identity beyond n x n. False if it is not positive definite.
//   panel_solve: rows [first, first + k) of panel J of U, from those of the trailing matrix. panel
//     and left[s] start at row `first` of panel J and of panel first / kPanel + s; inverses of the
//     diagonal tiles; k is a multiple of kPanel.
//   triangle_inverse: the inverse of an upper triangle, rows ld apart; out is dense n x n.
#define SPADE_DECLARE_PANELS_OF(T)                   \
  void product(const Product<T>& p, Sum sum);        \
  bool panel_factor(T* tile, T* inverse, int64_t n); \
  void panel_solve(const T* const* left, const T* inverses, int64_t k, T* panel);
#define SPADE_DECLARE_PANELS(isa) \
  namespace isa {                 \
  SPADE_DECLARE_PANELS_OF(float)  \
  SPADE_DECLARE_PANELS_OF(double) \
  }
SPADE_FOR_EACH_ISA(SPADE_DECLARE_PANELS)
#undef SPADE_DECLARE_PANELS
#undef SPADE_DECLARE_PANELS_OF

}  // namespace spade

// Blocked right-looking Cholesky over serial BLAS calls: each tile of the trailing matrix belongs
// to one task and each sum has one order, so that threads do not change a bit. The triangular
// solves of a step are products with the inverses of small diagonal blocks: BLAS's own solves of
// this size run at a fifth of its products' rate.

#include "cpu/cholesky.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/blas.h"
#include "core/buffer.h"
#include "core/parallel.h"

namespace spade {
namespace {

constexpr int64_t kBlock = 192;  // a tile of doubles, 288 KB, stays in L2
constexpr int64_t kSolve = 64;   // diagonal blocks that are inverted

int64_t blocks(int64_t n) { return (n + kBlock - 1) / kBlock; }
int64_t width(int64_t n, int64_t block) { return std::min(kBlock, n - block * kBlock); }

// inverses = L_jj^-1 of each diagonal block j of the n x n factor l, kSolve x kSolve apiece.
template <class T>
void invert_diagonal(const T* l, int64_t n, int64_t ld, T* inverses) {
  for (int64_t j = 0; j < n; j += kSolve, inverses += kSolve * kSolve) {
    const int64_t size = std::min(kSolve, n - j);
    std::fill(inverses, inverses + kSolve * kSolve, T(0));
    for (int64_t i = 0; i < size; ++i) inverses[i * kSolve + i] = T(1);
    blas::trsm(blas::kLeft, blas::kLower, blas::kNo, size, size, l + j * ld + j, ld, inverses,
               kSolve);
  }
}

// B = B L^-T of rows x n, block column by block column. scratch: [kBlock, kSolve]
template <class T>
void solve(const T* l, const T* inverses, int64_t rows, int64_t n, int64_t ld, T* b, T* scratch) {
  for (int64_t j = 0; j < n; j += kSolve, inverses += kSolve * kSolve) {
    const int64_t size = std::min(kSolve, n - j);
    if (j > 0)
      blas::gemm(blas::kNo, blas::kYes, rows, size, j, T(-1), b, ld, l + j * ld, ld, T(1), b + j,
                 ld);
    for (int64_t i = 0; i < rows; ++i)
      std::copy(b + i * ld + j, b + i * ld + j + size, scratch + i * kSolve);
    blas::gemm(blas::kNo, blas::kYes, rows, size, size, T(1), scratch, kSolve, inverses, kSolve,
               T(0), b + j, ld);
  }
}

}  // namespace

template <class T>
bool cholesky(T* a, int64_t n, int threads) {
  blas::use_one_thread();
  const auto none = [] { return 0; };
  const auto scratch = [] { return Buffer<T>(kBlock * kSolve); };
  const auto tile = [&](int64_t I, int64_t J) { return a + I * kBlock * n + J * kBlock; };
  const Buffer<T> inverses(kBlock * kSolve);
  for (int64_t k = 0; k < blocks(n); ++k) {
    if (!blas::potrf(width(n, k), tile(k, k), n)) return false;
    const int64_t rest = blocks(n) - k - 1;
    if (rest > 0) invert_diagonal(tile(k, k), width(n, k), n, inverses.get());
    parallel_for(threads, rest, scratch, [&](const Buffer<T>& mine, int64_t i) {
      const int64_t I = k + 1 + i;
      solve(tile(k, k), inverses.get(), width(n, I), width(n, k), n, tile(I, k), mine.get());
    });
    std::vector<std::pair<int64_t, int64_t>> pairs;
    for (int64_t I = k + 1; I < blocks(n); ++I)
      for (int64_t J = k + 1; J <= I; ++J) pairs.emplace_back(I, J);
    parallel_for(threads, static_cast<int64_t>(pairs.size()), none, [&](int, int64_t i) {
      const auto [I, J] = pairs[i];
      blas::gemm(blas::kNo, blas::kYes, width(n, I), width(n, J), width(n, k), T(-1), tile(I, k), n,
                 tile(J, k), n, T(1), tile(I, J), n);
    });
  }
  return true;
}

template <class T>
void cholesky_inverse(T* l, int64_t n, T* out, int threads) {
  const auto none = [] { return 0; };
  // out = L^-1, block column by block column: rows from the diagonal down solve L X = I.
  parallel_for(threads, blocks(n), none, [&](int, int64_t J) {
    const int64_t first = J * kBlock, columns = width(n, J);
    for (int64_t i = 0; i < n; ++i) {
      T* row = out + i * n + first;
      std::fill(row, row + columns, T(0));
      if (i >= first && i < first + columns) row[i - first] = T(1);
    }
    blas::trsm(blas::kLeft, blas::kLower, blas::kNo, n - first, columns, l + first * n + first, n,
               out + first * n + first, n);
  });
  std::copy(out, out + n * n, l);
  // out = L^-T L^-1: tile (I, J) sums over the rows from max(I, J) down.
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t I = 0; I < blocks(n); ++I)
    for (int64_t J = 0; J <= I; ++J) pairs.emplace_back(I, J);
  parallel_for(threads, static_cast<int64_t>(pairs.size()), none, [&](int, int64_t i) {
    const auto [I, J] = pairs[i];
    const int64_t first = I * kBlock;
    blas::gemm(blas::kYes, blas::kNo, width(n, I), width(n, J), n - first, T(1),
               l + first * n + first, n, l + first * n + J * kBlock, n, T(0),
               out + first * n + J * kBlock, n);
  });
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < i; ++j) out[j * n + i] = out[i * n + j];
}

template <class T>
double live_diagonal(const T* h, int64_t n, double* out) {
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    out[j] = h[j * n + j] == T(0) ? 1.0 : static_cast<double>(h[j * n + j]);
    sum += out[j];
  }
  return n ? sum / static_cast<double>(n) : 0.0;
}

double next_damp(double damp) {
  if (damp >= 1) return -1;
  return damp == 0 ? 1e-6 : std::min(1.0, damp * 10);
}

template bool cholesky(float*, int64_t, int);
template bool cholesky(double*, int64_t, int);
template void cholesky_inverse(float*, int64_t, float*, int);
template void cholesky_inverse(double*, int64_t, double*, int);
template double live_diagonal(const float*, int64_t, double*);
template double live_diagonal(const double*, int64_t, double*);

}  // namespace spade

// Blocked right-looking Cholesky on packed panels (panels.h): each tile of the trailing matrix
// belongs to one task and each sum has one order, so that threads do not change a bit. Triangular
// solves are products with the inverses of the diagonal tiles. Bound by FMA.

#include "cpu/cholesky.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/isa.h"
#include "core/parallel.h"
#include "cpu/transpose4.h"

namespace spade {
namespace {

constexpr int64_t kPanelTile = kPanel * kPanel;
constexpr int64_t kBlock = 4;  // panels eliminated between two updates of the trailing matrix
constexpr int64_t kGroup = 4;  // tiles of one task, at least kBlock
constexpr int64_t kDepth = 4 * kPanel;  // terms of a piece of a long sum
constexpr double kParallelFlop = 2e6;   // work worth waking other threads

int no_state() { return 0; }

int threads_for(int64_t n, int threads) {
  return static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) < kParallelFlop
             ? 1
             : threads;
}

// A long sum in pieces whose rows of b stay in L2 while all rows of a pass over them.
template <class T>
void deep_product(Product<T> p, Sum sum) {
  const int64_t k = p.k;
  for (int64_t first = 0; first < k; first += kDepth) {
    p.k = std::min(kDepth, k - first);
    p.next = p.b + p.k * p.b_step;
    SPADE_DISPATCH(product(p, first > 0 && sum == Sum::set ? Sum::add : sum));
    p.a += p.k * p.a_step;
    p.b += p.k * p.b_step;
  }
}

template <class T>
class Factorisation {
 public:
  Factorisation(const Panels<T>& u, T* inverses, int threads, Progress& done)
      : u_(u), inverses_(inverses), threads_(threads), done_(done) {}

  bool run() {
    bool positive = diagonal(0);
    for (int64_t first = 0; positive && first < u_.count && !done_.stopped(); first += kBlock) {
      const int64_t last = end_of(first);
      parallel_for(threads_, u_.count - last, no_state,
                   [&](int, int64_t i) { solve(first, last, last + i); });
      positive = update(first, last);
    }
    return positive;
  }

 private:
  // Rows [first, last) of panel J.
  void solve(int64_t first, int64_t last, int64_t J) const {
    const T* left[kBlock];
    for (int64_t s = first; s < last; ++s) left[s - first] = u_.tile(first, s);
    SPADE_DISPATCH(panel_solve(left, inverses_ + first * kPanelTile, (last - first) * kPanel,
                               u_.tile(first, J)));
  }

  int64_t end_of(int64_t first) const { return std::min(u_.count, first + kBlock); }

  // U of the panels [first, end_of(first)) at their own rows; false if they are not positive
  // definite.
  bool diagonal(int64_t first) const {
    for (int64_t J = first; J < end_of(first); ++J) {
      solve(first, J, J);
      subtract(first, J, J, J, J);
      if (!SPADE_DISPATCH(panel_factor(u_.tile(J, J), inverses_ + J * kPanelTile,
                                       std::min(kPanel, u_.n - J * kPanel))))
        return false;
    }
    return true;
  }

  // A_IJ -= sum of U_tI^T U_tJ over panels t of [first, last); U_tK is next.
  void subtract(int64_t first, int64_t last, int64_t I, int64_t J, int64_t K) const {
    const Product<T> p{u_.tile(first, I),
                       1,
                       kPanel,
                       u_.tile(first, J),
                       kPanel,
                       (last - first) * kPanel,
                       u_.tile(I, J),
                       kPanel,
                       kPanel,
                       kPanel,
                       u_.tile(first, K)};
    SPADE_DISPATCH(product(p, Sum::subtract));
  }

  // The trailing matrix after panels [first, last), and then the diagonal of those that are next, a
  // chain of small steps: the first task, while other threads update the rest.
  bool update(int64_t first, int64_t last) const {
    const int64_t ahead = end_of(last);
    std::vector<std::pair<int64_t, int64_t>> tasks{{last, last}};
    for (int64_t J = ahead; J < u_.count; ++J)
      for (int64_t I = last; I <= J; I += kGroup) tasks.emplace_back(I, J);
    bool positive = true;
    parallel_for(threads_, static_cast<int64_t>(tasks.size()), no_state, [&](int, int64_t i) {
      const auto [I, J] = tasks[i];
      if (done_.stopped()) return;
      if (i > 0) {
        update_column(first, last, I, J);
        return;
      }
      for (int64_t K = last; K < ahead; ++K) update_column(first, last, last, K);
      positive = diagonal(last);
    });
    return positive;
  }

  // Tiles of rows [I, I + kGroup) of panel J.
  void update_column(int64_t first, int64_t last, int64_t I, int64_t J) const {
    for (int64_t K = I; K < std::min(I + kGroup, J + 1); ++K)
      subtract(first, last, K, J, K < J ? K + 1 : last);
  }

  const Panels<T>& u_;
  T* inverses_;
  const int threads_;
  Progress& done_;
};

}  // namespace

template <class S, class T>
void pack(const S* h, const double* diagonal, double shift, double scale, bool reversed,
          const Panels<T>& u, int threads) {
  const int64_t n = u.n;
  const T factor = static_cast<T>(scale);
  parallel_for(threads_for(n, threads), u.count, no_state, [&](int, int64_t I) {
    const int64_t top = I * kPanel, height = std::min(kPanel, n - top);
    for (int64_t J = I; J < u.count; ++J) {
      const int64_t left = J * kPanel, width = std::min(kPanel, n - left);
      T* tile = u.tile(I, J);
      if (std::min(height, width) < kPanel) std::fill(tile, tile + kPanelTile, T(0));
      if (reversed) {
        const S* last = h + (n - 1 - top) * n + n - 1 - left;
        for (int64_t i = 0; i < height; ++i)
          for (int64_t j = 0; j < width; ++j)
            tile[i * kPanel + j] = static_cast<T>(last[-i * n - j]) * factor;
      } else {
        S part[kPanelTile];
        for (int64_t j = 0; j < width; j += 4)  // few rows at once: they may share cache sets
          transpose(h + (left + j) * n + top, n, std::min<int64_t>(4, width - j), height, part + j,
                    kPanel);
        for (int64_t i = 0; i < height; ++i)
          for (int64_t j = 0; j < width; ++j)
            tile[i * kPanel + j] = static_cast<T>(part[i * kPanel + j]) * factor;
      }
    }
    T* tile = u.tile(I, I);
    for (int64_t i = 0; i < kPanel; ++i) {
      const int64_t at = reversed ? n - 1 - top - i : top + i;
      tile[i * (kPanel + 1)] =
          i < height ? static_cast<T>(diagonal[at] * scale + shift * scale) : T(1);
    }
  });
}

template <class T>
bool cholesky(const Panels<T>& u, T* inverses, int threads, Progress& done) {
  return Factorisation<T>(u, inverses, threads_for(u.n, threads), done).run();
}

template <class S>
void cholesky_inverse(const Panels<double>& u, const double* inverses, S* out, double* diagonal,
                      int threads, Progress& done) {
  const int64_t n = u.n, count = u.count;
  threads = threads_for(n, threads);
  // Y = U^-T, panel by panel, from the diagonal down: Y_sJ = U_ss^-T (I_sJ - sum_t U_ts^T Y_tJ).
  Buffer<double> y_all(count * (count + 1) / 2 * kPanelTile);
  const auto y = [&](int64_t J) {
    return y_all.get() + (J * count - J * (J - 1) / 2) * kPanelTile;
  };
  parallel_for(
      threads, count, [] { return Buffer<double>(kPanelTile); },
      [&](const Buffer<double>& right, int64_t J) {
        for (int64_t s = J; s < count && !done.stopped(); ++s) {
          std::fill(right.get(), right.get() + kPanelTile, 0.0);
          for (int64_t i = 0; s == J && i < kPanel; ++i) right[i * kPanel + i] = 1.0;
          const Product<double> sum{u.tile(J, s),     1,           kPanel, y(J),   kPanel,
                                    (s - J) * kPanel, right.get(), kPanel, kPanel, kPanel};
          deep_product(sum, Sum::subtract);
          const Product<double> solved{
              inverses + s * kPanelTile,   1,      kPanel, right.get(), kPanel, kPanel,
              y(J) + (s - J) * kPanelTile, kPanel, kPanel, kPanel};
          SPADE_DISPATCH(product(solved, Sum::set));
        }
      });
  // out = Y^T Y: tile (I, J) sums over the rows from I >= J down.
  parallel_for(
      threads, count, [] { return Buffer<double>(kPanelTile); },
      [&](const Buffer<double>& tile, int64_t I) {
        for (int64_t J = 0; J <= I && !done.stopped(); ++J) {
          const Product<double> sum{y(I),       1,
                                    kPanel,     y(J) + (I - J) * kPanelTile,
                                    kPanel,     (count - I) * kPanel,
                                    tile.get(), kPanel,
                                    kPanel,     kPanel};
          deep_product(sum, Sum::set);
          for (int64_t i = I * kPanel; i < std::min(n, (I + 1) * kPanel); ++i)
            for (int64_t j = J * kPanel; j < std::min(i + 1, (J + 1) * kPanel); ++j)
              out[i * n + j] = out[j * n + i] =
                  static_cast<S>(tile[(i - I * kPanel) * kPanel + j - J * kPanel]);
          for (int64_t i = I * kPanel; I == J && i < std::min(n, (I + 1) * kPanel); ++i)
            diagonal[i] = tile[(i - I * kPanel) * (kPanel + 1)];
        }
      });
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

template void pack(const float*, const double*, double, double, bool, const Panels<float>&, int);
template void pack(const float*, const double*, double, double, bool, const Panels<double>&, int);
template void pack(const double*, const double*, double, double, bool, const Panels<double>&, int);
template bool cholesky(const Panels<float>&, float*, int, Progress&);
template bool cholesky(const Panels<double>&, double*, int, Progress&);
template void cholesky_inverse(const Panels<double>&, const double*, float*, double*, int,
                               Progress&);
template void cholesky_inverse(const Panels<double>&, const double*, double*, double*, int,
                               Progress&);
template double live_diagonal(const float*, int64_t, double*);
template double live_diagonal(const double*, int64_t, double*);

}  // namespace spade

// Exact OBC of one row: blocked Cholesky of A = H^-1, whose pivots the caller chooses.
//
// Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), Algorithm 1, with
// the blocking of LAPACK's pstrf. A step takes column p of the stale matrix, corrects it by the
// panel,
//     u = (A[:,p] - U U[p,:]^T) / sqrt(A_pp),   w -= (w_p / sqrt(A_pp)) u,   diag(A) -= u^2,
// and appends u to U, and the last column takes p's place; after B steps A -= U U^T (obc_update.h).
// One thread runs a row. D^3/3 flop, nearly all in the update; the steps read D^2 B/4 entries of U
// from L2 and fetch D columns, which a long panel makes dearer and a short one more frequent
// updates.
#pragma once

#include <cmath>
#include <limits>
#include <utility>

#include "cpu/obc_tiles.h"
#include "cpu/obc_update.h"

namespace spade {
namespace SPADE_ISA {

template <class T>
class ObcRow {
 public:
  ObcRow(const ObcTask<T>& task, const T* weights, ObcScratch<T>& s)
      : task_(task),
        s_(s),
        stale_(task.hinv),
        w_(s.w.get()),
        diagonal_(s.diagonal.get()),
        column_(s.column.get()),
        size_(task.D),
        length_(panel_length(task.D)),
        ahead_(tiles_ahead<T>(task.D)) {
    for (int64_t i = 0; i < s.width; ++i) {
      const bool real = i < task.D;
      w_[i] = real ? weights[i] : kGone;
      diagonal_[i] = real ? stale_[packed_index(i, i)] : T(1);
      column_[i] = static_cast<int32_t>(i);
    }
    if (task.m > 0) std::fill_n(s.eliminated.get(), task.D / task.m, int64_t{0});
  }

  // Positions: columns move, so that one is good until the next apply() or next_panel().
  int64_t column(int64_t i) const { return column_[i]; }
  T weight(int64_t i) const { return w_[i]; }
  T diagonal(int64_t i) const { return diagonal_[i]; }
  // u of the last apply(), where that was not followed by next_panel().
  T newest(int64_t i) const { return panel(i / kObcTile, used_ - 1)[i % kObcTile]; }

  // fn(i) of each column that is left.
  template <class Fn>
  void each_left(Fn&& fn) const {
    for (int64_t i = 0; i < size_; ++i)
      if (!std::isnan(w_[i])) fn(i);
  }

  // Whether next_panel() must come before another apply().
  bool full() const { return used_ == length_; }

  // Position of the least w_j^2 / A_jj; ties: lowest original column. -1 if none is a number.
  int64_t rescan() const {
    Minima minima;
    for (int64_t I = 0; I < tiles(size_); ++I)
      for (int v = 0; v < N; ++v) {
        const int64_t i = I * kObcTile + v * L;
        minima.add(v, score(load(w_ + i), load(diagonal_ + i)), splat(static_cast<T>(I)));
      }
    return best(minima);
  }

  // Eliminate column p: read it, correct it by the panel, append it there, bring weights and
  // diagonal up to date. Returns the next pivot.
  int64_t apply(int64_t p) {
    T* coefficients = s_.coefficients.get();
    for (int64_t t = 0; t < used_; ++t) coefficients[t] = panel(p / kObcTile, t)[p % kObcTile];
    const T scale = T(1) / std::sqrt(diagonal_[p]), factor = w_[p] * scale;
    remove(p);
    const ColumnWalk<const T> column(stale_, p);
    const int64_t count = tiles(size_);
    for (int64_t I = 0; I < (ahead_ < count ? ahead_ : 0); ++I) column.prefetch(I);
    Minima minima;
    sweep<true>(column, 0, std::min(column.P, count), scale, factor, minima);
    sweep<false>(column, column.P, count, scale, factor, minima);
    ++used_;
    return fill(p, best(minima));
  }

  // Apply the panel to the matrix. The first panel reads the shared matrix: there the update writes
  // the row's own copy, in which holes can then be filled.
  void next_panel() {
    T* matrix = s_.matrix.get();
    const bool first = stale_ != matrix;
    if (first)
      update_matrix(stale_, matrix, s_.panel.get(), s_.panel_columns, used_, tiles(size_),
                    s_.expanded.get());
    stale_ = matrix;
    compact();
    if (!first)
      update_matrix(matrix, matrix, s_.panel.get(), s_.panel_columns, used_, tiles(size_),
                    s_.expanded.get());
    used_ = 0;
    length_ = panel_length(size_);
    ahead_ = tiles_ahead<T>(size_);
  }

 private:
  static constexpr int L = Simd<T>::lanes, N = kObcTile / L;  // N vectors a tile
  static constexpr T kGone = std::numeric_limits<T>::quiet_NaN();

  int64_t span() const { return tiles(size_) * kObcTile; }
  T* panel(int64_t I, int64_t t) const {
    return s_.panel.get() + (I * s_.panel_columns + t) * kObcTile;
  }

  // The least score of each lane, its tile, and whether the lane has met it twice: what a pass over
  // the columns keeps so that no scores are stored.
  struct Minima {
    Vec<T> least[N], tile[N];
    int tied = 0;

    Minima() {
      for (int v = 0; v < N; ++v) {
        least[v] = splat(std::numeric_limits<T>::infinity());
        tile[v] = splat(T(0));
      }
    }
    void add(int v, Vec<T> score, Vec<T> at) {  // a score that is not a number never wins
      tied |= equal_lanes<T>(score, least[v]) != 0;
      tile[v] = score < least[v] ? at : tile[v];
      least[v] = score < least[v] ? score : least[v];
    }
  };

  static Vec<T> score(Vec<T> w, Vec<T> diagonal) { return quotient(w * w, diagonal); }

  // Position of the least score; ties: lowest original column. -1 if no score is a number.
  int64_t best(const Minima& minima) const {
    // Without branches: where the least is, is random, so that they would be mispredicted.
    alignas(64) T tree[kObcTile], at[kObcTile];
    for (int v = 0; v < N; ++v) {
      store(tree + v * L, minima.least[v]);
      store(at + v * L, minima.tile[v]);
    }
    for (int half = kObcTile / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) tree[i] = tree[i + half] < tree[i] ? tree[i + half] : tree[i];
    const T least = tree[0];
    if (!(least < std::numeric_limits<T>::infinity())) return -1;
    unsigned where = 0;
    for (int v = 0; v < N; ++v) where |= equal_lanes<T>(minima.least[v], splat(least)) << (v * L);
    const int lane = __builtin_ctz(where);
    int64_t found = static_cast<int64_t>(at[lane]) * kObcTile + lane;
    const bool tied = minima.tied || (where & (where - 1)) != 0;
    if (!tied) return found;
    for (int64_t i = 0; i < span(); i += L) {
      const Vec<T> x = score(load(w_ + i), load(diagonal_ + i));
      if (equal_lanes<T>(x, splat(least)) == 0) continue;
      for (int l = 0; l < L; ++l)
        if (x[l] == least && column_[i + l] < column_[found]) found = i + l;
    }
    return found;
  }

  // Move the last column to position p, whose lines the sweep has just brought into the cache. A
  // first panel leaves the hole, as the shared matrix must stay. Returns where column `next` is
  // now.
  int64_t fill(int64_t p, int64_t next) {
    if (stale_ != s_.matrix.get()) {
      holes_ = true;
      return next;
    }
    while (size_ > 0 && std::isnan(w_[size_ - 1])) --size_;
    if (p >= size_) return next;
    move(--size_, p);
    return next == size_ ? p : next;
  }

  // The work of apply() on tiles [first, last): left of the diagonal or below it.
  template <bool left>
  void sweep(const ColumnWalk<const T>& column, int64_t first, int64_t last, T scale, T factor,
             Minima& result) {
    Minima minima = result;
    int64_t I = first;
    for (; I + 2 <= last; I += 2) sweep_tiles<left, 2>(column, I, scale, factor, minima);
    if (I < last) sweep_tiles<left, 1>(column, I, scale, factor, minima);
    result = minima;
  }

  // M tiles share the loads of the coefficients. Four chains of FMA hide their latency; locals keep
  // what the stores might alias in registers.
  template <bool left, int M>
  void sweep_tiles(const ColumnWalk<const T>& column, int64_t I, T scale, T factor,
                   Minima& minima) {
    constexpr int V = M * N, chains = 4 / M;
    const int64_t used = used_, stride = s_.panel_columns * kObcTile, count = tiles(size_);
    const T* __restrict coefficients = s_.coefficients.get();
    T* u_all = panel(I, 0);
    alignas(64) T entries[M][kObcTile];
    Vec<T> sum[V][chains] = {};
    for (int m = 0; m < M; ++m) {
      if (I + m + ahead_ < count) column.prefetch(I + m + ahead_);
      read_tile<left>(column, I + m, entries[m]);
    }
    const auto at = [&](int v, int64_t t) {
      return u_all + v / N * stride + t * kObcTile + v % N * L;
    };
    int64_t t = 0;
    for (; t + chains <= used; t += chains)
#pragma GCC unroll 4
      for (int k = 0; k < chains; ++k)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[v][k] += load(at(v, t + k)) * coefficients[t + k];
    for (; t < used; ++t)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[v][0] += load(at(v, t)) * coefficients[t];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      for (int k = 1; k < chains; ++k) sum[v][0] += sum[v][k];
      const int64_t i = I * kObcTile + v * L;
      const Vec<T> u = (load(entries[0] + v * L) - sum[v][0]) * scale;
      store(at(v, used), u);
      const Vec<T> w = load(w_ + i) - u * factor;
      const Vec<T> d = load(diagonal_ + i) - u * u;
      store(w_ + i, w);
      store(diagonal_ + i, d);
      minima.add(v % N, score(w, d), splat(static_cast<T>(I + v / N)));
    }
  }

  void forget(int64_t p) { w_[p] = kGone; }

  // Take p out; when its n:m group is full, the rest of the group is kept for good and leaves too.
  void remove(int64_t p) {
    forget(p);
    if (task_.m == 0) return;
    const int64_t group = column_[p] / task_.m;
    if (++s_.eliminated.get()[group] < task_.n) return;
    holes_ = true;
    for (int64_t i = 0; i < size_; ++i)
      if (column_[i] / task_.m == group) forget(i);
  }

  // Fill the holes that a first panel or n:m groups have left with columns from the end. The unused
  // end of the last tile holds no number and a zero panel.
  void compact() {
    int64_t hole = 0, last = size_ - 1;
    while (holes_) {
      while (hole < size_ && !std::isnan(w_[hole])) ++hole;
      while (last >= 0 && std::isnan(w_[last])) --last;
      if (hole >= last) break;
      move(last, hole);
    }
    holes_ = false;
    size_ = last + 1;
    for (int64_t i = size_; i < span(); ++i) {
      forget(i);
      diagonal_[i] = T(1);
      for (int64_t t = 0; t < used_; ++t) panel(i / kObcTile, t)[i % kObcTile] = T(0);
    }
  }

  // Column `from` takes the place of column `to` < `from`.
  void move(int64_t from, int64_t to) {
    move_column(s_.matrix.get(), from, to, ahead_);
    for (int64_t t = 0; t < used_; ++t)
      panel(to / kObcTile, t)[to % kObcTile] = panel(from / kObcTile, t)[from % kObcTile];
    w_[to] = w_[from];
    diagonal_[to] = diagonal_[from];
    column_[to] = column_[from];
    forget(from);
  }

  const ObcTask<T>& task_;
  ObcScratch<T>& s_;
  const T* stale_;
  T *w_, *diagonal_;
  int32_t* column_;
  int64_t size_;        // columns in the matrix, holes included
  int64_t used_ = 0;    // columns of the panel
  int64_t length_;      // columns it will have
  int64_t ahead_;       // tiles of a column fetched ahead
  bool holes_ = false;  // whether columns are gone that no other has replaced
};

}  // namespace SPADE_ISA
}  // namespace spade

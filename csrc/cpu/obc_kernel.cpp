// Exact OBC of one row: blocked Cholesky of A = H^-1, pivoted by argmin w_j^2 / A_jj.
//
// Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), Algorithm 1, with the
// blocking of LAPACK's pstrf. A step takes column p of the stale matrix, corrects it by the panel,
//     u = (A[:,p] - U U[p,:]^T) / sqrt(A_pp),   w -= (w_p / sqrt(A_pp)) u,   diag(A) -= u^2,
// and appends u to U; after B steps the survivors move together and A -= U U^T (obc_update.h).
// One thread runs a row. D^3/3 flop, nearly all in the update; the steps read D^2 B/2 entries of U, cut
// by correcting kCandidates likely pivots in one pass over U: the order stays that of the plain algorithm.

#include <cmath>
#include <limits>
#include <utility>

#include "cpu/obc_update.h"

namespace spade {
namespace SPADE_ISA {
namespace {

template <class T>
class Row {
 public:
  Row(const ObcTask<T>& task, const T* weights, ObcScratch<T>& s)
      : task_(task),
        s_(s),
        stale_(task.hinv),
        w_(s.w.get()),
        diagonal_(s.diagonal.get()),
        score_(s.score.get()),
        column_(s.column.get()),
        size_(task.D) {
    for (int64_t i = 0; i < s.width; ++i) {
      const bool real = i < task.D;
      w_[i] = real ? weights[i] : kGone;
      diagonal_[i] = real ? stale_[packed_index(i, i)] : T(1);
      score_[i] = w_[i] * w_[i] / diagonal_[i];
      column_[i] = static_cast<int32_t>(i);
    }
    if (task.m > 0) std::fill_n(s.eliminated.get(), task.D / task.m, int64_t{0});
  }

  int32_t eliminate(int32_t* order, T* loss) {
    for (int64_t step = 0; step < task_.steps; ++step) {
      if (used_ == task_.block) next_block();
      const int64_t p = best();
      const T pivot = p < 0 ? T(0) : diagonal_[p];
      if (!(pivot > 0)) {
        std::fill(order + step, order + task_.steps, -1);
        std::fill(loss + step, loss + task_.steps, kGone);
        return static_cast<int32_t>(step + 1);
      }
      order[step] = column_[p];
      loss[step] = T(0.5) * w_[p] * w_[p] / pivot;
      apply(slot_of(p), p);
      remove(p);
    }
    return 0;
  }

 private:
  static constexpr int L = Simd<T>::lanes, N = kTile / L;  // N vectors a tile
  static constexpr T kGone = std::numeric_limits<T>::quiet_NaN();
  static constexpr int C = kCandidates;

  int64_t span() const { return tiles(size_) * kTile; }
  T* panel(int64_t I, int64_t t) const { return s_.panel.get() + (I * task_.block + t) * kTile; }
  T* candidate(int slot) const { return s_.candidates.get() + slot * s_.width; }

  // Position of the least score; ties: lowest original column. -1 if no score is a number.
  int64_t best() const {
    Vec<T> least[N];
    for (auto& v : least) v = splat(std::numeric_limits<T>::infinity());
    for (int64_t i = 0; i < span(); i += kTile)
      for (int v = 0; v < N; ++v) {
        const Vec<T> x = load(score_ + i + v * L);
        least[v] = x < least[v] ? x : least[v];  // false for NaN
      }
    T minimum = std::numeric_limits<T>::infinity();
    for (const auto& v : least)
      for (int l = 0; l < L; ++l) minimum = v[l] < minimum ? v[l] : minimum;
    int64_t found = -1;
    for (int64_t i = 0; i < span(); i += kTile) {
      bool any = false;
      for (int v = 0; v < N; ++v) any |= any_equal<T>(load(score_ + i + v * L), splat(minimum));
      for (int64_t j = i; any && j < i + kTile; ++j)
        if (score_[j] == minimum && (found < 0 || column_[j] < column_[found])) found = j;
    }
    return found;
  }

  // Read column p of the stale matrix at positions [0, span). Its own entry is not meaningful.
  void gather(int64_t p, T* out) const {
    const int64_t P = p / kTile, at = p % kTile, row = at / 4 * 64 + at % 4 * 4;
    for (int64_t J = 0; J < P; ++J)  // left of the diagonal: a row of four blocks
      for (int q = 0; q < 4; ++q)
        for (int k = 0; k < 4; ++k)
          out[J * kTile + q * 4 + k] = stale_[tile_offset(P, J) + row + q * 16 + k];
    const int64_t column = at / 4 * 16 + at % 4;
    for (int64_t I = P; I < tiles(size_); ++I)
      for (int q = 0; q < 4; ++q)
        for (int k = 0; k < 4; ++k)
          out[I * kTile + q * 4 + k] = stale_[tile_offset(I, P) + column + q * 64 + k * 4];
  }

  // Write row and column p of the own matrix.
  void scatter(int64_t p, const T* in) {
    T* matrix = s_.matrix.get();
    const int64_t P = p / kTile, at = p % kTile, row = at / 4 * 64 + at % 4 * 4;
    for (int64_t J = 0; J <= P; ++J)
      for (int q = 0; q < 4; ++q)
        for (int k = 0; k < 4; ++k)
          matrix[tile_offset(P, J) + row + q * 16 + k] = in[J * kTile + q * 4 + k];
    const int64_t column = at / 4 * 16 + at % 4;
    for (int64_t I = P; I < tiles(size_); ++I)
      for (int q = 0; q < 4; ++q)
        for (int k = 0; k < 4; ++k)
          matrix[tile_offset(I, P) + column + q * 64 + k * 4] = in[I * kTile + q * 4 + k];
  }

  // The slot that holds column p, filling all slots with p and the likely next pivots if none does.
  int slot_of(int64_t p) {
    for (int slot = 0; slot < slots_; ++slot)
      if (position_[slot] == p) return slot;
    choose_candidates(p);
    T* coefficients = s_.coefficients.get();  // [used, C]: U at the candidates
    for (int slot = 0; slot < C; ++slot) {
      const int64_t at = position_[slot];
      gather(at, candidate(slot));
      corrected_[slot] = used_;
      for (int64_t t = 0; t < used_; ++t)
        coefficients[t * C + slot] = panel(at / kTile, t)[at % kTile];
    }
    if (used_ == 0) return 0;
    for (int64_t I = 0; I < tiles(size_); ++I)
      for (int v = 0; v < N; ++v) {
        Vec<T> sum[C] = {};
        const T* u = panel(I, 0) + v * L;
        for (int64_t t = 0; t < used_; ++t) {
          const Vec<T> x = load(u + t * kTile);
          for (int slot = 0; slot < C; ++slot) sum[slot] += x * coefficients[t * C + slot];
        }
        for (int slot = 0; slot < C; ++slot) {
          T* to = candidate(slot) + I * kTile + v * L;
          store(to, load(to) - sum[slot]);
        }
      }
    return 0;
  }

  // position_ = p and the least scores among the minima of each lane (spare slots repeat p).
  void choose_candidates(int64_t p) {
    T value[kTile];
    int64_t at[kTile];
    Vec<T> least[N], tile[N];
    for (int v = 0; v < N; ++v) {
      least[v] = splat(std::numeric_limits<T>::infinity());
      tile[v] = splat(T(-1));
    }
    for (int64_t I = 0; I < tiles(size_); ++I)
      for (int v = 0; v < N; ++v) {
        const Vec<T> x = load(score_ + I * kTile + v * L);
        tile[v] = x < least[v] ? splat(static_cast<T>(I)) : tile[v];
        least[v] = x < least[v] ? x : least[v];
      }
    int count = 0;
    for (int i = 0; i < kTile; ++i) {
      const int64_t position = static_cast<int64_t>(tile[i / L][i % L]) * kTile + i;
      if (position < 0 || position == p) continue;
      int k = count++;
      for (; k > 0 && value[k - 1] > least[i / L][i % L]; --k) {
        value[k] = value[k - 1];
        at[k] = at[k - 1];
      }
      value[k] = least[i / L][i % L];
      at[k] = position;
    }
    slots_ = C;
    position_[0] = p;
    for (int slot = 1; slot < C; ++slot) position_[slot] = slot <= count ? at[slot - 1] : p;
  }

  // Finish column p, append it to the panel, and bring weights, diagonal and scores up to date.
  void apply(int slot, int64_t p) {
    const T scale = T(1) / std::sqrt(diagonal_[p]), factor = w_[p] * scale;
    const int64_t from = corrected_[slot], late = used_ - from;
    T* coefficients = s_.coefficients.get();
    for (int64_t t = 0; t < late; ++t) coefficients[t] = panel(p / kTile, from + t)[p % kTile];
    const T* column = candidate(slot);
    for (int64_t I = 0; I < tiles(size_); ++I)
      for (int v = 0; v < N; ++v) {
        const int64_t i = I * kTile + v * L;
        Vec<T> u = load(column + i);
        const T* earlier = panel(I, from) + v * L;
        for (int64_t t = 0; t < late; ++t) u -= load(earlier + t * kTile) * coefficients[t];
        u *= scale;
        store(panel(I, used_) + v * L, u);
        const Vec<T> w = load(w_ + i) - u * factor;
        const Vec<T> d = load(diagonal_ + i) - u * u;
        store(w_ + i, w);
        store(diagonal_ + i, d);
        store(score_ + i, w * w / d);
      }
    ++used_;
  }

  void forget(int64_t p) { w_[p] = score_[p] = kGone; }

  // Take p out; when its n:m group is full, the rest of the group is kept for good and leaves too.
  void remove(int64_t p) {
    forget(p);
    if (task_.m == 0) return;
    const int64_t group = column_[p] / task_.m;
    if (++s_.eliminated.get()[group] < task_.n) return;
    for (int64_t i = 0; i < size_; ++i)
      if (column_[i] / task_.m == group) forget(i);
  }

  // Apply the panel to the matrix and move the remaining columns together. The first block reads the
  // shared matrix, so there the update comes first and writes the row's own copy.
  void next_block() {
    T* matrix = s_.matrix.get();
    const bool first = stale_ != matrix;
    if (first) update_matrix(stale_, matrix, s_.panel.get(), task_.block, used_, tiles(size_),
                             s_.expanded.get());
    stale_ = matrix;
    compact();
    if (!first) update_matrix(matrix, matrix, s_.panel.get(), task_.block, used_, tiles(size_),
                              s_.expanded.get());
    used_ = 0;
    slots_ = 0;
  }

  // Fill the holes with columns from the end; a tile's unused end holds no number and a zero panel.
  void compact() {
    int64_t hole = 0, last = size_ - 1;
    while (true) {
      while (hole < size_ && !std::isnan(w_[hole])) ++hole;
      while (last >= 0 && std::isnan(w_[last])) --last;
      if (hole >= last) break;
      move(last, hole);
    }
    size_ = last + 1;
    for (int64_t i = size_; i < span(); ++i) {
      forget(i);
      diagonal_[i] = T(1);
      for (int64_t t = 0; t < used_; ++t) panel(i / kTile, t)[i % kTile] = T(0);
    }
  }

  void move(int64_t from, int64_t to) {
    gather(from, candidate(0));
    scatter(to, candidate(0));
    for (int64_t t = 0; t < used_; ++t)
      panel(to / kTile, t)[to % kTile] = panel(from / kTile, t)[from % kTile];
    w_[to] = w_[from];
    diagonal_[to] = diagonal_[from];
    score_[to] = score_[from];
    column_[to] = column_[from];
    forget(from);
  }

  const ObcTask<T>& task_;
  ObcScratch<T>& s_;
  const T* stale_;
  T *w_, *diagonal_, *score_;
  int32_t* column_;
  int64_t size_;      // columns in the matrix, those gone in this block included
  int64_t used_ = 0;  // columns of the panel
  int slots_ = 0;     // candidates held; position and number of corrections of each:
  int64_t position_[C], corrected_[C];
};

}  // namespace

int32_t obc_row(const ObcTask<float>& task, const float* w, ObcScratch<float>& scratch,
                int32_t* order, float* loss) {
  return Row<float>(task, w, scratch).eliminate(order, loss);
}

int32_t obc_row(const ObcTask<double>& task, const double* w, ObcScratch<double>& scratch,
                int32_t* order, double* loss) {
  return Row<double>(task, w, scratch).eliminate(order, loss);
}

}  // namespace SPADE_ISA
}  // namespace spade

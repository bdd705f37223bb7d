// Exact OBC of one row, c consecutive columns at a time (group OBS).
//
// One step, blocks b still kept: b* = argmin w_b^T (A_bb)^-1 w_b, then with P = b*
//     w -= A[:,P] A_PP^-1 w_P,   A -= A[:,P] A_PP^-1 A[P,:].
// Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), section 4. Blocks
// go column by column through obc_row.h, which leaves A of the rest the same; their diagonal blocks
// are kept up to date beside it. In double. D^3 / 3 flop for A, D^2 c / 2 for the diagonal blocks,
// D^2 c / 6 for the scores, whose chains of steps run side by side for a vector of blocks.

#include <algorithm>
#include <limits>
#include <utility>

#include "cpu/obc_row.h"

namespace spade {
namespace SPADE_ISA {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

class BlockRow {
 public:
  BlockRow(const ObcTask<double>& task, const double* weights, ObcBlockScratch& s)
      : task_(task), s_(s), row_(task, weights, s.columns), left_(s.blocks) {
    const int64_t c = task.block;
    for (int64_t b = 0; b < s.blocks; ++b) {
      s.block_at[b] = static_cast<int32_t>(b);
      for (int64_t i = 0; i < c; ++i) {
        s.place[b * c + i] = static_cast<int32_t>(i * s.blocks + b);
        for (int64_t j = 0; j <= i; ++j) a(i, j)[b] = task.hinv[packed_index(b * c + i, b * c + j)];
      }
    }
    locate();
  }

  int32_t eliminate(int32_t* order, double* loss) {
    for (int64_t step = 0; step < task_.steps; ++step) {
      const int64_t best = least();
      if (best < 0 || !remove(best, order[step], loss[step])) {
        std::fill(order + step, order + task_.steps, -1);
        std::fill(loss + step, loss + task_.steps, kNaN);
        return static_cast<int32_t>(step + 1);
      }
      if (stopped_) break;
    }
    return 0;
  }

 private:
  double* a(int64_t i, int64_t j) const { return s_.a.get() + (i * (i + 1) / 2 + j) * s_.blocks; }

  // Where the columns that are left have moved to, and their weights.
  void locate() {
    row_.each_left([&](int64_t i) {
      const int32_t place = s_.place[row_.column(i)];
      s_.position[place] = static_cast<int32_t>(i);
      s_.w[place] = row_.weight(i);
    });
  }

  // Scores of the blocks at [first, + lanes of V): A_bb = L diag(d) L^T, z = L^-1 w, sum z_j^2 /
  // d_j; not a number where a d_j is not positive.
  template <class V>
  void score(int64_t first) {
    constexpr int64_t lanes = sizeof(V) / sizeof(double);
    const auto at = [](const double* p) {
      V v;
      std::memcpy(&v, p, sizeof v);
      return v;
    };
    double *lower = s_.lower.get(), *scaled = s_.row.get(), *z = scaled + task_.block * lanes;
    const auto l = [&](int64_t i, int64_t j) { return lower + (i * (i + 1) / 2 + j) * lanes; };
    V sum{};
    for (int64_t j = 0; j < task_.block; ++j) {  // scaled = d * row j of L
      V d = at(a(j, j) + first), rest = at(s_.w.get() + j * s_.blocks + first);
      for (int64_t k = 0; k < j; ++k) {
        const V entry = at(l(j, k)), product = entry * at(l(k, k));
        std::memcpy(scaled + k * lanes, &product, sizeof(V));
        d -= entry * product;
        rest -= entry * at(z + k * lanes);
      }
      d = d > V{} ? d : V{} + kNaN;
      const V inverse = 1.0 / d;
      std::memcpy(l(j, j), &d, sizeof(V));
      std::memcpy(z + j * lanes, &rest, sizeof(V));
      sum += rest * rest * inverse;
      for (int64_t i = j + 1; i < task_.block; ++i) {
        V entry = at(a(i, j) + first);
        for (int64_t k = 0; k < j; ++k) entry -= at(l(i, k)) * at(scaled + k * lanes);
        entry *= inverse;
        std::memcpy(l(i, j), &entry, sizeof(V));
      }
    }
    std::memcpy(s_.score.get() + first, &sum, sizeof(V));
  }

  // Place of the block of least score; ties: the lowest block. -1 if a score is not a number.
  int64_t least() {
    constexpr int64_t lanes = Simd<double>::lanes;
    int64_t first = 0;
    for (; first + lanes <= left_; first += lanes) score<Vec<double>>(first);
    if (first < left_ && left_ >= lanes) {
      score<Vec<double>>(left_ - lanes);
      first = left_;
    }
    for (; first < left_; ++first) score<double>(first);
    int64_t best = 0;
    for (int64_t b = 0; b < left_; ++b) {
      if (std::isnan(s_.score[b])) return -1;
      if (s_.score[b] < s_.score[best] ||
          (s_.score[b] == s_.score[best] && s_.block_at[b] < s_.block_at[best]))
        best = b;
    }
    return best;
  }

  // The blocks at two places change theirs; locate() follows before their weights are used.
  void swap(int64_t b, int64_t d) {
    const int64_t c = task_.block;
    if (b == d) return;
    for (int64_t i = 0; i < c; ++i) {
      for (int64_t j = 0; j <= i; ++j) std::swap(a(i, j)[b], a(i, j)[d]);
      std::swap(s_.position[i * s_.blocks + b], s_.position[i * s_.blocks + d]);
      std::swap(s_.place[s_.block_at[b] * c + i], s_.place[s_.block_at[d] * c + i]);
    }
    std::swap(s_.block_at[b], s_.block_at[d]);
  }

  // Eliminate the block at `best`; false if it is not positive definite.
  bool remove(int64_t best, int32_t& order, double& loss) {
    loss = 0.5 * s_.score[best];
    swap(best, --left_);
    order = s_.block_at[left_];
    for (int64_t i = 0; i < task_.block; ++i) {
      if (row_.full()) {
        if ((stopped_ = task_.stopped(task_.progress))) return true;
        row_.next_panel();
        locate();
      }
      const int64_t p = s_.position[i * s_.blocks + left_];
      if (!(row_.diagonal(p) > 0)) return false;
      row_.apply(p);
      row_.each_left([&](int64_t j) { s_.u[s_.place[row_.column(j)]] = row_.newest(j); });
      locate();
      update_blocks();
    }
    return true;
  }

  // A_bb -= u_b u_b^T
  void update_blocks() {
    for (int64_t i = 0; i < task_.block; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double* __restrict to = a(i, j);
        const double *ui = s_.u.get() + i * s_.blocks, *uj = s_.u.get() + j * s_.blocks;
        for (int64_t b = 0; b < left_; ++b) to[b] -= ui[b] * uj[b];
      }
  }

  const ObcTask<double>& task_;
  ObcBlockScratch& s_;
  ObcRow<double> row_;
  int64_t left_;  // blocks that are left: at places [0, left_)
  bool stopped_ = false;
};

}  // namespace

int32_t obc_block_row(const ObcTask<double>& task, const double* w, ObcBlockScratch& scratch,
                      int32_t* order, double* loss) {
  return BlockRow(task, w, scratch).eliminate(order, loss);
}

}  // namespace SPADE_ISA
}  // namespace spade

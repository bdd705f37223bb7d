// One block of kPanel eliminations of each row: rounds (obc_round.cuh) against the row's packed
// matrix, or against the shared H^-1 in the first block. One block of threads a row.
//
// At the end the kept columns move together: with m2 = m - pivots, each gone position below m2
// takes a kept column from [m2, m). The matrix itself is moved by the update that follows; here go
// w, the diagonal, and U in the form the update reads.
#pragma once

#include "cuda/obc_round.cuh"
#include "cuda/ptx.h"

namespace spade::cuda::obc {

struct PanelTask {
  ObcRows rows;
  int size, step, pivots;  // m; eliminations before this block; in this block
  bool update_follows, half;
};

template <int NT, int NI, int C>
constexpr size_t panel_shared_bytes(int size) {
  const size_t slots = static_cast<size_t>(size + 31) / 32 * 32;
  return C * slots * sizeof(float) + kPanel * C * sizeof(float) + NI * NT * sizeof(uint16_t);
}

// Columns on the move, by rank.
struct Movers {
  int position[kPanel], column[kPanel];
  float w[kPanel], diagonal[kPanel], scale[kPanel];
};

// A power of two s >= sqrt(diagonal): |u| <= s, as the squares of a row of U sum to at most the
// diagonal.
__device__ __forceinline__ float panel_scale(float diagonal) {
  const unsigned exponent = __float_as_uint(sqrtf(diagonal)) >> 23 & 255;
  return __uint_as_float((exponent < 254 ? exponent + 1 : 254) << 23);
}

template <int NT, int NI, int C>
__global__ void __launch_bounds__(NT, 512 / NT) obc_panel(PanelTask task) {
  SPADE_SHARED(RoundShared<C>, round_shared, 1);
  SPADE_SHARED(Movers, movers_shared, 1);
  SPADE_SHARED(int, hole_counts, NI* NT / 32);
  SPADE_SHARED(int, mover_counts, NI* NT / 32);
  SPADE_DYNAMIC_SHARED(float, dynamic);
  RoundShared<C>& s = *round_shared;
  Movers& movers = *movers_shared;
  const ObcRows& rows = task.rows;
  const int64_t r = blockIdx.x, at_row = r * rows.width;
  if (rows.info[r]) return;  // the row has stopped

  Round<NT, NI, C> round;
  const int tid = round.tid, m = task.size;
  RoundView view;
  view.slots = (m + 31) / 32 * 32;
  view.fetched = dynamic;
  view.coefficients = dynamic + C * view.slots;
  uint16_t* columns = reinterpret_cast<uint16_t*>(view.coefficients + kPanel * C);
  view.columns = columns;
  view.by_column = false;
  view.matrix = task.step ? rows.matrix + r * rows.matrix_size : rows.hinv;
  view.stride = task.step ? 0 : rows.D;
  view.panel = rows.panel + at_row * kPanel;
  view.panel_stride = rows.width;

#pragma unroll
  for (int k = 0; k < NI; ++k) {
    const int i = tid + k * NT;
    const bool in = i < m;
    round.w[k] = in ? rows.w[at_row + i] : 0.0f;
    round.diagonal[k] = in ? rows.diagonal[at_row + i] : 1.0f;
    columns[i] = static_cast<uint16_t>(in ? rows.column[at_row + i] : 0);
    if (in) round.alive |= 1u << k;
  }
  for (int t = 0; t < task.pivots;) {
    const int taken = round.run(s, view, t, task.pivots - t);
    if (taken == 0) return stop_row(rows, r, task.step + t, tid, NT);
    round.record(s, rows, r, task.step + t, taken);
    t += taken;
  }
  if (!task.update_follows) return;

  // What `diagonal` holds in memory until it is written below is from the start of the block.
  const float* before = rows.diagonal + at_row;
  const int m2 = m - task.pivots;
  unsigned holes = 0, moving = 0;
#pragma unroll
  for (int k = 0; k < NI; ++k) {
    const int i = tid + k * NT;
    if (i < m2 && !round.holds(k)) holes |= 1u << k;
    if (i >= m2 && round.holds(k)) moving |= 1u << k;
  }
  int rank[NI];
  round.rank_slots(moving, mover_counts, rank);
#pragma unroll
  for (int k = 0; k < NI; ++k) {
    if (!(moving >> k & 1)) continue;
    const int i = tid + k * NT;
    movers.position[rank[k]] = i;
    movers.column[rank[k]] = columns[i];
    movers.w[rank[k]] = round.w[k];
    movers.diagonal[rank[k]] = round.diagonal[k];
    movers.scale[rank[k]] = panel_scale(before[i]);
  }
  round.rank_slots(holes, hole_counts, rank);  // its barriers: movers are complete
  const float* panel = view.panel;
#pragma unroll
  for (int k = 0; k < NI; ++k) {
    const int i = tid + k * NT;
    if (i >= m2) continue;
    int source = i;
    float scale = panel_scale(before[i]);
    if (holes >> k & 1) {
      source = movers.position[rank[k]];
      scale = movers.scale[rank[k]];
      rows.column[at_row + i] = movers.column[rank[k]];
      rows.w[at_row + i] = movers.w[rank[k]];
      rows.diagonal[at_row + i] = movers.diagonal[rank[k]];
    } else {
      rows.w[at_row + i] = round.w[k];
      rows.diagonal[at_row + i] = round.diagonal[k];
    }
    rows.source[at_row + i] = source;
    rows.scale[at_row + i] = scale;
    if (task.half) {
      const float inverse = 1.0f / scale;
      const int64_t to = (at_row + i) * kPanel;
#pragma unroll 1
      for (int q = 0; q < kPanel; q += 8) {
        unsigned high[4], low[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float a = panel[(q + 2 * e) * rows.width + source] * inverse;
          const float b = panel[(q + 2 * e + 1) * rows.width + source] * inverse;
          const uint16_t ha = to_half(a), hb = to_half(b);
          high[e] = pack(ha, hb);
          low[e] = pack(to_half(a - from_half(ha)), to_half(b - from_half(hb)));
        }
        *reinterpret_cast<uint4*>(rows.high + to + q) =
            make_uint4(high[0], high[1], high[2], high[3]);
        *reinterpret_cast<uint4*>(rows.low + to + q) = make_uint4(low[0], low[1], low[2], low[3]);
      }
    } else if (source != i) {
#pragma unroll 8
      for (int q = 0; q < kPanel; ++q)
        view.panel[q * rows.width + i] = panel[q * rows.width + source];
    }
  }
}

}  // namespace spade::cuda::obc

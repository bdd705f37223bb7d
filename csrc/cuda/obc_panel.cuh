// One block of kPanel eliminations of each row: rounds (obc_round.cuh) against the row's packed
// matrix, or against its H^-1 in the first block. One block of threads per row. At the end the
// kept columns move together (obc_move.cuh).
#pragma once

#include "cuda/obc_move.cuh"

namespace spade::cuda::obc {

struct PanelTask {
  ObcRows rows;
  int step, pivots;  // eliminations before this block; in this block
  bool update_follows, half;
};

// For rows that hold at most `size` columns.
template <int NT, int NI, int C>
constexpr size_t panel_shared_bytes(int size) {
  static_assert(C >= 4, "the movers take the place of the fetched columns: 5 / 2 floats a slot");
  const size_t slots = static_cast<size_t>(size + 31) / 32 * 32;
  return C * slots * sizeof(float) + kPanel * C * sizeof(float) + NI * NT * sizeof(uint16_t);
}

template <int NT, int NI, int C>
__global__ void __launch_bounds__(NT, 512 / NT) obc_panel(PanelTask task) {
  SPADE_SHARED(RoundShared<C>, round_shared, 1);
  SPADE_SHARED(int, counts, 2 * NI * NT / 32);
  SPADE_DYNAMIC_SHARED(float, dynamic);
  RoundShared<C>& s = *round_shared;
  const ObcRows& rows = task.rows;
  const int64_t r = blockIdx.x, at_row = r * rows.width;
  if (rows.info[r]) return;  // the row has stopped

  Round<NT, NI, C> round;
  const int tid = round.tid, m = rows.size[r];
  RoundView view;
  view.slots = (m + 31) / 32 * 32;
  view.fetched = dynamic;
  view.coefficients = dynamic + C * view.slots;
  uint16_t* columns = reinterpret_cast<uint16_t*>(view.coefficients + kPanel * C);
  view.columns = columns;
  view.by_column = false;
  view.matrix = task.step ? rows.matrix + r * rows.matrix_size : rows.hinv.of(r);
  view.stride = task.step ? 0 : rows.D;
  view.panel = rows.panel + at_row * kPanel;
  view.panel_stride = rows.width;
  view.pattern = rows.pattern_of(r);

#pragma unroll
  for (int k = 0; k < NI; ++k) {
    const int i = tid + k * NT;
    const bool in = i < m;
    round.w[k] = in ? rows.w[at_row + i] : 0.0f;
    round.diagonal[k] = in ? rows.diagonal[at_row + i] : 1.0f;
    columns[i] = static_cast<uint16_t>(in ? rows.column[at_row + i] : 0);
    if (in) round.alive |= 1u << k;
  }
  int kept = m;
  for (int t = 0; t < task.pivots;) {
    const int taken = round.run(s, view, t, task.pivots - t);
    if (taken == 0) return stop_row(rows, r, task.step + t, tid, NT);
    round.record(s, rows, r, task.step + t, taken);
    kept -= round.left(s, view.pattern, taken);
    t += taken;
  }
  if (task.update_follows)
    move_together(round, rows, view, r, kept, task.half, counts, view.fetched);
}

}  // namespace spade::cuda::obc

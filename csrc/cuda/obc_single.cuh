// A whole row in one launch, for few columns: left-looking, so the shared H^-1 is all the matrix
// there is and U grows to all the steps.
//
// obc_single: one block per row, rounds as in obc_round.cuh. D^3 / 6 FMA and D^3 / 6q entries of U
// read at q pivots a round. Every kRepack eliminations the kept columns move to the first slots, so
// that whole warps fall idle and leave the multiprocessor to other rows.
// obc_warp: one warp per row, D <= 64, lane j holding rows j and j + 32 of A in registers: D^2
// shuffles and up to 2 D^2 FMA a lane; nothing but w, H^-1 and the results touches memory.
#pragma once

#include <type_traits>

#include "cuda/obc_move.cuh"

namespace spade::cuda::obc {

constexpr int kRepack = 64;

template <int NT, int NI, int C>
constexpr size_t single_shared_bytes(int D, int steps) {
  const size_t slots = static_cast<size_t>(D + 31) / 32 * 32;
  return C * (slots + static_cast<size_t>(steps)) * sizeof(float) + NI * NT * sizeof(uint16_t);
}

// Kept columns to the first slots, in their order.
template <int NT, int NI, int C>
__device__ __forceinline__ void repack(Round<NT, NI, C>& round, const RoundView& view,
                                       uint16_t* columns, int* counts, int kept) {
  int column[NI], rank[NI];
#pragma unroll
  for (int k = 0; k < NI; ++k) column[k] = columns[round.tid + k * NT];
  rank_slots<NT>(round.alive, counts, rank);  // its barriers: columns are read
#pragma unroll
  for (int k = 0; k < NI; ++k) {
    if (!round.holds(k)) continue;
    view.fetched[rank[k]] = round.w[k];
    view.fetched[view.slots + rank[k]] = round.diagonal[k];
    columns[rank[k]] = static_cast<uint16_t>(column[k]);
  }
  __syncthreads();  // all have moved
  round.alive = 0;
#pragma unroll
  for (int k = 0; k < NI; ++k) {
    const int i = round.tid + k * NT;
    if (i >= kept) continue;
    round.w[k] = view.fetched[i];
    round.diagonal[k] = view.fetched[view.slots + i];
    round.alive |= 1u << k;
  }
}

template <int NT, int NI, int C>
__global__ void __launch_bounds__(NT, 384 / NT) obc_single(ObcRows rows) {
  SPADE_SHARED(RoundShared<C>, round_shared, 1);
  SPADE_SHARED(int, counts, NI* NT / 32);
  SPADE_DYNAMIC_SHARED(float, dynamic);
  const int64_t r = blockIdx.x;
  const int D = rows.D, steps = rows.steps;
  Round<NT, NI, C> round;
  const int tid = round.tid;
  RoundView view;
  view.slots = (D + 31) / 32 * 32;
  view.fetched = dynamic;
  view.coefficients = dynamic + C * view.slots;
  uint16_t* columns = reinterpret_cast<uint16_t*>(view.coefficients + C * steps);
  view.columns = columns;
  view.by_column = true;
  view.matrix = rows.hinv.of(r);
  view.stride = D;
  view.panel = rows.panel + r * steps * D;
  view.panel_stride = D;
  view.pattern = rows.pattern_of(r);

#pragma unroll
  for (int k = 0; k < NI; ++k) {
    const int i = tid + k * NT;
    const bool in = i < D;
    round.w[k] = in ? rows.weights[r * D + i] : 0.0f;
    round.diagonal[k] = in ? view.matrix[static_cast<int64_t>(i) * D + i] : 1.0f;
    columns[i] = static_cast<uint16_t>(i);
    if (in) round.alive |= 1u << k;
  }
  if (rows.m > 0)
    for (int group = tid; group < D / rows.m; group += NT) view.pattern.gone[group] = 0;
  if (tid == 0) rows.info[r] = 0;
  int packed = D, kept = D;  // slots in use; columns that may still go
  for (int t = 0; t < steps;) {
    const int taken = round.run(*round_shared, view, t, steps - t);
    if (taken == 0) return stop_row(rows, r, t, tid, NT);
    round.record(*round_shared, rows, r, t, taken);
    t += taken;
    kept -= round.left(*round_shared, view.pattern, taken);
    if (packed - kept < kRepack) continue;
    packed = kept;
    repack(round, view, columns, counts, packed);
  }
}

constexpr int kWarpsOfBlock = 4;

// The value of `column`, which lane column % 32 holds. Every lane of the warp calls.
template <int kRows>
__device__ __forceinline__ float of_column(const float (&values)[kRows], int column) {
  float value = 0.0f;
#pragma unroll
  for (int h = 0; h < kRows; ++h) {  // shuffled before the choice: registers have no addresses
    const float other = __shfl_sync(~0u, values[h], column % 32);
    value = column / 32 == h ? other : value;
  }
  return value;
}

// D <= kColumns <= 64.
template <int kColumns>
__global__ void __launch_bounds__(32 * kWarpsOfBlock) obc_warp(ObcRows rows, int64_t count) {
  constexpr int kRows = (kColumns + 31) / 32;                          // of A, a lane
  using Columns = std::conditional_t<kRows == 1, uint32_t, uint64_t>;  // a bit each
  const int lane = static_cast<int>(threadIdx.x) & 31, D = rows.D;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarpsOfBlock + threadIdx.x / 32;
  if (r >= count) return;
  const float* hinv = rows.hinv.of(r);
  bool active[kRows];
  float w[kRows], diagonal[kRows], row[kRows][kColumns];  // row[h] = A[lane + 32 h, :]
#pragma unroll
  for (int h = 0; h < kRows; ++h) {
    const int j = lane + 32 * h;
    active[h] = j < D;
    w[h] = active[h] ? rows.weights[r * D + j] : 0.0f;
    diagonal[h] = active[h] ? hinv[j * D + j] : 1.0f;
#pragma unroll
    for (int k = 0; k < kColumns; ++k) row[h][k] = active[h] && k < D ? hinv[j * D + k] : 0.0f;
  }
  if (lane == 0) rows.info[r] = 0;
  Columns gone = 0;
  for (int t = 0; t < rows.steps; ++t) {
    unsigned key = kNever, least;
    int column = lane;  // of the lane's lower score
#pragma unroll
    for (int h = 0; h < kRows; ++h) {
      const unsigned offer = active[h] ? score_key(w[h], diagonal[h]) : kNever;
      if (offer >= key) continue;
      key = offer;
      column = lane + 32 * h;
    }
    const int p = __shfl_sync(~0u, column, least_lane(key, column, least));
    const float pivot = of_column(diagonal, p);
    if (least == 0 || least == kNever || !(pivot > 0)) return stop_row(rows, r, t, lane, 32);
    const float inverse_root = 1.0f / sqrtf(pivot);
    const float step = of_column(w, p) * inverse_root;
    if (lane == 0) {
      rows.order[r * rows.steps + t] = p;
      rows.loss[r * rows.steps + t] = 0.5f * key_score(least);
    }
    Columns leaving = Columns{1} << p;
    if (rows.m > 0) {
      gone |= leaving;
      const Columns group = (~Columns{0} >> (32 * kRows - rows.m)) << p / rows.m * rows.m;
      if (__popcll(gone & group) == rows.n) leaving = group;
    }
    float u[kRows];
#pragma unroll
    for (int h = 0; h < kRows; ++h) {
      u[h] = 0.0f;
#pragma unroll
      for (int k = 0; k < kColumns; ++k) u[h] = k == p ? row[h][k] : u[h];
      active[h] = active[h] && !(leaving >> (lane + 32 * h) & 1);
      u[h] = active[h] ? u[h] * inverse_root : 0.0f;
      w[h] -= step * u[h];
      diagonal[h] -= u[h] * u[h];
    }
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      const float other = __shfl_sync(~0u, u[k / 32], k % 32);
#pragma unroll
      for (int h = 0; h < kRows; ++h) row[h][k] -= u[h] * other;
    }
  }
}

}  // namespace spade::cuda::obc

// A whole row in one launch, for few columns: left-looking, so the shared H^-1 is all the matrix
// there is and U grows to all the steps.
//
// obc_single: one block a row, rounds as in obc_round.cuh. D^3 / 6 FMA and D^3 / 6q entries of U
// read at q pivots a round. Every kRepack eliminations the kept columns move to the first slots, so
// that whole warps fall idle and leave the multiprocessor to other rows.
// obc_warp: one warp a row, D <= 32, lane j holding row j of A in registers: D^2 FMA and as many
// shuffles a lane; nothing but w, H^-1 and the results touches memory.
#pragma once

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

// D <= kColumns <= 32.
template <int kColumns>
__global__ void __launch_bounds__(32 * kWarpsOfBlock) obc_warp(ObcRows rows, int64_t count) {
  const int lane = static_cast<int>(threadIdx.x) & 31, D = rows.D;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarpsOfBlock + threadIdx.x / 32;
  if (r >= count) return;
  const float* hinv = rows.hinv.of(r);
  bool active = lane < D;
  float w = active ? rows.weights[r * D + lane] : 0.0f;
  float diagonal = active ? hinv[lane * D + lane] : 1.0f;
  float row[kColumns];  // A[lane, :]
#pragma unroll
  for (int k = 0; k < kColumns; ++k) row[k] = active && k < D ? hinv[lane * D + k] : 0.0f;
  if (lane == 0) rows.info[r] = 0;
  unsigned gone = 0;
  for (int t = 0; t < rows.steps; ++t) {
    unsigned least;
    const int p = least_lane(active ? score_key(w, diagonal) : kNever, lane, least);
    const float pivot = __shfl_sync(~0u, diagonal, p);
    if (least == 0 || least == kNever || !(pivot > 0)) return stop_row(rows, r, t, lane, 32);
    const float inverse_root = 1.0f / sqrtf(pivot);
    const float step = __shfl_sync(~0u, w, p) * inverse_root;
    if (lane == p) {
      rows.order[r * rows.steps + t] = p;
      rows.loss[r * rows.steps + t] = 0.5f * key_score(least);
    }
    float u = 0.0f;
#pragma unroll
    for (int k = 0; k < kColumns; ++k) u = k == p ? row[k] : u;
    active = active && lane != p;
    if (rows.m > 0) {
      gone |= 1u << p;
      const unsigned group = (rows.m < 32 ? (1u << rows.m) - 1 : ~0u) << p / rows.m * rows.m;
      if (__popc(gone & group) == rows.n) active = active && !(group >> lane & 1);
    }
    u = active ? u * inverse_root : 0.0f;
    w -= step * u;
    diagonal -= u * u;
#pragma unroll
    for (int k = 0; k < kColumns; ++k) row[k] -= u * __shfl_sync(~0u, u, k);
  }
}

}  // namespace spade::cuda::obc

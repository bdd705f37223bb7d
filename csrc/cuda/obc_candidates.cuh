// The part of a round of exact OBC (obc_round.cuh) that one warp does alone: choose the C columns
// of least score among the offers of all warps, then eliminate on their C x C block.
#pragma once

#include "cuda/obc_rows.cuh"

namespace spade::cuda::obc {

template <int C>
struct RoundShared {
  unsigned key[32];  // offers of the warps
  int slot[32], column[32];
  int candidate[C];  // slot, -1: none
  int position[C];   // of the candidates in the matrix and the panel
  int candidate_column[C];
  unsigned bound;  // key of the best offer that is not a candidate
  float block[C * C];
  float w[C], diagonal[C];
  alignas(16) float factor[C * C];  // [candidate, pivot]: L
  int pivots;
  unsigned closing;                                   // bit e: pivot e fills its n:m group
  int pivot[C], pivot_candidate[C], pivot_column[C];  // slot, index among candidates, column
  int pivot_group[C];                                 // its n:m group
  float score[C], inverse_root[C], step[C];           // 1 / sqrt(A_pp), w_p / sqrt(A_pp)
  unsigned valid[32];
};

// For one warp: the C best of `offers` offers become candidates.
template <int C>
__device__ __forceinline__ void choose_candidates(RoundShared<C>& s, int offers, bool by_column) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  if (lane < C) s.candidate[lane] = s.position[lane] = -1;
  if (lane == 0) s.bound = kNever;
  __syncwarp();
  if (lane >= offers) return;
  const unsigned key = s.key[lane];
  const int column = s.column[lane];
  int rank = 0;
  for (int other = 0; other < offers; ++other) {
    const unsigned k = s.key[other];
    rank += k < key || (k == key && s.column[other] < column);
  }
  if (key == kNever) return;
  if (rank == C) s.bound = key;
  if (rank >= C) return;
  s.candidate[rank] = s.slot[lane];
  s.position[rank] = by_column ? column : s.slot[lane];
  s.candidate_column[rank] = column;
}

// For one warp: exact OBC on the candidate block, one candidate a lane, at most `most` pivots and
// while the best candidate is at most the bound.
template <int C>
__device__ __forceinline__ void simulate_pivots(RoundShared<C>& s, const GroupPattern& pattern,
                                                int most) {
  static_assert(C < 32, "`closing` is shifted by up to C");
  const int lane = static_cast<int>(threadIdx.x) & 31, c = lane < C ? lane : 0;
  bool active = lane < C && s.candidate[c] >= 0;
  const int column = active ? s.candidate_column[c] : INT32_MAX;
  float weight = active ? s.w[c] : 0.0f, pivot_value = active ? s.diagonal[c] : 1.0f;
  int group = -1, room = 0;  // eliminations that the candidate's group has left
  if (pattern.m > 0 && active) {
    group = column / pattern.m;
    room = pattern.n - pattern.gone[group];
  }
  float row[C];
#pragma unroll
  for (int k = 0; k < C; ++k) row[k] = active && s.candidate[k] >= 0 ? s.block[c * C + k] : 0.0f;
  int e = 0;
  unsigned closing = 0;
  for (; e < C && e < most; ++e) {
    unsigned least;
    const int p = least_lane(active ? score_key(weight, pivot_value) : kNever, column, least);
    if (least == 0 || least == kNever || (e > 0 && least > s.bound)) break;
    const float pivot = __shfl_sync(~0u, pivot_value, p);
    if (!(pivot > 0)) break;
    const float inverse_root = 1.0f / sqrtf(pivot);
    const float step = __shfl_sync(~0u, weight, p) * inverse_root;
    float u = 0.0f;
#pragma unroll
    for (int k = 0; k < C; ++k) u = k == p ? row[k] : u;
    active = active && lane != p;
    if (pattern.m > 0) {
      const int of_pivot = __shfl_sync(~0u, group, p);
      if (group == of_pivot) --room;
      if (__shfl_sync(~0u, room, p) == 0) {
        closing |= 1u << e;
        active = active && group != of_pivot;
      }
    }
    u = active ? u * inverse_root : 0.0f;
    if (lane < C) s.factor[lane * C + e] = u;
    if (lane == p) {
      s.pivot[e] = s.candidate[lane];
      s.pivot_candidate[e] = lane;
      s.pivot_column[e] = column;
      s.pivot_group[e] = group;
      s.score[e] = key_score(least);
      s.inverse_root[e] = inverse_root;
      s.step[e] = step;
    }
    __syncwarp();  // the factors are known to all
    weight -= step * u;
    pivot_value -= u * u;
#pragma unroll
    for (int k = 0; k < C; ++k) row[k] -= u * s.factor[k * C + e];
  }
  if (lane == 0) {
    s.pivots = e;
    s.closing = closing;
  }
}

}  // namespace spade::cuda::obc

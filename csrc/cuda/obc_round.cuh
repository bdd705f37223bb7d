// Rounds of exact OBC: several pivots at once, in the order of one at a time.
//
// A block holds one row: slot i = thread + k NT belongs to a thread, which keeps w and the diagonal
// of A there. A round
//   1. takes the C columns of least score as candidates (each warp offers its least few),
//   2. fetches their columns of the stale matrix and corrects them by the panel:
//      V[:,c] = A[:,c] - U U[c,:]^T,
//   3. lets one warp eliminate on the C x C candidate block alone (obc_candidates.cuh): pivots
//      p_0, p_1, ... with factors L,
//   4. has every thread apply them to its slots, u_e = (V[:,p_e] - sum_{f<e} u_f L_fe) /
//   sqrt(A_pp),
//      w -= f_e u_e, diag(A) -= u_e^2, and look for the first pivot that a column outside the
//      candidates undercuts,
//   5. commits the pivots before that one. The first is always right, so every round advances.
// Columns that an n:m pattern keeps for good leave as pivots do, with nothing to apply.
// Work of a round with t columns in the panel and m kept: C t m FMA and t m entries of U read.
#pragma once

#include "cuda/obc_candidates.cuh"

namespace spade::cuda::obc {

// How rounds see the matrix and the panel. Slots are positions in the row's own matrix, or, in a
// single launch, `columns` maps them to rows of the shared A.
struct RoundView {
  const float* matrix;
  int stride;      // of a square matrix; 0: packed
  bool by_column;  // positions are columns
  float* panel;    // [., panel_stride]
  int panel_stride;
  const uint16_t* columns;  // shared memory, by slot; each thread reads those of its slots
  float* fetched;           // shared memory [C, slots]: V
  int slots;
  float* coefficients;  // shared memory [t, C]: U at the candidates
  GroupPattern pattern;

  __device__ __forceinline__ int position(int slot) const {
    return by_column ? columns[slot] : slot;
  }
  __device__ __forceinline__ float entry(int i, int j) const {
    return stride ? matrix[static_cast<int64_t>(j) * stride + i] : matrix[packed_index(i, j)];
  }
};

template <int NT, int NI, int C>
struct Round {
  static constexpr int kWarps = NT / 32;
  static constexpr int kTwice = 2 * C / kWarps, kMost = 32 / kWarps;
  static constexpr int kOffers = kTwice < 2 ? 2 : kTwice < kMost ? kTwice : kMost;  // a warp
  static constexpr int kAhead = 4;              // columns of the panel
  static constexpr int kRows = NI > 1 ? 2 : 1;  // slots that share the reads of a coefficient
  static_assert(C <= 32 && C % 4 == 0 && kWarps * kOffers <= 32 && NI <= 32, "");

  float w[NI], diagonal[NI];
  unsigned alive = 0;  // bit k: slot k of this thread holds a column that may go
  unsigned mine = 0;   // bit k: that slot is a candidate
  int tid, lane, warp;

  __device__ __forceinline__ Round()
      : tid(static_cast<int>(threadIdx.x)), lane(tid & 31), warp(tid >> 5) {}

  __device__ __forceinline__ bool holds(int k) const { return alive >> k & 1; }

  // Run one round with t columns in the panel; returns the number of pivots taken, at most `most`,
  // 0 if there is none.
  __device__ __forceinline__ int run(RoundShared<C>& s, const RoundView& view, int t, int most) {
    offer(s, view);
    __syncthreads();  // offers are complete
    if (warp == 0) choose_candidates(s, kWarps * kOffers, view.by_column);
    __syncthreads();  // candidates are known
    fetch(s, view, t);
    __syncthreads();  // V and the candidate block are complete
    if (warp == 0) simulate_pivots(s, view.pattern, most);
    __syncthreads();  // pivots are known
    return apply(s, view, t);
  }

  __device__ __forceinline__ void offer(RoundShared<C>& s, const RoundView& view) {
    unsigned key[NI];
#pragma unroll
    for (int k = 0; k < NI; ++k) key[k] = holds(k) ? score_key(w[k], diagonal[k]) : kNever;
#pragma unroll 1
    for (int o = 0; o < kOffers; ++o) {
      unsigned best = kNever;
      int slot = -1, column = INT32_MAX;
#pragma unroll
      for (int k = 0; k < NI; ++k) {
        const int i = tid + k * NT;
        if (key[k] < best || (key[k] == best && best != kNever && view.columns[i] < column)) {
          best = key[k];
          slot = i;
          column = view.columns[i];
        }
      }
      unsigned least;
      const int owner = least_lane(best, column, least);
      if (lane == owner) {
        s.key[warp * kOffers + o] = least;
        s.slot[warp * kOffers + o] = slot;
        s.column[warp * kOffers + o] = column;
#pragma unroll
        for (int k = 0; k < NI; ++k)
          if (slot == tid + k * NT) key[k] = kNever;
      }
    }
  }

  __device__ __forceinline__ void fetch(RoundShared<C>& s, const RoundView& view, int t) {
    mine = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      const int slot = s.candidate[c];
      if (slot >= 0 && slot % NT == tid) mine |= 1u << slot / NT;
    }
    const float* panel = view.panel;
    for (int e = tid; e < t * C; e += NT) {
      const int at = s.position[e % C];
      view.coefficients[e] = at < 0 ? 0.0f : panel[e / C * view.panel_stride + at];
    }
    __syncthreads();  // coefficients are complete
#pragma unroll 1
    for (int k = 0; k < NI; k += kRows) {
      int at[kRows];
      bool on[kRows], any = false;
#pragma unroll
      for (int j = 0; j < kRows; ++j) any |= on[j] = k + j < NI && holds(k + j);
      if (!any) continue;
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const int held = on[j] ? k + j : on[0] ? k : k + kRows - 1;
        at[j] = view.position(tid + held * NT);
      }
      float v[kRows][C];
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const int p = s.position[c];
#pragma unroll
        for (int j = 0; j < kRows; ++j) v[j][c] = p < 0 || !on[j] ? 0.0f : view.entry(at[j], p);
      }
#pragma unroll 1
      for (int q = 0; q < t; q += kAhead) {
        float u[kAhead][kRows];  // loads in flight together
#pragma unroll
        for (int p = 0; p < kAhead; ++p)
#pragma unroll
          for (int j = 0; j < kRows; ++j)
            u[p][j] = q + p < t ? panel[(q + p) * view.panel_stride + at[j]] : 0.0f;
#pragma unroll
        for (int p = 0; p < kAhead; ++p) {
          if (q + p >= t) break;
#pragma unroll
          for (int c = 0; c < C; c += 4) {
            const float4 x = *reinterpret_cast<const float4*>(view.coefficients + (q + p) * C + c);
#pragma unroll
            for (int j = 0; j < kRows; ++j) {
              v[j][c] -= u[p][j] * x.x;
              v[j][c + 1] -= u[p][j] * x.y;
              v[j][c + 2] -= u[p][j] * x.z;
              v[j][c + 3] -= u[p][j] * x.w;
            }
          }
        }
      }
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        if (!on[j]) continue;
        const int i = tid + (k + j) * NT;
#pragma unroll
        for (int c = 0; c < C; ++c) view.fetched[c * view.slots + i] = v[j][c];
        if (!(mine >> (k + j) & 1)) continue;
        for (int c = 0; c < C; ++c) {
          if (s.candidate[c] != i) continue;
#pragma unroll
          for (int d = 0; d < C; ++d) s.block[c * C + d] = v[j][d];
        }
      }
    }
#pragma unroll
    for (int k = 0; k < NI; ++k) {
      if (!(mine >> k & 1)) continue;
      for (int c = 0; c < C; ++c) {
        if (s.candidate[c] != tid + k * NT) continue;
        s.w[c] = w[k];
        s.diagonal[c] = diagonal[k];
      }
    }
  }

  // Whether slot i with these values goes before pivot e.
  __device__ __forceinline__ bool undercuts(const RoundShared<C>& s, const RoundView& view, int e,
                                            int i, float weight, float value) const {
    const float left = weight * weight, right = s.score[e] * value;
    return left < right || value < 0 || (left == right && view.columns[i] < s.pivot_column[e]);
  }

  // Group of slot i if a pivot of the round fills one.
  __device__ __forceinline__ int group_of(const RoundView& view, unsigned closing, int i) const {
    return closing ? view.columns[i] / view.pattern.m : -1;
  }
  // Whether slot i leaves with pivot e: it is the pivot, or of the group that the pivot fills.
  __device__ __forceinline__ bool leaves(const RoundShared<C>& s, unsigned closing, int e, int i,
                                         int group) const {
    return i == s.pivot[e] || ((closing >> e & 1) && group == s.pivot_group[e]);
  }

  __device__ __forceinline__ int apply(RoundShared<C>& s, const RoundView& view, int t) {
    const int pivots = s.pivots;
    const unsigned closing = s.closing;
    unsigned valid = static_cast<unsigned>(pivots);
    float* panel = view.panel + t * view.panel_stride;
    float new_w[NI], new_diagonal[NI];
#pragma unroll
    for (int k = 0; k < NI; ++k) {
      new_w[k] = w[k];
      new_diagonal[k] = diagonal[k];
      if (!holds(k)) continue;
      const int i = tid + k * NT, at = view.position(i);
      const int group = group_of(view, closing, i);
      const bool outside = !(mine >> k & 1);
      bool live = true;
      float u[C];
#pragma unroll
      for (int e = 0; e < C; ++e) {
        if (e >= pivots) continue;
        const int c = s.pivot_candidate[e];
        live = live && !leaves(s, closing, e, i, group);
        float v = view.fetched[c * view.slots + i];
#pragma unroll
        for (int f = 0; f < e; ++f) v -= u[f] * s.factor[c * C + f];
        u[e] = live ? v * s.inverse_root[e] : 0.0f;
        new_w[k] -= s.step[e] * u[e];
        new_diagonal[k] -= u[e] * u[e];
        if (!live) continue;
        panel[e * view.panel_stride + at] = u[e];
        if (outside && e + 1 < pivots && undercuts(s, view, e + 1, i, new_w[k], new_diagonal[k]))
          valid = min(valid, static_cast<unsigned>(e + 1));
      }
    }
    valid = __reduce_min_sync(~0u, valid);
    if (lane == 0) s.valid[warp] = valid;
    __syncthreads();  // every warp's verdict is known, and the panel is written
    const int taken = static_cast<int>(__reduce_min_sync(~0u, s.valid[lane < kWarps ? lane : 0]));
    if (view.pattern.m > 0 && tid < taken) atomicAdd(view.pattern.gone + s.pivot_group[tid], 1);
#pragma unroll
    for (int k = 0; k < NI; ++k) {
      if (!holds(k)) continue;
      const int i = tid + k * NT, at = view.position(i);
      const int group = group_of(view, closing, i);
      for (int e = 0; e < taken; ++e)
        if (leaves(s, closing, e, i, group)) alive &= ~(1u << k);
      if (taken == pivots) {
        w[k] = new_w[k];
        diagonal[k] = new_diagonal[k];
      } else if (holds(k)) {
        for (int e = 0; e < taken; ++e) {
          const float u = panel[e * view.panel_stride + at];
          w[k] -= s.step[e] * u;
          diagonal[k] -= u * u;
        }
      }
    }
    return taken;
  }

  // How many columns left with the pivots just taken, those included.
  __device__ __forceinline__ int left(const RoundShared<C>& s, const GroupPattern& pattern,
                                      int taken) const {
    return taken + __popc(s.closing & ((1u << taken) - 1)) * (pattern.m - pattern.n);
  }

  // The pivots just taken, as steps `first`, `first` + 1, ... of row r.
  __device__ __forceinline__ void record(const RoundShared<C>& s, const ObcRows& rows, int64_t r,
                                         int first, int taken) const {
    if (tid >= taken) return;
    rows.order[r * rows.steps + first + tid] = s.pivot_column[tid];
    rows.loss[r * rows.steps + first + tid] = 0.5f * s.score[tid];
  }
};

}  // namespace spade::cuda::obc

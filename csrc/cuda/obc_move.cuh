// Kept columns that move to lower places: their ranks, and the end of a panel of obc_panel.cuh.
#pragma once

#include "cuda/obc_round.cuh"
#include "cuda/ptx.h"

namespace spade::cuda::obc {

// rank[k] = how many flagged slots (bit k: slot thread + k NT) come before slot k of this thread,
// in the order of slots. `counts`: shared memory [NI * NT / 32]. Every thread calls.
template <int NT, int NI>
__device__ __forceinline__ void rank_slots(unsigned flags, int* counts, int (&rank)[NI]) {
  constexpr int kWarps = NT / 32;
  const int tid = static_cast<int>(threadIdx.x), lane = tid & 31, warp = tid >> 5;
#pragma unroll
  for (int k = 0; k < NI; ++k) {
    const unsigned set = __ballot_sync(~0u, static_cast<int>(flags >> k & 1));
    rank[k] = __popc(set & ((1u << lane) - 1));
    if (lane == 0) counts[k * kWarps + warp] = __popc(set);
  }
  __syncthreads();  // counts are complete
  if (warp == 0) {
    int carry = 0;
    for (int first = 0; first < NI * kWarps; first += 32) {
      const int count = first + lane < NI * kWarps ? counts[first + lane] : 0;
      int sum = count;
      for (int by = 1; by < 32; by *= 2) {
        const int before = __shfl_up_sync(~0u, sum, static_cast<unsigned>(by));
        if (lane >= by) sum += before;
      }
      if (first + lane < NI * kWarps) counts[first + lane] = carry + sum - count;
      carry += __shfl_sync(~0u, sum, 31);
    }
  }
  __syncthreads();  // counts are sums
#pragma unroll
  for (int k = 0; k < NI; ++k) rank[k] += counts[k * kWarps + warp];
}

// A power of two s >= sqrt(diagonal): |u| <= s, as the squares of a row of U sum to at most the
// diagonal.
__device__ __forceinline__ float panel_scale(float diagonal) {
  const unsigned exponent = __float_as_uint(sqrtf(diagonal)) >> 23 & 255;
  return __uint_as_float((exponent < 254 ? exponent + 1 : 254) << 23);
}

// Columns on the move, by rank; at most half of the places are involved.
struct Movers {
  int *position, *column;
  float *w, *diagonal, *scale;

  // In shared memory [5, places / 2].
  __device__ __forceinline__ Movers(float* memory, int places) {
    const int half = places / 2;
    position = reinterpret_cast<int*>(memory);
    column = position + half;
    w = memory + 2 * half;
    diagonal = w + half;
    scale = diagonal + half;
  }
};

// U of the kept columns in the form that obc_update_half reads: row `to` of h and l is
// panel[:, source] / scale.
__device__ __forceinline__ void split_panel(const ObcRows& rows, const float* panel, int source,
                                            float scale, int64_t to) {
  const float inverse = 1.0f / scale;
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
    *reinterpret_cast<uint4*>(rows.high + to * kPanel + q) =
        make_uint4(high[0], high[1], high[2], high[3]);
    *reinterpret_cast<uint4*>(rows.low + to * kPanel + q) =
        make_uint4(low[0], low[1], low[2], low[3]);
  }
}

// The `kept` columns that may still go move together: each place below `kept` that has been left
// takes a column from beyond. Here go w, the diagonal and U; the matrix is moved by the update.
// `memory`: shared, 5 / 2 floats a place. `counts`: shared [2, NI * NT / 32].
template <int NT, int NI, int C>
__device__ __forceinline__ void move_together(const Round<NT, NI, C>& round, const ObcRows& rows,
                                              const RoundView& view, int64_t r, int kept, bool half,
                                              int* counts, float* memory) {
  const int64_t at_row = r * rows.width;
  const Movers movers(memory, view.slots);
  // What `diagonal` holds in memory until it is written below is from the start of the panel.
  const float* before = rows.diagonal + at_row;
  unsigned holes = 0, moving = 0;
#pragma unroll
  for (int k = 0; k < NI; ++k) {
    const int i = round.tid + k * NT;
    if (i < kept && !round.holds(k)) holes |= 1u << k;
    if (i >= kept && round.holds(k)) moving |= 1u << k;
  }
  int rank[NI];
  rank_slots<NT>(moving, counts, rank);
#pragma unroll
  for (int k = 0; k < NI; ++k) {
    if (!(moving >> k & 1)) continue;
    const int i = round.tid + k * NT;
    movers.position[rank[k]] = i;
    movers.column[rank[k]] = view.columns[i];
    movers.w[rank[k]] = round.w[k];
    movers.diagonal[rank[k]] = round.diagonal[k];
    movers.scale[rank[k]] = panel_scale(before[i]);
  }
  rank_slots<NT>(holes, counts + NI * NT / 32, rank);  // its barriers: movers are complete
  const float* panel = view.panel;
#pragma unroll
  for (int k = 0; k < NI; ++k) {
    const int i = round.tid + k * NT;
    if (i >= kept) continue;
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
    if (half) {
      split_panel(rows, panel, source, scale, at_row + i);
    } else if (source != i) {
#pragma unroll 8
      for (int q = 0; q < kPanel; ++q)
        view.panel[q * rows.width + i] = panel[q * rows.width + source];
    }
  }
  if (round.tid == 0) rows.size[r] = kept;
}

}  // namespace spade::cuda::obc
